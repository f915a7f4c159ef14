"""An agent as a server hosts it: in its safety wrapper, with a thread of its own for what does not await."""

from __future__ import annotations

import asyncio
import inspect
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from agentfund.core.ledger import add, collecting
from agentfund.core.safety import SafetyWrapper
from agentfund.rpc.questions import load_question

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future

    from pydantic import BaseModel

    from agentfund.core.agent import Agent
    from agentfund.core.safety import Judged, SafetyLimits
    from agentfund.protocols import Clock
    from agentfund.rpc import gate_pb2 as pb

_log = logging.getLogger("agentfund")


class Host:
    """Hosts one agent.

    Questions are read, and an agent's plain function runs, in one thread: the agent is never run twice at the same moment,
    and the gate does not wait for it. What an agent awaits is awaited side by side.

    Args:
        agent: whom it hosts.
        limits: what the agent may do at most.
        outputs: output types by name.
        concurrency: questions at a time; more wait for their turn.
        clock: measures how long the agent takes.
    """

    def __init__(
        self,
        agent: Agent[Any],
        limits: SafetyLimits | None,
        outputs: Mapping[str, type[BaseModel]],
        concurrency: int,
        clock: Clock,
    ) -> None:
        self.agent = SafetyWrapper(agent, limits, clock=clock)
        self._outputs = outputs
        self._free = asyncio.Semaphore(concurrency)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"agentfund-{agent.name}")

    async def judge(self, question: pb.JudgeRequest) -> Judged:
        """Return the agent's opinion; whatever fails is an unavailable one. Cancellation passes through."""
        async with self._free:
            with collecting() as abandoned:
                try:
                    return await self._judge(question)
                except asyncio.CancelledError:
                    if abandoned:
                        paid = add(call.billed_usd for call in abandoned)
                        _log.warning("nobody waited for %s any more; %s USD were billed", self.agent.name, paid)
                    raise

    def close(self) -> None:
        """Let go of the thread; what runs in it ends by itself."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _judge(self, question: pb.JudgeRequest) -> Judged:
        begun = self._thread.submit(self._begin, question)
        try:
            judged = await asyncio.wrap_future(begun)
        except asyncio.CancelledError:
            begun.add_done_callback(_discard)
            raise
        except (ValueError, KeyError, TypeError) as error:
            return self.agent.refused(f"the question is not understood: {type(error).__name__}: {error}"), ()
        answer: Judged = await judged if inspect.isawaitable(judged) else judged
        return answer

    def _begin(self, question: pb.JudgeRequest) -> Any:
        return self.agent.opine(load_question(question, self.agent, self._outputs))


def _discard(begun: Future[Any]) -> None:
    """Close a coroutine that nobody will await."""
    if not begun.cancelled() and begun.exception() is None and inspect.iscoroutine(begun.result()):
        begun.result().close()
