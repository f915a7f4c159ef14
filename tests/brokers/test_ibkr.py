"""Interactive Brokers, through the real `ib_async` client against a local Trader Workstation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from agentfund.brokers.ibkr import InteractiveBrokers
from agentfund.brokers.ibkr_words import status
from agentfund.clock import EPOCH
from agentfund.errors import BrokerUnavailable, ConfigError, OrderRejected
from agentfund.protocols import Broker, Watched
from agentfund.testing.broker import BrokerContract
from agentfund.testing.tws import Deal, FakeTWS, House, Listed, Slip
from agentfund.trading import Order, OrderStatus, OrderType, Side

pytest.importorskip("ib_async")
HUNDRED = Decimal(100)


def broker_of(tws: FakeTWS, **settings: Any) -> InteractiveBrokers:
    asked: dict[str, Any] = {"client_id": 7, "contracts": {"TEST": {"secType": "STK"}}, "timeout_s": 10.0, "retry_s": 0.0}
    return InteractiveBrokers("127.0.0.1", tws.port, **{**asked, "settle_s": 0.0, **settings})


def order(name: str = "entry", side: Side = Side.BUY, quantity: int = 2, **more: Any) -> Order:
    return Order(name, "TEST", side, Decimal(quantity), EPOCH, **more)


def bracket(name: str = "entry", *, target: bool = True, **more: Any) -> Order:
    return order(name, stop_loss=Decimal(90), take_profit=Decimal(110) if target else None, **more)


@pytest.fixture
def tws() -> Iterator[FakeTWS]:
    with FakeTWS() as server:
        server.move("TEST", HUNDRED)
        yield server


@pytest.fixture
async def broker(tws: FakeTWS) -> AsyncIterator[InteractiveBrokers]:
    session = broker_of(tws)
    yield session
    await session.close()


async def noticed(broker: InteractiveBrokers) -> None:
    """Wait until a cut is noticed, by a question that it ends if by nothing else."""
    with suppress(BrokerUnavailable):
        await broker.orders()


def stops(tws: FakeTWS, name: str = "entry") -> list[tuple[Decimal, Decimal]]:
    """Size and trigger of the live stops of a bracket."""
    return [(s.remaining, s.stop) for s in tws.house.live() if s.ref == f"{name}:stop" and s.transmitted]


class TestContract(BrokerContract):
    """Interactive Brokers keeps the contract."""

    @pytest.fixture(autouse=True)
    async def _server(self) -> AsyncIterator[None]:
        self.tws = FakeTWS()
        self.made: list[InteractiveBrokers] = []
        yield
        for broker in self.made:
            await broker.close()
        self.tws.stop()

    def make_broker(self) -> Broker:
        self.made.append(broker_of(self.tws))
        return self.made[-1]

    async def move_market(self, broker: Broker, price: Decimal) -> None:
        self.tws.move("TEST", price)

    def cut_connection(self, broker: Broker) -> None:
        self.tws.shut()


async def test_it_looks_and_trades(broker: InteractiveBrokers) -> None:
    """One object keeps `Broker` and `Watched`, and says that nothing at the broker dedupes ids."""
    assert isinstance(broker, Watched)
    assert not broker.dedupes_ids
    assert broker.brackets


async def test_trades_are_found_again_after_a_reconnect(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """ib_insync 130: a client that reconnects knows of no trade; orders and fills are asked for, not remembered."""
    await broker.submit(order("done"))
    await broker.submit(order("waiting", type=OrderType.LIMIT, limit_price=Decimal(80)))
    before = await broker.fills()
    tws.cut()
    await noticed(broker)
    states = {s.order.id: (s.status, s.filled) for s in await broker.orders()}
    assert states == {"done": (OrderStatus.FILLED, Decimal(2)), "waiting": (OrderStatus.WORKING, Decimal(0))}
    assert await broker.fills() == before


async def test_another_process_finds_the_same_orders(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """What an earlier process sent is known by its reference, and is not sent again."""
    await broker.submit(bracket(type=OrderType.LIMIT, limit_price=Decimal(95)))
    await broker.close()
    later = broker_of(tws)
    state = await later.submit(bracket(type=OrderType.LIMIT, limit_price=Decimal(95)))
    await later.close()
    assert state.status is OrderStatus.WORKING
    assert len(tws.house.slips) == 3


async def test_an_order_whose_reply_was_lost_is_found_by_its_reference(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """ib_async 66 and 175: the connection ends after the order arrived; nobody knows, then the lists do, and it trades once."""
    await broker.orders()
    tws.cut_at = (1, "silent")
    with pytest.raises(BrokerUnavailable):
        await broker.submit(order())
    assert (await broker.submit(order())).status is OrderStatus.FILLED
    assert sum(f.quantity for f in await broker.fills()) == 2
    assert len(tws.house.slips) == 1


async def test_an_order_that_was_dropped_without_a_word_is_unknown(tws: FakeTWS) -> None:
    """ibx 116: in its first seconds a session drops orders silently; that is no success, no refusal, and not sent again."""
    broker = broker_of(tws, settle_s=60.0, timeout_s=1.0)
    tws.lose_orders = 1
    for _ in range(2):
        with pytest.raises(BrokerUnavailable):
            await broker.submit(order())
    with pytest.raises(BrokerUnavailable):
        await broker.cancel("entry")
    placed = [f for f in tws.received if f[0] == "3"]
    await broker.close()
    assert len(placed) == 1
    assert tws.house.slips == []


async def test_proven_absent_it_may_be_sent_once_more(tws: FakeTWS) -> None:
    """After the time in which it must have arrived, and in no list, the same order is sent again by whoever asks for it."""
    broker = broker_of(tws, settle_s=0.0, timeout_s=1.0)
    tws.lose_orders = 1
    with pytest.raises(BrokerUnavailable):
        await broker.submit(order())
    await broker.submit(order())
    assert [(s.order.id, s.status) for s in await broker.orders()] == [("entry", OrderStatus.FILLED)]
    assert len(tws.house.slips) == 1
    await broker.close()


@pytest.mark.parametrize("target", [True, False], ids=["with target", "stop alone"])
@pytest.mark.parametrize("when", ["before", "silent", "after"])
@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("limit", [None, Decimal(99)], ids=["market", "limit"])
async def test_a_connection_cut_at_any_step_of_a_bracket_leaves_one_entry_and_one_stop(
    tws: FakeTWS, broker: InteractiveBrokers, step: int, when: str, target: bool, limit: Decimal | None
) -> None:
    """Wherever the connection ends, the order sent again is one entry with one stop of its size, and no half of another."""
    if step == 3 and not target:
        pytest.skip("a bracket without a target is two messages")
    kind: dict[str, Any] = {} if limit is None else {"type": OrderType.LIMIT, "limit_price": limit}
    entry = bracket(target=target, **kind)
    await broker.orders()
    tws.cut_at = (step, when)
    with suppress(BrokerUnavailable):  # where the answers came before the cut, it knows
        await broker.submit(entry)
    await noticed(broker)
    state = await broker.submit(entry)
    assert state.status.open or state.status is OrderStatus.FILLED
    tws.move("TEST", Decimal(99))
    assert (await broker.account()).positions == {"TEST": Decimal(2)}
    assert stops(tws) == [(Decimal(2), Decimal(90))]
    assert sum(s.filled for s in tws.house.named("entry:entry")) == 2
    assert not [s for s in tws.house.live() if not s.transmitted]
    tws.move("TEST", Decimal(89))
    assert (await broker.account()).positions == {}
    assert not tws.house.live()
    assert {(f.leg, f.order_id) for f in await broker.fills()} == {("order", "entry"), ("stop", "entry")}


async def test_a_torn_bracket_is_taken_back_by_whoever_comes_next(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """A process that knows nothing of the order sees an entry without its stop, and it is gone before anything else."""
    await broker.orders()
    tws.cut_at = (1, "after")
    with pytest.raises(BrokerUnavailable):
        await broker.submit(bracket())
    await broker.close()
    later = broker_of(tws)
    states = await later.orders()
    await later.close()
    assert [(s.order.id, s.status) for s in states] == [("entry", OrderStatus.CANCELLED)]
    assert not tws.house.live()


async def test_an_exit_of_a_part_leaves_one_stop_of_the_rest(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """nautilus 4564: making a stop smaller must never leave two of them; it is the same order, changed in its place."""
    await broker.submit(bracket(quantity=4))
    stop = tws.house.named("entry:stop")[0]
    await broker.submit(order("exit", Side.SELL, 3, reduce_only=True))
    assert stops(tws) == [(Decimal(1), Decimal(90))]
    assert tws.house.named("entry:stop") == [stop]
    tws.move("TEST", Decimal(80))
    assert (await broker.account()).positions == {}


async def test_an_exit_of_all_waits_until_the_legs_are_gone(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """The stop is taken back before the exit is sent, so that both can never trade."""
    await broker.submit(bracket())
    await broker.submit(order("exit", Side.SELL, reduce_only=True))
    assert (await broker.account()).positions == {}
    assert not tws.house.live()
    messages = [(f[0], f[26] if f[0] == "3" else "") for f in tws.received if f[0] in "34"]
    assert messages[-3:] == [("4", ""), ("4", ""), ("3", "exit")]


async def test_legs_that_do_not_move_keep_the_exit_from_being_sent(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """A cancellation that is not answered is no cancellation: no exit beside a stop that may live."""
    await broker.submit(bracket())
    impatient = broker_of(tws, client_id=7, timeout_s=1.0)
    await broker.close()
    await impatient.orders()
    tws.mute = {4}
    with pytest.raises(OrderRejected, match="legs"):
        await impatient.submit(order("exit", Side.SELL, reduce_only=True))
    await impatient.close()
    assert stops(tws) == [(Decimal(2), Decimal(90))]
    assert not tws.house.named("exit")


async def test_a_stop_that_did_not_become_smaller_keeps_the_exit_from_being_sent(tws: FakeTWS) -> None:
    """A change that nobody confirmed is no change: a stop of four beside an exit of three would turn the position around."""
    broker = broker_of(tws, timeout_s=1.0)
    await broker.submit(bracket(quantity=4))
    tws.lose_orders = 1
    with pytest.raises(OrderRejected, match="legs"):
        await broker.submit(order("exit", Side.SELL, 3, reduce_only=True))
    assert not tws.house.named("exit")
    assert stops(tws) == [(Decimal(4), Decimal(90))]
    await broker.close()


async def test_a_refused_exit_gives_the_stop_back(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """The legs made way, the exit was refused: the position has its stop again."""
    await broker.submit(bracket())
    tws.refuse(201, "Order rejected - reason: no", "MKT")
    with pytest.raises(OrderRejected):
        await broker.submit(order("exit", Side.SELL, reduce_only=True))
    await broker.orders()
    assert stops(tws) == [(Decimal(2), Decimal(90))]


async def test_a_refused_exit_of_a_part_lets_the_stop_grow_again(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """The stop had been made smaller; it is the same order afterwards, with its old size, and there is no second one."""
    await broker.submit(bracket(quantity=4))
    tws.refuse(201, "Order rejected - reason: no", "MKT")
    with pytest.raises(OrderRejected):
        await broker.submit(order("exit", Side.SELL, 3, reduce_only=True))
    await broker.orders()
    assert stops(tws) == [(Decimal(4), Decimal(90))]


async def test_an_error_of_no_table_does_not_end_an_order(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """ib_async calls an order cancelled at any error that names it; here only the broker's lists end it."""
    await broker.submit(order(type=OrderType.LIMIT, limit_price=Decimal(80)))
    tws.say(507, "Bad message", tws.house.slips[0].order_id)
    assert [s.status for s in await broker.orders()] == [OrderStatus.WORKING]


async def test_an_exit_beyond_what_is_held_is_refused(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """Nothing at the broker keeps an exit from turning the position around, so it is not sent; the stop stays."""
    await broker.submit(bracket())
    with pytest.raises(OrderRejected, match="2 at most"):
        await broker.submit(order("exit", Side.SELL, 3, reduce_only=True))
    with pytest.raises(OrderRejected, match="without its stop"):
        await broker.submit(order("exit", Side.SELL, reduce_only=True, type=OrderType.LIMIT, limit_price=Decimal(120)))
    assert stops(tws) == [(Decimal(2), Decimal(90))]


async def test_a_partly_filled_entry_that_is_cancelled_keeps_a_stop_of_what_it_bought(
    tws: FakeTWS, broker: InteractiveBrokers
) -> None:
    """The broker takes the legs back with their entry; the position gets a stop of its own size."""
    await broker.submit(bracket(quantity=5, type=OrderType.LIMIT, limit_price=Decimal(95)))
    entry = tws.house.named("entry:entry")[0]
    tws.do(lambda: tws.house.fill(entry, Decimal(2), Decimal(95)))
    state = await broker.cancel("entry")
    assert (state.status, state.filled) == (OrderStatus.CANCELLED, Decimal(2))
    await broker.orders()
    assert stops(tws) == [(Decimal(2), Decimal(90))]


async def test_a_target_that_fills_in_part_makes_the_stop_smaller(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """Legs are one group: what one has traded the other cannot trade again."""
    await broker.submit(bracket())
    target = tws.house.named("entry:target")[0]
    tws.do(lambda: tws.house.fill(target, Decimal(1), Decimal(110)))
    assert stops(tws) == [(Decimal(1), Decimal(90))]
    assert {f.leg for f in await broker.fills()} == {"order", "target"}


@pytest.mark.parametrize("code", [103, 110, 200, 201, 203, 321, 10318])
async def test_a_code_of_the_table_is_a_refusal(tws: FakeTWS, broker: InteractiveBrokers, code: int) -> None:
    """The order does not exist, and the error names code, text and reason."""
    tws.refuse(code, "the server's words")
    with pytest.raises(OrderRejected, match=f"{code}: the server's words") as refusal:
        await broker.submit(order())
    assert refusal.value.code == str(code)
    assert not tws.house.live()
    assert [s.status for s in await broker.orders()] == [OrderStatus.REJECTED]


async def test_a_code_that_is_in_no_table_leaves_its_fate_unknown(tws: FakeTWS) -> None:
    """A server may say things that nobody has listed; they are no refusal."""
    broker = broker_of(tws, timeout_s=1.0)
    tws.refuse(507, "Bad message")
    with pytest.raises(BrokerUnavailable):
        await broker.submit(order())
    await broker.close()


async def test_a_refused_stop_takes_the_entry_with_it(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """An entry whose stop was refused never trades."""
    tws.refuse(110, "The price does not conform to the minimum price variation", "STP")
    with pytest.raises(OrderRejected, match="its stop was refused"):
        await broker.submit(bracket())
    tws.move("TEST", Decimal(90))
    assert (await broker.account()).positions == {}
    assert not tws.house.live()


@pytest.mark.parametrize("code", [2104, 2106, 2158, 399])
async def test_a_warning_changes_nothing(tws: FakeTWS, broker: InteractiveBrokers, code: int) -> None:
    """Messages about data farms and about orders that wait for the session are no refusals."""
    await broker.submit(order(type=OrderType.LIMIT, limit_price=Decimal(80)))
    tws.say(code, "a warning", tws.house.slips[0].order_id if code == 399 else -1)
    assert [s.status for s in await broker.orders()] == [OrderStatus.WORKING]


async def test_a_workstation_that_is_cut_off_knows_nothing(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """From 1100 to 1102 every question is an error; afterwards everything is looked at before an order leaves."""
    await broker.submit(order("old"))
    tws.say(1100, "Connectivity between IB and Trader Workstation has been lost.")
    await broker.wake.wait()
    with pytest.raises(BrokerUnavailable):
        await _until_told(broker)
    for ask in (broker.account, broker.orders, broker.fills, broker.book):
        with pytest.raises(BrokerUnavailable, match="1100"):
            await ask()
    with pytest.raises(BrokerUnavailable, match="1100"):
        await broker.submit(order("new"))
    tws.received.clear()
    broker.wake.clear()
    tws.say(1102, "Connectivity between IB and Trader Workstation has been restored - data maintained.")
    await broker.wake.wait()
    await broker.submit(order("new"))
    asked = [f[0] for f in tws.received if f[0] in ("3", "16", "99", "7")]
    assert asked == ["16", "99", "7", "3"]


async def _until_told(broker: InteractiveBrokers) -> None:
    for _ in range(20):
        await broker.orders()


@pytest.mark.parametrize("number", [16, 99, 7, 61, 76], ids=["open", "completed", "executions", "positions", "values"])
async def test_a_question_without_an_answer_has_a_deadline(tws: FakeTWS, number: int) -> None:
    """ib_async waits for ever; here it is BrokerUnavailable, and the next question uses a new connection."""
    broker = broker_of(tws, timeout_s=1.0)
    await broker.account()
    tws.mute = {number}
    with pytest.raises(BrokerUnavailable, match="no answer"):
        await (broker.account() if number in (61, 76) else broker.orders())
    tws.mute = set()
    assert (await broker.account()).cash == 100_000
    await broker.close()


async def test_two_sessions_of_one_client_id_are_told_apart(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """Error 326 names the fix."""
    await broker.account()
    second = broker_of(tws)
    with pytest.raises(BrokerUnavailable, match="client id 7 is in use"):
        await second.account()
    await second.close()


async def test_a_watchdog_sees_everybodys_orders_and_cannot_take_them_back(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """A session of another client id looks at the whole account; only the sender can cancel."""
    await broker.submit(bracket())
    watcher = broker_of(tws, client_id=9)
    book = await watcher.book()
    assert {(r.id, r.entry, r.quantity, r.type) for r in book.resting} == {
        ("entry:stop", "entry", Decimal(2), OrderType.STOP),
        ("entry:target", "entry", Decimal(2), OrderType.LIMIT),
    }
    assert book.account.positions == {"TEST": Decimal(2)}
    assert book.account.equity == 100_000 - 1
    assert book.time is not None
    await broker.submit(order("waiting", type=OrderType.LIMIT, limit_price=Decimal(80)))
    with pytest.raises(BrokerUnavailable, match="client id 7"):
        await watcher.cancel("waiting")
    await watcher.close()


async def test_a_fill_waits_for_its_commission(tws: FakeTWS) -> None:
    """It is told once it is whole."""
    broker = broker_of(tws, fee_wait_s=60.0)
    tws.house.hold_fees = True
    await broker.submit(order())
    (state,) = await broker.orders()
    assert (state.status, state.filled, state.told) == (OrderStatus.FILLED, Decimal(0), Decimal(2))
    assert await broker.fills() == []
    tws.do(lambda: tws.house.tell_fee(tws.house.deals[0]))
    assert [f.fee for f in await broker.fills()] == [Decimal(1)]
    await broker.close()


async def test_a_fill_that_was_told_never_changes(tws: FakeTWS) -> None:
    """A commission that comes too late is left out, for a fill is told in the same words for ever."""
    broker = broker_of(tws, fee_wait_s=0.0)
    tws.house.hold_fees = True
    await broker.submit(order())
    first = await broker.fills()
    tws.do(lambda: tws.house.tell_fee(tws.house.deals[0]))
    assert await broker.fills() == first
    assert first[0].fee == 0
    await broker.close()


async def test_a_corrected_execution_takes_the_older_one_back(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """The revision at the end of an execution id grows; the one before it is a bust."""
    await broker.submit(order())
    old = (await broker.fills())[0]
    better: Deal = tws.do(lambda: tws.house.correct(tws.house.deals[0], Decimal("99.5")))
    fills = await broker.fills()
    assert [(f.id, f.price, f.fee) for f in fills] == [(better.exec_id, Decimal("99.5"), Decimal(1))]
    assert await broker.busts() == (old.id,)
    tws.do(lambda: tws.house.correct(better, Decimal("99.5"), Decimal(0)))
    assert await broker.fills() == []
    assert await broker.busts() == (old.id, better.exec_id)


async def test_a_correction_without_a_commission_keeps_the_one_before(tws: FakeTWS) -> None:
    """What was paid was paid; the better price comes at once."""
    broker = broker_of(tws, fee_wait_s=60.0)
    await broker.submit(order())
    await broker.fills()
    tws.house.hold_fees = True
    tws.do(lambda: tws.house.correct(tws.house.deals[0], Decimal("99.5")))
    assert [(f.price, f.fee) for f in await broker.fills()] == [(Decimal("99.5"), Decimal(1))]
    await broker.close()


async def test_an_order_id_that_was_used_is_left_behind(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """Error 103 is a refusal; the next connection is told which ids are free."""
    await broker.submit(order("first"))
    while not tws.house.slips[0].done:  # one that still works could be changed under its id
        await asyncio.sleep(0.01)
    used = replace(tws.house.slips[0], order_id=tws.house.slips[0].order_id + 20, ref="elsewhere")
    for free in range(1, 400):  # requests take their numbers from the same row
        tws.house.slips.append(replace(used, order_id=tws.house.slips[0].order_id + free, perm=used.perm + free))
    with pytest.raises(OrderRejected, match="103"):
        await broker.submit(order("second"))
    await broker.submit(order("third"))
    assert [s.status for s in await broker.orders() if s.order.id == "third"] == [OrderStatus.FILLED]


async def test_what_only_the_client_calls_cancelled_is_not(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """An order in no list, cancelled by nobody but ib_async itself, is told by nobody; it is not CANCELLED."""
    await broker.submit(order(type=OrderType.LIMIT, limit_price=Decimal(80)))
    tws.house.unlisted = {"entry"}
    tws.say(507, "Bad message", tws.house.slips[0].order_id)
    await broker.account()
    assert await broker.orders() == []


@pytest.mark.parametrize(
    ("state", "ended", "means"),
    [
        ("Inactive", False, OrderStatus.UNKNOWN),
        ("Inactive", True, OrderStatus.REJECTED),
        ("PendingCancel", False, OrderStatus.WORKING),
        ("ApiCancelled", True, OrderStatus.CANCELLED),
        ("Something new", False, OrderStatus.UNKNOWN),
    ],
)
def test_a_state_means_what_it_must_at_least(state: str, ended: bool, means: OrderStatus) -> None:
    """An inactive order that rests may come to life; a state that nobody knows is unknown."""
    assert status(state, ended=ended) is means


async def test_shares_are_whole(broker: InteractiveBrokers) -> None:
    """A fraction of a share is refused before anything is sent."""
    with pytest.raises(OrderRejected, match="whole number of shares"):
        await broker.submit(Order("half", "TEST", Side.BUY, Decimal("0.5"), EPOCH))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"client_id": 0}, "client 0"),
        ({"contracts": {}}, "contracts is empty"),
        ({"contracts": {"ES": {"secType": "FUT"}}}, "multiplier"),
        ({"contracts": {"TEST": {"secType": "STK", "nonsense": 1}}}, "no arguments"),
    ],
)
async def test_what_cannot_work_is_said_when_it_is_made(tws: FakeTWS, settings: dict[str, Any], why: str) -> None:
    """Each mistake is a ConfigError of its own words."""
    with pytest.raises(ConfigError, match=why):
        broker_of(tws, **settings)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"account": "DU999"}, "DU1234567"),
        ({"contracts": {"NONE": {"secType": "STK"}}}, "name none"),
        ({"contracts": {"SAP": {"secType": "STK", "currency": "EUR"}}}, "paid in EUR"),
    ],
)
async def test_what_the_broker_does_not_know_is_said_at_once(settings: dict[str, Any], why: str) -> None:
    """An account or contract that is not there, or is paid in other money, is a ConfigError with what there is."""
    with FakeTWS(House(listed=(Listed(1, "TEST"), Listed(2, "SAP", currency="EUR")))) as tws:
        broker = broker_of(tws, **settings)
        with pytest.raises(ConfigError, match=why):
            await broker.account()
        await broker.close()


class Racing(House):
    """A market that falls below the stop as soon as an order is taken back."""

    def cancel(self, slip: Slip, why: str = "Cancelled by Trader") -> None:
        """Take it back, and fall."""
        super().cancel(slip, why)
        self.move("TEST", Decimal(89))


async def test_a_stop_that_trades_while_it_makes_way_is_not_followed_by_the_exit() -> None:
    """The target is taken back, the stop trades before it is: the position is gone, and the exit is not sent."""
    with FakeTWS(Racing()) as tws:
        tws.move("TEST", HUNDRED)
        broker = broker_of(tws)
        await broker.submit(bracket())
        with pytest.raises(OrderRejected, match="is held"):
            await broker.submit(order("exit", Side.SELL, reduce_only=True))
        assert (await broker.account()).positions == {}
        await broker.close()
