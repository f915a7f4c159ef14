"""What a hosted agent is asked and what it answers, on the wire: JSON in protobuf, as workers are asked over the log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter

from agentfund.core.codec import dump_opinion, dump_state, load_opinion, load_state
from agentfund.core.context import MarketSnapshot, Snapshot, State
from agentfund.messages import Call, Opinion
from agentfund.rpc import gate_pb2 as pb
from agentfund.trading import Decision
from agentfund.workers.scenes import tell, understand

if TYPE_CHECKING:
    from agentfund.core.safety import Judged, SafetyWrapper

VERSION = 1
_CALLS: TypeAdapter[tuple[Call, ...]] = TypeAdapter(tuple[Call, ...])


def dump_question(agent: str, output: str, context: Snapshot, bars: int, *, code: str, nonce: bytes) -> pb.JudgeRequest:
    """Return what an agent is shown.

    Args:
        agent: who is asked.
        output: name of the output type that is expected.
        context: what it sees.
        bars: most bars of an instrument.
        code: digest that its code must have, empty for any.
        nonce: random bytes.
    """
    return pb.JudgeRequest(
        version=VERSION,
        nonce=nonce,
        agent=agent,
        output=output,
        code=code,
        market=_json(tell(context.market, bars)),
        state=b"" if isinstance(context, MarketSnapshot) else _json(_seen(context.state)),
        opinions=_json({name: dump_opinion(one) for name, one in context.opinions_read.items()}),
        decision=b"" if context.decision is None else _json(context.decision.model_dump(mode="json")),
    )


def load_question(asked: pb.JudgeRequest, agent: SafetyWrapper[Any], outputs: Mapping[str, type[BaseModel]]) -> Snapshot:
    """Return what an agent is shown.

    Raises:
        ValueError: it is no question to this agent; says why.
        KeyError: a part is missing.
        TypeError: a part is of another kind.
    """
    if asked.version != VERSION:
        raise ValueError(f"version {asked.version} of the question; this server understands {VERSION}")
    if asked.output != agent.output.__name__:
        raise ValueError(f"{agent.name} gives a {agent.output.__name__}, not a {asked.output}")
    if asked.code and asked.code != agent.agent.digest:
        raise ValueError(f"this server hosts another version of {agent.name}: update it, or the fund")
    if agent.sees_portfolio and not asked.state:
        raise ValueError(f"{agent.name} sees the portfolio, and the question has none")
    market = understand(json.loads(asked.market))
    state = load_state(json.loads(asked.state), outputs) if asked.state else State()
    opinions = {name: load_opinion(told, outputs) for name, told in json.loads(asked.opinions).items()}
    decision = Decision.model_validate(json.loads(asked.decision)) if asked.decision else None
    whole = Snapshot(state, market, {}, decision=decision)
    return whole.seen_by(agent.reads, opinions, decision, agent.sees_portfolio)


def dump_answer(judged: Judged, server: str, request_sha256: bytes) -> pb.JudgeReply:
    """Return an opinion and its ledger rows."""
    opinion, calls = judged
    return pb.JudgeReply(
        opinion=_json(dump_opinion(opinion)),
        calls=_json(_CALLS.dump_python(calls, mode="json")),
        server=server,
        request_sha256=request_sha256,
    )


def load_answer(told: pb.JudgeReply, output: type[BaseModel]) -> tuple[Opinion, Sequence[Call]]:
    """Return the opinion and its ledger rows.

    Raises:
        ValueError: it is none, or its value does not fit its output type.
    """
    opinion = load_opinion(json.loads(told.opinion), {output.__name__: output})
    return opinion, _CALLS.validate_python(json.loads(told.calls))


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _seen(state: State) -> dict[str, Any]:
    told = dump_state(state)
    told["fill_ids"] = [[]]  # the fold's own memory, which no agent looks at
    return told
