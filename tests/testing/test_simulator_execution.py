"""Funds behind an execution, under a watchdog, at brokers that take fills back: what they survive, and planted bugs found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentfund.core.context import State
from agentfund.core.dealing import Dealing
from agentfund.core.keeping import Keeping
from agentfund.core.orchestrator import Orchestrator
from agentfund.core.permission import FREE
from agentfund.execution.execution import Execution
from agentfund.testing import Ports, World
from agentfund.testing.simulator.campaign import calm, drawn, every_crash, with_one
from agentfund.testing.simulator.faults import KINDS, Fault
from agentfund.testing.simulator.schedule import parse
from agentfund.testing.simulator.worlds import WORLDS, small, watched
from agentfund.trading import Permit
from tests.testing.test_simulator_campaign import holds

NEW = ("unruly", "watched", "keys", "keys_once", "apart", "apart_once")
FUND = {
    *("last", "read", "stream", "bar", "account", "fills", "orders", "submit"),
    *("publish Started", "publish Decided", "publish Intended", "publish Answered", "publish Filled", "publish Observed"),
}
JOURNAL = {"publish Sending", "publish Sent"}
HALTED = {"publish Levelled", "cancel"}
CALLS = {f"call {name}" for name in ("account", "orders", "fills", "busts", "submit", "cancel")}
BOUNDARIES = {
    "unruly": FUND | {"busts", "cancel"},
    "watched": FUND | HALTED,
    "keys": FUND | JOURNAL | {"busts"},
    "keys_once": FUND | JOURNAL,
    "apart": FUND | JOURNAL | HALTED | CALLS | {"busts"},
    "apart_once": FUND | JOURNAL | HALTED | CALLS,
}
"""Every kind of operation of these worlds around which a process can die: a new one has to be written down here."""


@pytest.mark.parametrize("name", NEW)
def test_a_process_may_die_around_every_kind_of_operation(name: str) -> None:
    """Before and after the first of each, halts included; the list is complete."""
    world = WORLDS[name].never_calm()
    outcome = world.run(0, world.during)
    assert outcome, outcome.violations
    mortal = KINDS["crash_before"].points
    places = {what: found for what, found in outcome.places.items() if what.split()[0] in mortal and what != "publish"}
    assert set(places) == BOUNDARIES[name]
    for found in places.values():
        point, _, number = found[0].partition("#")
        for kind in ("crash_before", "crash_after"):
            schedule = with_one(world.during, Fault(point, int(number), kind))
            died = world.run(0, schedule)
            assert died.lives > outcome.lives
            assert died, (died.violations, schedule)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NEW)
def test_a_process_may_die_at_every_single_one(name: str) -> None:
    """All of them, one by one."""
    report = every_crash(WORLDS[name])
    assert report, report
    assert len(report.places) == report.boundaries > 300


# -- what campaigns have found -----------------------------------------------------------------------------------------


def test_a_position_is_closed_in_a_cycle_that_has_ordered_before() -> None:
    """The intent of the closing order is a message of its own beside that of the cycle's order."""
    holds("watched", [f"permit#{number}:kill(300)" for number in range(40, 600, 40)], (5,))


def test_a_lease_that_came_back_while_the_fund_was_down_is_on_the_log() -> None:
    """The log says what the watchdog said last, though nobody was there to hear it."""
    holds("watched", [f"permit#{number}:lost(300),publish#{write}:crash_after(700)" for number, write in ((90, 9), (323, 22))])


def test_a_fund_knows_the_orders_by_which_its_execution_has_closed_positions() -> None:
    """They are on its log, and so are their fills; they are nobody else's."""
    holds("apart", [f"permit#{number}:kill(300)" for number in range(40, 1200, 80)], (1,))
    holds("apart_once", [f"permit#{number}:kill(300)" for number in (176, 242, 480)], (36, 59))


def test_an_order_that_a_dead_process_left_is_not_sent_into_a_halt() -> None:
    """After the restart the halt stands, and nobody knows whether it was sent before."""
    holds("watched", [f"submit#3:crash_before(5),permit#{look}:halt(300)" for look in range(205, 230)])


# -- teeth -------------------------------------------------------------------------------------------------------------


def names(world: World, *schedules: str, seeds: int = 1) -> set[str]:
    """Return the invariants that these schedules break."""
    return {one.name for text in schedules for seed in range(seeds) for one in world.run(seed, parse(text)).violations}


def named(world: World, name: str, most: int = 200) -> bool:
    """Whether some drawn schedule breaks an invariant."""
    counts = calm(world).counts
    return any(one.name == name for seed in range(most) for one in world.run(seed, drawn(world, seed, counts)).violations)


def halts(world: World) -> set[str]:
    """Return the invariants that halts break, one after the other: long enough for all to be calm."""
    return names(world, *(f"{given},permit#{look}:{kind}(1500)" for kind in ("halt", "kill") for given, look in HALTING))


HALTING = [(f"submit#{number}:no_fill", look) for number in (1, 2, 3) for look in (30, 60, 90, 120, 150, 180)]


def test_a_fund_that_does_not_listen_to_its_watchdog() -> None:
    """It orders on under a halt, and without a lease."""

    class Deaf:
        def __init__(self, asked: Any) -> None:
            self._asked = asked

        def now(self) -> Permit:
            self._asked.now()
            return FREE

    def deaf(ports: Ports) -> Orchestrator:
        return small(ports, permission=Deaf(ports.permission))

    for kind in ("halt", "lost", "reduce", "kill"):
        assert "halted" in names(World(deaf), f"permit#40:{kind}(1500)")


def test_an_entry_that_nobody_takes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fills under the halt, some day."""

    async def nothing(self: Dealing, state: State, symbol: str | None = None) -> list[Any]:
        return []

    monkeypatch.setattr(Dealing, "take_back", nothing)
    assert "resting" in halts(World(watched))


def test_a_position_that_nobody_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Level 4 is more than level 3."""

    async def nothing(self: Keeping, symbol: str, allowed: Permit) -> None:
        pass

    monkeypatch.setattr(Keeping, "_close", nothing)
    held = [f"permit#{look}:kill(1500)" for look in range(300, 400, 20)]
    assert "killed" in names(World(watched), *held)


def test_a_level_that_is_not_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads the log does not know of the halt."""
    monkeypatch.setattr(Keeping, "note", lambda self, allowed: allowed)
    assert "level" in halts(World(watched))


def test_a_stranger_that_nobody_minds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else trades on the account, and the fund goes on."""
    compare = Dealing.compare

    async def blind(self: Dealing, state: State, lots: Any) -> bool:
        self._foreign = ()
        return await compare(self, state, lots)

    monkeypatch.setattr(Dealing, "compare", blind)
    assert "stranger" in names(World(small, unruly=True), *(f"orders#{number}:foreign(500)" for number in range(2, 14)))


def test_a_fill_that_was_taken_back_and_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log holds what nobody has."""
    monkeypatch.setattr(State, "_busted", lambda self, fill_id: self)
    assert "books" in names(World(small, unruly=True), *(f"submit#{number}:bust(500)" for number in (1, 2, 3)))


def test_a_fill_that_is_passed_over_because_later_ones_came_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fills are a set, and no stream with a newest one."""
    fills = Dealing.fills

    async def newest(self: Dealing, market: Any, state: State) -> Any:
        told = await fills(self, market, state)
        last = state.fills[-1].time if state.fills else self.since
        return [fill for fill in told if fill.time >= last]

    monkeypatch.setattr(Dealing, "fills", newest)
    assert "fill_once" in names(World(small, unruly=True), *(f"fills#{number}:withheld(900)" for number in range(2, 30)))


LOST = [f"submit#{number}:{kind}" for number in (1, 2, 3) for kind in ("crash_after", "lost_reply", "crash_before")]


@pytest.mark.parametrize(("world", "invariant"), [("keys", "sent_once"), ("keys_once", "sent_once")])
def test_an_execution_that_sends_again(world: str, invariant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a broker that dedupes it is one order; the execution must not rely on it."""

    async def again(self: Execution, order: Any) -> Any:
        return await self._send(order)

    monkeypatch.setattr(Execution, "_again", again)
    lively = [f"publish#{number}:{kind}" for number in range(3, 40) for kind in ("crash_after", "lost_ack")]
    assert invariant in names(WORLDS[world], *LOST, *lively)


def test_an_execution_that_writes_nothing_down_before_it_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash nobody knows that it was sent."""

    async def claims(self: Execution, order: Any) -> bool:
        return True

    monkeypatch.setattr(Execution, "_claim", claims)
    assert "journal" in names(WORLDS["keys"], "none")


def test_an_execution_that_takes_a_shrug_for_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that knows no ids says that it has no such order, and it comes all the same."""

    async def cancel(self: Execution, order_id: str) -> Any:
        return await self._broker.cancel(order_id)

    monkeypatch.setattr(Execution, "cancel", cancel)
    silent = [f"submit#{number}:{kind}" for number in (1, 2, 3) for kind in ("unavailable", "late(50)")]
    assert "fate" in names(WORLDS["keys_once"], *silent)
    monkeypatch.undo()
    assert not names(WORLDS["keys_once"], *silent)


def test_an_execution_that_takes_silence_for_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """An order of which nothing was heard is called rejected."""
    from agentfund.errors import BrokerUnavailable, OrderRejected

    send = Execution._send

    async def hasty(self: Execution, order: Any) -> Any:
        try:
            return await send(self, order)
        except BrokerUnavailable as error:
            raise OrderRejected(str(error)) from error

    monkeypatch.setattr(Execution, "_send", hasty)
    assert "fate" in names(WORLDS["keys_once"], *LOST)


Judge = Callable[..., None]


def test_an_execution_that_looks_at_the_halt_before_it_writes_and_not_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log was slow, and the halt came meanwhile."""
    judge: Judge = Execution._judge
    seen: set[str] = set()

    def once(self: Execution, order: Any, past: Any, account: Any) -> None:
        if order.id not in seen:
            seen.add(order.id)
            judge(self, order, past, account)

    world = WORLDS["apart"].never_calm()
    sending = world.run(0).places["publish Sending"][0]
    schedules = [f"{sending}:slow(60),permit#{look}:halt(300)" for look in range(40, 140, 2)]
    assert not names(world, *schedules[::8])
    monkeypatch.setattr(Execution, "_judge", once)

    def fresh(text: str) -> set[str]:
        seen.clear()
        return names(world, text)

    assert any("halted" in fresh(text) for text in schedules)
