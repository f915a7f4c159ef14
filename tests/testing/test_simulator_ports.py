"""What a fund under simulation stands on keeps the contracts of the real things, but for the faults that a schedule names."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentfund.errors import (
    BadCredentials,
    BrokerUnavailable,
    BusUnavailable,
    FeedError,
    InvalidOutput,
    LLMError,
    LLMTimeout,
    OrderRejected,
    Overloaded,
    RateLimited,
    Refused,
    UsageCapped,
)
from agentfund.market import Instrument
from agentfund.messages import Message
from agentfund.prompt import Prompt
from agentfund.protocols import LLM, Broker, Bus, Feed
from agentfund.testing import BrokerContract, BusContract, LLMContract
from agentfund.testing.bus import log, message
from agentfund.testing.simulator import broker as broker_module
from agentfund.testing.simulator import llm as llm_module
from agentfund.testing.simulator.broker import SimulatedBroker
from agentfund.testing.simulator.bus import Disk, SimulatedBus
from agentfund.testing.simulator.exchange import Exchange, Tape, tapes_of, total
from agentfund.testing.simulator.feed import SimulatedFeed
from agentfund.testing.simulator.llm import Provider, SimulatedLLM
from agentfund.testing.simulator.loop import SimulatedLoop, simulate
from agentfund.testing.simulator.markets import START, choppy
from agentfund.testing.simulator.process import Killed, MachineClock, Process, Truth
from agentfund.testing.simulator.schedule import parse
from agentfund.trading import Order, OrderStatus, OrderType, Proposal, Side

SYMBOL = "TEST"


def process_on(loop: Any, faults: str = "", *, number: int = 1) -> Process:
    """Return a process in a reality of its own."""
    return Process(Truth(loop, 0, parse(faults), START), number)


def life(work: Any, faults: str = "") -> Any:
    """Run `work(process)` in virtual time, with these faults."""
    loop = SimulatedLoop(0)
    return simulate(work(process_on(loop, faults)), loop)


class TestSimulatedBus(BusContract):
    """The log in memory, with no fault."""

    disks: dict[Path, Disk]

    def make_bus(self, folder: Path) -> Bus:
        process = process_on(asyncio.get_running_loop())
        self.disks = getattr(self, "disks", {})
        return SimulatedBus(process, self.disks.setdefault(folder, Disk(clock=MachineClock(process.truth))))


class ByHand:
    """Time that is moved by hand, where a loop would move it."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        """Return the seconds."""
        return self.now


class TestSimulatedBroker(BrokerContract):
    """The line to the exchange, with no fault, on a market that the suite moves."""

    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Real time passes here, so that nothing may take any."""
        monkeypatch.setattr(broker_module, "SLOW_S", 0.0)

    def make_broker(self) -> Broker:
        self.hand = ByHand()
        columns = SimpleNamespace(
            instrument=Instrument(SYMBOL), start=[], ends=[], open=[], high=[], low=[], close=[]
        )  # bars are added as the suite moves on
        self.tape = Tape(columns, START)  # type: ignore[arg-type]
        self.process = process_on(self.hand)
        self.exchange = Exchange({SYMBOL: self.tape}, START)
        return SimulatedBroker(self.process, self.exchange)

    async def move_market(self, broker: Broker, price: Decimal) -> None:
        tape = self.tape
        tape.opens_at.append(self.hand.now)
        self.hand.now += 60.0
        tape.closes_at.append(self.hand.now)
        for values in (tape.open, tape.high, tape.low, tape.close):
            values.append(price)
        self.exchange.advance(self.hand.now)

    def cut_connection(self, broker: Broker) -> None:
        self.process.truth.cut_until = float("inf")


class TestSimulatedLLM(LLMContract):
    """The route, with no fault but those that the suite asks for."""

    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Real time passes here."""
        monkeypatch.setattr(llm_module, "SLOWEST_S", 0.0)

    def make_llm(self) -> LLM:
        return self.route("")

    def make_failing_llm(self) -> LLM:
        return self.route("ask#1:overloaded")

    def make_slow_llm(self) -> LLM:
        return self.route("ask#1:hang")

    def requests(self) -> int:
        return getattr(self, "provider", Provider(lambda process, prompt: None)).calls

    def route(self, faults: str) -> LLM:
        """Return a route with these faults."""
        self.provider = Provider(lambda process, prompt: None)
        return SimulatedLLM(process_on(ByHand(), faults), self.provider, lambda prompt: Proposal(direction="long"))


# -- the log ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error", "kept"),
    [
        ("fails", BusUnavailable, 0),
        ("lost_ack", BusUnavailable, 2),
        ("crash_before", Killed, 0),
        ("crash_after", Killed, 2),
        ("power_before", Killed, 0),
        ("power_after", Killed, 2),
        ("slow(3)", None, 2),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_write_that_goes_wrong_leaves_all_or_nothing(fault: str, error: type[BaseException] | None, kept: int) -> None:
    """And writing it again, from the next process, keeps each message once."""

    async def work(process: Process) -> None:
        disk = Disk(clock=MachineClock(process.truth))
        batch = [message(1), message(2)]
        with pytest.raises(error) if error is not None else nullcontext():
            await SimulatedBus(process, disk).publish(batch)
        assert len(disk) == disk.synced == kept
        again = SimulatedBus(Process(process.truth, 2), disk)
        assert await again.publish(batch) == 2
        assert [one.cycle for one in await log(again)] == [1, 2]
        assert disk.writers == [1 if kept else 2] * 2

    life(work, f"publish#1:{fault}")


def test_a_loss_of_power_takes_what_was_not_synced() -> None:
    """And nothing else; the newest messages of `sync=False` are the price of speed."""

    async def work(process: Process) -> list[int]:
        disk = Disk(clock=MachineClock(process.truth))
        bus = SimulatedBus(process, disk)
        for number, sync in ((1, False), (2, True), (3, False)):
            await bus.publish([message(number)], sync=sync)
        with pytest.raises(Killed):
            await bus.publish([message(4)])
        with pytest.raises(Killed):
            await bus.publish([message(5)])
        again = SimulatedBus(Process(process.truth, 2), disk)
        await again.publish([message(6)])
        return [one.cycle for one in await log(again)]

    assert life(work, "publish#4:power_before") == [1, 2, 6]


def test_what_a_dead_process_still_tries_has_no_effect() -> None:
    """Neither on the log nor at the broker."""

    async def work(process: Process) -> None:
        disk = Disk(clock=MachineClock(process.truth))
        bus, exchange = SimulatedBus(process, disk), Exchange(tapes_of(choppy().columns, START), START)
        broker = SimulatedBroker(process, exchange)
        with pytest.raises(Killed):
            await bus.publish([message(1)])
        for tried in (bus.publish([message(2)]), broker.submit(order("late")), broker.cancel("late"), broker.fills()):
            with pytest.raises(Killed):
                await tried
        assert len(disk) == 0
        assert exchange.lines == {}

    life(work, "publish#1:crash_before")


def test_a_message_comes_back_as_bytes_would() -> None:
    """Not the object that was written, so that what cannot be written is found here."""

    async def work(process: Process) -> None:
        bus = SimulatedBus(process, Disk(clock=MachineClock(process.truth)))
        one = Message.new("Noted", {"text": "\ud800"}, stream="s", producer="p", time=START)
        await bus.publish([one])
        (back,) = await log(bus)
        assert back.payload == one.payload
        assert back.payload is not one.payload

    life(work)


# -- the broker ------------------------------------------------------------------------------------------------------


def order(name: str, side: Side = Side.BUY, quantity: int = 10, **more: Any) -> Order:
    """Return a market order."""
    return Order(name, "SIM", side, Decimal(quantity), START, **more)


def at_broker(work: Any, faults: str = "", **options: Any) -> Any:
    """Run `work(broker, exchange)` in virtual time, a minute after the market has opened."""

    async def run(process: Process) -> Any:
        exchange = Exchange(tapes_of(choppy().columns, START), START, **options)
        await asyncio.sleep(60)
        return await work(SimulatedBroker(process, exchange), exchange)

    return life(run, faults)


@pytest.mark.parametrize(
    ("fault", "error", "arrived"),
    [
        ("unavailable", BrokerUnavailable, 0),
        ("lost_reply", BrokerUnavailable, 1),
        ("garbage", ValueError, 1),
        ("crash_before", Killed, 0),
        ("crash_after", Killed, 1),
        ("reject", OrderRejected, 0),
        ("late(20)", BrokerUnavailable, 0),
        ("outage(30)", BrokerUnavailable, 0),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_order_whose_answer_is_lost_is_there_or_is_not(fault: str, error: type[BaseException], arrived: int) -> None:
    """The exchange knows, whatever the fund is told."""

    async def work(broker: SimulatedBroker, exchange: Exchange) -> None:
        with pytest.raises(error):
            await broker.submit(order("one"))
        assert len(exchange.lines) == arrived
        exchange.advance(120)
        assert len(exchange.lines) == (1 if fault.startswith("late") else arrived)

    at_broker(work, f"submit#1:{fault}")


def test_a_broker_that_hangs_has_taken_the_order() -> None:
    """Who waits, waits for ever."""

    async def work(broker: SimulatedBroker, exchange: Exchange) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await broker.submit(order("one"))
        assert list(exchange.lines) == ["one"]

    at_broker(work, "submit#1:hang")


@pytest.mark.parametrize("refuses", [False, True], ids=["ignores", "refuses"])
def test_an_order_that_comes_twice_trades_once_where_ids_are_deduped(refuses: bool) -> None:
    """Whatever the broker says about the second."""

    async def work(broker: SimulatedBroker, exchange: Exchange) -> None:
        await broker.submit(order("one"))
        if refuses:
            with pytest.raises(OrderRejected):
                await broker.submit(order("one"))
        else:
            assert (await broker.submit(order("one"))).order.id == "one"
        await asyncio.sleep(5)
        assert (await broker.account()).positions == {"SIM": Decimal(10)}

    at_broker(work, refuses_twins=refuses)


def test_an_order_that_comes_twice_trades_twice_where_they_are_not() -> None:
    """That is what `dedupes_ids = False` means."""

    async def work(broker: SimulatedBroker, exchange: Exchange) -> None:
        assert not broker.dedupes_ids
        await broker.submit(order("one"))
        await asyncio.sleep(5)
        assert (await broker.account()).positions == {"SIM": Decimal(20)}

    at_broker(work, "submit#1:doubled", dedupes_ids=False)


def test_fills_come_in_pieces_late_twice_and_out_of_order() -> None:
    """Always the same ones, under the same ids."""

    async def work(broker: SimulatedBroker, exchange: Exchange) -> None:
        await broker.submit(order("one", quantity=100))
        await asyncio.sleep(200)
        whole = await broker.fills()
        assert [fill.quantity for fill in whole] == [Decimal(20)] * 5
        assert await broker.fills() == whole[:4]
        assert await broker.fills() == [fill for fill in whole for _ in range(2)]
        mixed = await broker.fills()
        assert mixed != whole
        assert sorted(mixed, key=lambda fill: fill.id) == sorted(whole, key=lambda fill: fill.id)
        with pytest.raises(BrokerUnavailable):
            await broker.fills()

    at_broker(work, "submit#1:partial(5),fills#2:late(80),fills#3:doubled,fills#4:shuffled,fills#5:unavailable")


def test_an_old_answer_is_what_was_true_then() -> None:
    """Of orders and of the account."""

    async def work(broker: SimulatedBroker, exchange: Exchange) -> None:
        await broker.submit(order("one"))
        await asyncio.sleep(5)
        assert await broker.orders() == []
        assert (await broker.account()).positions == {}
        assert [state.status for state in await broker.orders()] == [OrderStatus.FILLED]
        assert (await broker.account()).positions == {"SIM": Decimal(10)}

    at_broker(work, "orders#1:stale(10),account#1:stale(10)")


def test_an_order_that_does_not_fill_is_taken_back() -> None:
    """And what is not there cannot be."""

    async def work(broker: SimulatedBroker, exchange: Exchange) -> None:
        await broker.submit(order("one"))
        await asyncio.sleep(1000)
        assert [state.status for state in await broker.orders()] == [OrderStatus.WORKING]
        assert (await broker.cancel("one")).status is OrderStatus.CANCELLED
        with pytest.raises(OrderRejected):
            await broker.cancel("two")

    at_broker(work, "submit#1:no_fill")


def test_brackets_protect_until_stop_target_or_exit() -> None:
    """A stop, a target and an exit by hand each end flat, and the fills add up to the account."""
    tape = tapes_of(choppy().columns, START)["SIM"]

    async def work(broker: SimulatedBroker, exchange: Exchange) -> None:
        opened = tape.open[0]
        far = opened * 2
        await broker.submit(order("closed", stop_loss=Decimal(1), take_profit=far))
        await broker.submit(order("stopped", stop_loss=tape.low[0], take_profit=far))
        await broker.submit(order("won", stop_loss=Decimal(1), take_profit=tape.high[0]))
        await asyncio.sleep(1)
        await broker.submit(order("exit", Side.SELL, reduce_only=True))
        await asyncio.sleep(400)
        fills = await broker.fills()
        assert {(fill.order_id, fill.leg) for fill in fills} == {
            *((name, "order") for name in ("stopped", "won", "closed", "exit")),
            ("stopped", "stop"),
            ("won", "target"),
        }
        account = await broker.account()
        assert total(fills, Decimal(100_000)) == (account.cash, {})
        await broker.submit(order("nothing", Side.SELL, reduce_only=True))
        await asyncio.sleep(1)
        assert {state.order.id: state.status for state in await broker.orders()}["nothing"] is OrderStatus.CANCELLED

    at_broker(work)


def test_after_a_restart_only_open_orders_and_what_ends_from_then_on_are_listed() -> None:
    """More the protocol does not ask for, so more is not told."""

    async def work(broker: SimulatedBroker, exchange: Exchange) -> None:
        await broker.submit(order("filled"))
        await broker.submit(order("open", type=OrderType.LIMIT, limit_price=Decimal(1)))
        await asyncio.sleep(5)
        again = SimulatedBroker(Process(broker._process.truth, 2), exchange)
        assert [state.order.id for state in await again.orders()] == ["open"]
        assert [fill.order_id for fill in await again.fills()] == ["filled"]

    at_broker(work)


# -- the feed --------------------------------------------------------------------------------------------------------


def moments(faults: str = "", *, before_s: float = 0.0, after: datetime | None = None, first: int = 5) -> list[Any]:
    """Return, for the first bars of a feed, when they came and what they are: seconds, and minutes of the bar's close."""
    history = choppy()

    async def work(process: Process) -> list[Any]:
        truth = process.truth
        await asyncio.sleep(before_s)
        seen = []
        feed: Feed = SimulatedFeed(process, history, [market async for market in history.stream()])
        async for market in feed.stream(after):
            seen.append((truth.seconds / 60, truth.at(market.now) / 60))
            if len(seen) == first:
                return seen
        raise AssertionError

    found: list[Any] = life(work, faults)
    return found


def test_bars_come_when_they_close() -> None:
    """Each at its time, and what was missed first."""
    assert moments() == [(4, 4), (8, 8), (12, 12), (16, 16), (20, 20)]
    early = datetime(2024, 1, 2, 14, 34, tzinfo=UTC)
    assert moments(before_s=15 * 60, after=early, first=3) == [(15, 8), (15, 12), (16, 16)]
    assert moments(before_s=15 * 60, first=2) == [(15, 12), (16, 16)]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("bar#2:gap(2)", [(4, 4), (16, 16)]),
        ("bar#2:late(30)", [(4, 4), (8.5, 8)]),
        ("bar#1:repeat", [(4, 4), (4, 4)]),
    ],
)
def test_a_feed_leaves_out_is_late_and_repeats(fault: str, expected: list[Any]) -> None:
    """As the schedule says."""
    assert moments(fault, first=2) == expected


@pytest.mark.parametrize("fault", ["stream#1:fails", "bar#2:fails"])
def test_a_source_fails_with_a_feed_error(fault: str) -> None:
    """And with nothing else."""
    with pytest.raises(FeedError):
        moments(fault)


def test_a_live_source_may_forget_and_a_wall_clock_may_jump() -> None:
    """After a restart nothing old is given; the clock is the machine's, the market's time goes on."""
    assert moments("stream#1:forget", before_s=15 * 60, first=1) == [(16, 16)]

    async def work(process: Process) -> float:
        history = choppy()
        feed = SimulatedFeed(process, history, [market async for market in history.stream()])
        clock = MachineClock(process.truth)
        before = clock.now()
        await anext(feed.stream())
        return (clock.now() - before).total_seconds() - process.truth.seconds

    assert life(work, "bar#1:clock(-3600)") == -3600


# -- the language model ----------------------------------------------------------------------------------------------


def asked(fault: str) -> tuple[Any, Decimal]:
    """Return what becomes of a question, and what was billed for it."""

    async def work(process: Process) -> tuple[Any, Decimal]:
        provider = Provider(lambda process, prompt: None)
        route = SimulatedLLM(process, provider, lambda prompt: Proposal(direction="long"))
        prompt = Prompt("one", "Propose.", {}, Proposal)
        found: Any
        try:
            async with asyncio.timeout(100):
                found = prompt.parse((await route.complete(prompt)).text).value
        except (LLMError, TimeoutError, Killed) as error:
            found = type(error)
        return found, provider.billed.get(1, Decimal(0))

    found: tuple[Any, Decimal] = life(work, f"ask#1:{fault}" if fault else "")
    return found


@pytest.mark.parametrize(
    ("fault", "found", "paid"),
    [
        ("", Proposal(direction="long"), True),
        ("slow(60)", Proposal(direction="long"), True),
        ("hang", TimeoutError, True),
        ("cut", LLMTimeout, True),
        ("refuses", Refused, True),
        ("garbage", InvalidOutput, True),
        ("invalid", InvalidOutput, True),
        ("crash_after", Killed, True),
        ("crash_before", Killed, False),
        ("overloaded", Overloaded, False),
        ("rate_limited(40)", RateLimited, False),
        ("capped(100)", UsageCapped, False),
        ("bad_key", BadCredentials, False),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_provider_bills_what_it_worked_for(fault: str, found: Any, paid: bool) -> None:
    """Whether the answer arrives or not."""
    assert asked(fault) == (found, Decimal("0.01") if paid else Decimal(0))
