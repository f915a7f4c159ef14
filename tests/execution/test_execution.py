"""The holder of the keys: what it sends was meant, is allowed now, and was never sent before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agentfund import Limits, MemoryBus
from agentfund.core.limits import OFF
from agentfund.core.permission import UNWATCHED
from agentfund.errors import BrokerUnavailable, ConfigError, OrderRejected, OrderUnseen
from agentfund.execution.execution import Execution
from agentfund.execution.remote import RemoteExecution
from agentfund.execution.server import application
from agentfund.messages import Decided, Intended, Message, Observed, Started
from agentfund.serving import served, token_in
from agentfund.trading import Decision, Direction, Level, Order, OrderState, OrderStatus, Outcome, Side
from tests.core.test_hostile import Real
from tests.core.test_keeping import Word
from tests.market import START

LOOSE = Limits(require_hours=False, require_quote=False, max_volume_pct=OFF)
TOKEN = "a-token-that-nobody-guesses"


class Stopped:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.moment = START

    def now(self) -> Any:
        """Return the moment."""
        return self.moment

    def monotonic(self) -> float:
        """Return seconds."""
        return (self.moment - START).total_seconds()

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.moment += timedelta(seconds=seconds)
        await asyncio.sleep(0)


def order(name: str = "entry", **options: Any) -> Order:
    """Return an entry, or what options make of it."""
    given = {"quantity": Decimal(10), "stop_loss": Decimal(98), "decision": f"d-{name}", **options}
    return Order(name, "SIM", given.pop("side", Side.BUY), time=START, **given)


async def log(bus: Any, *orders: Order, digest: str = LOOSE.digest) -> None:
    """Write what a fund writes before it sends."""
    feed = {"symbols": ["SIM"], "increments": [["0.01", "0.0001", "USD"]]}
    start = Started("run", "fund", "autonomous", (), {"limits_digest": digest}, feed, {}, Decimal(100_000), "1")
    seen = Observed({"SIM": Decimal(100)}, Decimal(100_000), Decimal(100_000), Decimal(100_000))
    told: list[Any] = [start, seen, *map(Intended, orders)]
    await bus.publish(
        [
            Message.of(event, id=f"m{number}", stream="fund", producer="orchestrator", time=START, cycle=1)
            for number, event in enumerate(told)
        ]
    )


def execution(to: Any, bus: Any, permission: Any = UNWATCHED, **options: Any) -> Execution:
    """Return an execution in front of a broker."""
    return Execution(to, bus=bus, limits=LOOSE, permission=permission, clock=Stopped(), **options)


async def test_what_was_not_meant_is_not_sent() -> None:
    """An order that is not on the log, or stands there in other words, never reaches the broker."""
    bus, to = MemoryBus(), Real()
    one = execution(to, bus)
    with pytest.raises(OrderRejected, match="not on the log"):
        await one.submit(order())
    await log(bus, order())
    with pytest.raises(OrderRejected, match="other words"):
        await one.submit(order(quantity=Decimal(11)))
    assert to.sent == []
    assert (await one.submit(order())).order == order()
    assert to.sent == [order()]


async def test_level_lease_gate_and_limits_are_looked_at_once_more() -> None:
    """The fund's own process may be wrong, or hostile: its word is not enough."""
    bus, to, word = MemoryBus(), Real(), Word(Level.HALT)
    await log(bus, order())
    one = execution(to, bus, word)
    with pytest.raises(OrderRejected) as refusal:
        await one.submit(order())
    assert refusal.value.code == "halted"
    word.say(Level.NORMAL, lease=False)
    with pytest.raises(OrderRejected) as refusal:
        await one.submit(order())
    assert refusal.value.code == "lease"
    word.say(Level.NORMAL)
    given: tuple[tuple[dict[str, Any], str], ...] = (
        ({"stop_loss": None}, "no_stop"),
        ({"quantity": Decimal(5_000)}, "order_size"),
    )
    for options, code in given:
        alone = MemoryBus()
        await log(alone, order(**options))
        with pytest.raises(OrderRejected) as refusal:
            await execution(to, alone, word).submit(order(**options))
        assert refusal.value.code == code
    other = Execution(to, bus=bus, limits=Limits(max_leverage=2), permission=UNWATCHED, clock=Stopped())
    with pytest.raises(OrderRejected, match="limits"):
        await other.submit(order())
    assert to.sent == []


async def test_who_proposed_an_order_is_known_from_the_log() -> None:
    """Where limits name who may propose, an order of somebody else, or of nobody, does not leave."""
    limits = replace(LOOSE, proposers=frozenset({"trader"}))
    for by, may in ((("trader",), True), (("intern",), False), ((), False)):
        bus, to, meant = MemoryBus(), Real(), order()
        await log(bus, meant, digest=limits.digest)
        told = Decision(
            id=meant.decision,
            cycle=1,
            time=START,
            outcome=Outcome.ORDERED,
            decided_by="consensus",
            reason="agreed",
            symbol="SIM",
            direction=Direction.LONG,
            proposed_by=by,
        )
        await bus.publish([Message.of(Decided(told), id="d", stream="fund", producer="orchestrator", time=START, cycle=1)])
        one = Execution(to, bus=bus, limits=limits, permission=UNWATCHED, clock=Stopped())
        if may:
            await one.submit(meant)
        else:
            with pytest.raises(OrderRejected, match="proposed it; trader may"):
                await one.submit(meant)
        assert bool(to.sent) is may


class Forgetful(Real):
    """Takes an order and loses its answer; it knows no ids."""

    dedupes_ids = False

    async def submit(self, order: Order) -> OrderState:
        """Take the order, and lose the answer."""
        self.slow = True
        await super().submit(order)
        raise BrokerUnavailable("504")


async def test_what_was_sent_once_is_never_sent_again_even_by_another_process() -> None:
    """A broker that knows no ids gets each order once, through lost answers, restarts and two executions at a time."""
    bus, to = MemoryBus(), Forgetful()
    await log(bus, order())
    one = execution(to, bus)
    with pytest.raises(BrokerUnavailable):
        await one.submit(order())
    assert (await one.submit(order())).status is OrderStatus.WORKING, "it is looked up"
    again = execution(to, bus)
    assert (await again.submit(order())).status is OrderStatus.WORKING
    to.states.clear()
    with pytest.raises(BrokerUnavailable, match="not known"):
        await again.submit(order())
    with pytest.raises(BrokerUnavailable):
        await again.cancel("entry")
    assert len(to.sent) == 1
    with pytest.raises(OrderRejected):
        await again.cancel("never sent")


async def test_of_two_executions_one_sends() -> None:
    """What is written down first wins, however the two take turns."""

    class Sees(Real):
        dedupes_ids = False

    bus, to = MemoryBus(), Sees()
    await log(bus, order())
    results = await asyncio.gather(*(execution(to, bus).submit(order()) for _ in range(6)), return_exceptions=True)
    assert len(to.sent) == 1
    assert all(isinstance(one, (OrderState, BrokerUnavailable)) for one in results)
    assert any(isinstance(one, OrderState) for one in results)


async def test_a_halt_is_carried_out_though_the_fund_is_dead() -> None:
    """Entries are taken back at level 3; at level 4 positions are closed, through the log."""
    bus, to, word = MemoryBus(), Real(), Word()
    to.slow = True
    await log(bus, order(), order("second", quantity=Decimal(5)))
    one = execution(to, bus, word)
    await one.submit(order())
    to.deal(to.sent[0], Decimal(10))
    await one.submit(order("second", quantity=Decimal(5)))
    keeping = asyncio.ensure_future(one.keep())
    word.say(Level.HALT)
    while to.states["second"].status is not OrderStatus.CANCELLED:
        await asyncio.sleep(0)
    to.slow = False
    assert to.book.positions
    word.say(Level.KILL)
    while to.book.positions:
        await asyncio.sleep(0)
    keeping.cancel()
    meant = [m.event.order async for m in bus.read("fund") if isinstance(m.event, Intended)]
    assert meant[-1] == to.sent[-1]
    assert to.sent[-1].reduce_only
    assert len(to.sent) == 3


@asynccontextmanager
async def remote(one: Execution) -> AsyncIterator[RemoteExecution]:
    """Serve an execution, and give a line to it."""
    async with served(application(one, TOKEN), "127.0.0.1:0") as (address, _):
        line = RemoteExecution(address, TOKEN, timeout=timedelta(seconds=5))
        try:
            yield line
        finally:
            await line.close()


async def test_over_the_line_it_says_what_it_says_in_process() -> None:
    """Orders, fills, account and each kind of no come over as they are."""
    bus, to = MemoryBus(), Real()
    await log(bus, order(), order("lost", quantity=Decimal(3)))
    async with remote(execution(to, bus)) as line:
        assert (await line.submit(order())).order == order()
        assert await line.account() == await to.account()
        assert list(await line.orders()) == list(await to.orders())
        assert list(await line.fills()) == list(await to.fills())
        assert await line.busts() == []
        with pytest.raises(OrderRejected) as refusal:
            await line.submit(order("not meant"))
        assert refusal.value.code == "no_intent"
        to.lost = True
        with pytest.raises(BrokerUnavailable, match="504"):
            await line.submit(order("lost", quantity=Decimal(3)))
        with pytest.raises(BrokerUnavailable, match="503"):
            await line.book()
    with pytest.raises(BrokerUnavailable):
        await line.account()


async def test_without_the_token_nobody_is_answered() -> None:
    """A process of the same machine that does not know it can ask nothing and send nothing."""
    bus, to = MemoryBus(), Real()
    await log(bus, order())
    async with served(application(execution(to, bus), TOKEN), "127.0.0.1:0") as (address, _):
        line = RemoteExecution(address, "another token that is long enough")
        with pytest.raises(BrokerUnavailable, match="401"):
            await line.submit(order())
        await line.close()
    assert to.sent == []


def test_a_token_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    """A file that others can read holds no secret."""
    path = tmp_path / "run" / "token"
    with pytest.raises(ConfigError, match="cannot be read"):
        token_in(path)
    assert token_in(path, make=True) == token_in(path, make=True)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        token_in(path)
    with pytest.raises(ConfigError, match="this machine"):
        RemoteExecution("example.com:80", TOKEN)


async def test_an_order_that_the_broker_has_and_does_not_show_is_never_called_absent() -> None:
    """Asked about it later the broker says that there is no such order, which proves nothing."""

    class Hides(Real):
        async def submit(self, order: Order) -> OrderState:
            raise OrderUnseen("there is such an order, and it is not shown")

    bus, to = MemoryBus(), Hides()
    await log(bus, order())
    with pytest.raises(BrokerUnavailable):
        await execution(to, bus).submit(order())
    with pytest.raises(BrokerUnavailable, match="does not show it"):
        await execution(to, bus).cancel("entry")
