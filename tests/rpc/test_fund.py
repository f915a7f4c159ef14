"""A fund with a second gate: it is asked about each order that the limits allow, and can deny and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from agentfund import Limits
from agentfund.core.gate import Denial, Scene
from agentfund.errors import ConfigError
from agentfund.rpc import GateServer, RemoteGate
from agentfund.trading import Decision, Mode, Order, Outcome
from tests.market import bars, blind, broker, buyer, fund, wave, yes


def decided(gate: Any, limits: Limits | None = None, **options: Any) -> Sequence[Decision]:
    """Return the decisions of a fund with this gate."""

    async def run() -> list[Decision]:
        one = fund(buyer, yes, blind, gate=gate, limits=limits, **options)
        return [decision async for decision in one.run(bars(wave(12)), broker())]

    return asyncio.run(run())


def test_what_both_gates_allow_is_ordered() -> None:
    """The same trades as without the second gate."""
    with GateServer("127.0.0.1:0", Limits()) as server, RemoteGate(server.address) as gate:
        found = decided(gate)
    assert [one.outcome for one in found] == [one.outcome for one in decided(None)]
    assert Outcome.ORDERED in {one.outcome for one in found}


def test_the_second_gate_denies_by_limits_of_its_own() -> None:
    """Its code and its reason stand in the decision, and so in the log."""
    tight = Limits(max_order_pct=1)
    with GateServer("127.0.0.1:0", tight) as server, RemoteGate(server.address) as gate:
        found = decided(gate)
    assert {(one.outcome, one.decided_by, one.code) for one in found} == {(Outcome.DENIED, "gate", "order_size")}
    assert "1 % of equity" in found[0].reason


def test_a_gate_that_is_gone_denies_everything() -> None:
    """No answer is a no."""
    gate = RemoteGate("127.0.0.1:1")
    assert {(one.outcome, one.code) for one in decided(gate)} == {(Outcome.DENIED, "gate_unavailable")}
    gate.close()


class Asked:
    """A gate that notes what it was asked, and answers what it was given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.orders: list[Order] = []

    async def ask(self, order: Order, scene: Scene) -> Denial | None:
        """Answer."""
        self.orders.append(order)
        if isinstance(self.answer, Exception):
            raise self.answer
        answer: Denial | None = self.answer
        return answer


def test_what_the_limits_deny_is_not_asked() -> None:
    """The fund's own gate cannot be overruled."""
    gate = Asked(None)
    assert {one.code for one in decided(gate, Limits(max_order_pct=1))} == {"order_size"}
    assert gate.orders == []


@pytest.mark.parametrize("answer", [True, "allow", Decimal(1), RuntimeError("broken")], ids=["True", "text", "number", "error"])
def test_whatever_is_no_clear_yes_is_a_no(answer: Any) -> None:
    """Also from a gate that somebody else wrote."""
    gate = Asked(answer)
    assert {(one.outcome, one.code) for one in decided(gate)} == {(Outcome.DENIED, "gate_error")}
    assert gate.orders


def test_a_gate_that_cannot_be_asked_is_refused() -> None:
    """When the fund is put together."""
    with pytest.raises(ConfigError, match="gate=RemoteGate"):
        fund(gate="127.0.0.1:50051")


def test_the_log_says_that_there_is_a_second_gate() -> None:
    """A run with it is another run than one without."""
    with_it, without = fund(gate=Asked(None)).describe()["settings"], fund().describe()["settings"]
    assert (with_it.pop("gate"), with_it) == ("Asked", without)


async def test_a_person_does_not_overrule_it() -> None:
    """In supervised mode it is asked before and after the person, about the market of then."""
    from agentfund.core.approval import Approval, ApprovalRequest

    def person(request: ApprovalRequest) -> Approval:
        return Approval(True, request.order_hash, "ann")

    gate = Asked(None)
    one = fund(buyer, yes, blind, gate=gate, mode=Mode.SUPERVISED, approver=person)
    found = [decision async for decision in one.run(bars(wave(6)), broker())]
    assert [decision.outcome for decision in found] == [Outcome.ORDERED]
    assert len(gate.orders) == 2
