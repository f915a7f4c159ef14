"""MetaTrader 5, against a local terminal: in the process, and behind a proxy in another."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from agentfund.brokers.metatrader import MetaTrader5Broker
from agentfund.brokers.metatrader_time import Offset
from agentfund.brokers.metatrader_words import LONGEST, comment, named
from agentfund.clock import EPOCH
from agentfund.errors import BrokerUnavailable, ConfigError, MissingExtra, OrderRejected
from agentfund.messages import stable_id
from agentfund.protocols import Broker, Watched
from agentfund.testing.broker import BrokerContract
from agentfund.testing.terminal5 import FakeTerminal, Proxied, serve
from agentfund.testing.terminal5.fake import SYMBOL
from agentfund.trading import Order, OrderStatus, OrderType, Side

ATHENS = timedelta(hours=3)
EURUSD = SYMBOL._replace(
    name="EURUSD.m", digits=5, point=0.00001, trade_contract_size=100_000.0, trade_calc_mode=0, volume_min=0.01, volume_max=5.0
)


def broker_of(terminal: Any, **settings: Any) -> MetaTrader5Broker:
    asked: dict[str, Any] = {"magic": 77, "symbols": ["TEST"], "utc_offset": ATHENS, "timeout_s": 20.0, "settle_s": 0.0}
    return MetaTrader5Broker(terminal, **{**asked, **settings})


def order(name: str = "entry", side: Side = Side.BUY, quantity: str = "2", **more: Any) -> Order:
    return Order(name, more.pop("symbol", "TEST"), side, Decimal(quantity), EPOCH, **more)


def bracket(name: str = "entry", **more: Any) -> Order:
    return order(name, stop_loss=Decimal(90), take_profit=Decimal(110), **more)


@pytest.fixture
def terminal() -> FakeTerminal:
    fake = FakeTerminal()
    fake.move("TEST", 100.0)
    return fake


@pytest.fixture
async def broker(terminal: FakeTerminal) -> AsyncIterator[MetaTrader5Broker]:
    session = broker_of(terminal)
    yield session
    terminal.release()
    await session.close()


class TestContract(BrokerContract):
    """A broker on a netting account keeps the contract."""

    hedging = False

    @pytest.fixture(autouse=True)
    async def _terminal(self) -> AsyncIterator[None]:
        self.terminal = FakeTerminal(hedging=self.hedging)
        self.made: list[MetaTrader5Broker] = []
        yield
        for broker in self.made:
            await broker.close()

    def make_broker(self) -> Broker:
        self.made.append(broker_of(self.terminal))
        return self.made[-1]

    async def move_market(self, broker: Broker, price: Decimal) -> None:
        self.terminal.move("TEST", float(price))

    def cut_connection(self, broker: Broker) -> None:
        self.terminal.connected = False


class TestContractHedging(TestContract):
    """A broker on a hedging account keeps it too."""

    hedging = True


class TestContractProxied(BrokerContract):
    """A broker whose terminal is in another process keeps it too."""

    @pytest.fixture(autouse=True)
    async def _terminal(self) -> AsyncIterator[None]:
        spawn = multiprocessing.get_context("spawn")
        mine, theirs = spawn.Pipe()
        process = spawn.Process(target=serve, args=(theirs,), daemon=True)
        process.start()
        self.terminal = Proxied(mine.recv())
        self.process = process
        self.made: list[MetaTrader5Broker] = []
        yield
        for broker in self.made:
            await broker.close()
        self.terminal.close()
        process.join(10)
        process.close()
        mine.close()
        theirs.close()

    def make_broker(self) -> Broker:
        self.made.append(broker_of(self.terminal))
        return self.made[-1]

    async def move_market(self, broker: Broker, price: Decimal) -> None:
        self.terminal.move("TEST", float(price))

    def cut_connection(self, broker: Broker) -> None:
        self.process.kill()
        self.process.join(10)


def test_the_ids_of_agentfund_go_into_a_comment_and_come_back() -> None:
    """32 digits fit into 25 characters as they are; other short ids too; of a long one there is a hash."""
    for number in range(200):
        name = stable_id("order", number)
        assert len(comment(name)) <= LONGEST
        assert named(comment(name)) == name
    assert named(comment("contract-whole")) == "contract-whole"
    assert len(comment("x" * 40)) == LONGEST
    assert comment("x" * 40) != comment("x" * 41)
    assert named("[sl 1.2345]") == named("") == ""


async def test_without_the_package_it_names_the_way_out() -> None:
    """The package is for Windows alone; the error names extra and proxy."""
    with pytest.raises(MissingExtra, match=r"agentfund\[mt5\].*proxy"):
        MetaTrader5Broker(magic=1, symbols=["TEST"])


async def test_it_looks_and_trades(broker: MetaTrader5Broker) -> None:
    """One object keeps `Broker` and `Watched`, and says that nothing at the broker dedupes ids."""
    assert isinstance(broker, Watched)
    assert not broker.dedupes_ids
    assert broker.brackets


@pytest.mark.parametrize("name", ["positions_get", "orders_get", "history_orders_get", "history_deals_get", "account_info"])
async def test_none_is_an_error_and_never_empty(terminal: FakeTerminal, broker: MetaTrader5Broker, name: str) -> None:
    """A failed query gives None with a last_error: a position must not vanish because of it."""
    await broker.submit(bracket())
    terminal.fail = {name}
    for ask in (broker.account, broker.orders, broker.fills, broker.book):
        with pytest.raises(BrokerUnavailable, match="No IPC connection"):
            await ask()
    with pytest.raises(BrokerUnavailable):
        await broker.submit(order("other"))
    assert len(terminal.sent) == 1


async def test_a_terminal_that_hangs_is_never_called_twice_at_once(terminal: FakeTerminal) -> None:
    """Until the call returns the broker is unavailable; then it works again, and the order that waited was not sent late."""
    broker = broker_of(terminal, timeout_s=1.0)
    await broker.account()
    terminal.hang = {"orders_get"}
    with pytest.raises(BrokerUnavailable, match="no order was sent"):
        await broker.submit(order())
    before = len(terminal.calls)
    for ask in (broker.account, broker.fills):
        with pytest.raises(BrokerUnavailable, match="hangs"):
            await ask()
    assert len(terminal.calls) == before
    terminal.release()
    await _until_it_answers(broker)
    assert terminal.sent == []
    assert terminal.beside == 0
    await broker.close()


async def test_an_order_whose_answer_hangs_is_found_again(terminal: FakeTerminal) -> None:
    """The terminal hung in order_send: the fate is unknown, and the order sent again is the same one."""
    broker = broker_of(terminal, timeout_s=1.0, settle_s=60.0)
    await broker.account()
    terminal.hang = {"order_send"}
    with pytest.raises(BrokerUnavailable, match="may have been carried out"):
        await broker.submit(order())
    terminal.release()
    await _until_it_answers(broker)
    assert (await broker.submit(order())).status is OrderStatus.FILLED
    assert len(terminal.sent) == 1
    await broker.close()


async def _until_it_answers(broker: MetaTrader5Broker) -> None:
    for _ in range(200):
        try:
            await broker.account()
        except BrokerUnavailable:
            await asyncio.sleep(0.01)
        else:
            return
    raise AssertionError("it never answered again")


async def test_an_order_whose_reply_was_lost_is_found_by_its_comment(terminal: FakeTerminal, broker: MetaTrader5Broker) -> None:
    """order_send gave None although the order was carried out: it trades once."""
    terminal.lose_reply = 1
    with pytest.raises(BrokerUnavailable, match="IPC timeout"):
        await broker.submit(bracket())
    assert (await broker.submit(bracket())).status is OrderStatus.FILLED
    assert len(terminal.sent) == 1
    assert (await broker.account()).positions == {"TEST": Decimal(2)}


async def test_an_order_that_was_lost_is_not_sent_again_before_it_must_have_come(terminal: FakeTerminal) -> None:
    """None and nothing in any list: unknown, and for a while it stays so."""
    broker = broker_of(terminal, settle_s=60.0)
    terminal.refuse = [0]
    for _ in range(3):
        with pytest.raises(BrokerUnavailable):
            await broker.submit(order())
    with pytest.raises(BrokerUnavailable):
        await broker.cancel("entry")
    assert len(terminal.sent) == 1
    await broker.close()


async def test_another_process_finds_the_same_orders(terminal: FakeTerminal, broker: MetaTrader5Broker) -> None:
    """An id of agentfund is read back from the comment."""
    name = stable_id("order")
    await broker.submit(bracket(name))
    later = broker_of(terminal)
    assert (await later.submit(bracket(name))).status is OrderStatus.FILLED
    assert [(s.order.id, s.status) for s in await later.orders()] == [(name, OrderStatus.FILLED)]
    assert [f.order_id for f in await later.fills()] == [name]
    assert len(terminal.sent) == 1
    await later.close()


@pytest.mark.parametrize(
    "code", [10004, 10006, 10013, 10014, 10015, 10016, 10017, 10018, 10019, 10020, 10021, 10027, 10030, 10036]
)
async def test_a_code_of_the_table_is_a_refusal(terminal: FakeTerminal, broker: MetaTrader5Broker, code: int) -> None:
    """Nothing was traded and nothing will be; the error names code and reason."""
    terminal.refuse = [code]
    with pytest.raises(OrderRejected, match=str(code)) as refusal:
        await broker.submit(order())
    assert refusal.value.code == str(code)
    assert [s.status for s in await broker.orders()] == [OrderStatus.REJECTED]
    assert (await broker.submit(order())).status is OrderStatus.FILLED


@pytest.mark.parametrize("code", [10011, 10012, 10023, 10028, 10031, 12345])
async def test_any_other_code_leaves_its_fate_unknown(terminal: FakeTerminal, broker: MetaTrader5Broker, code: int) -> None:
    """A timeout or a lost connection is no refusal."""
    terminal.refuse = [code]
    with pytest.raises(BrokerUnavailable, match=str(code)):
        await broker.submit(order())


@pytest.mark.parametrize(("level", "leg"), [(90.0, "stop"), (110.0, "target")])
async def test_stop_and_target_name_their_entry(
    terminal: FakeTerminal, broker: MetaTrader5Broker, level: float, leg: str
) -> None:
    """They are levels of the position; their deals carry no comment of ours, and belong to the entry all the same."""
    await broker.submit(bracket())
    terminal.move("TEST", level)
    entry, exit_ = await broker.fills()
    assert (entry.order_id, entry.leg, exit_.order_id, exit_.leg) == ("entry", "order", "entry", leg)
    assert (await broker.account()).positions == {}
    assert sum(f.quantity * f.side.sign for f in (entry, exit_)) == 0


async def test_a_stop_that_got_lost_is_set(terminal: FakeTerminal, broker: MetaTrader5Broker) -> None:
    """Some brokers take an entry and leave its levels out."""
    terminal.drop_stops = True
    await broker.submit(bracket())
    assert {(r.type, r.price, r.entry) for r in (await broker.book()).resting} == {
        (OrderType.STOP, Decimal(90), "entry"),
        (OrderType.LIMIT, Decimal(110), "entry"),
    }


@pytest.mark.parametrize("step", ["before it arrives", "after it traded", "at the stop"])
async def test_a_terminal_that_is_lost_at_any_step_of_a_bracket_leaves_one_entry_and_one_stop(
    terminal: FakeTerminal, broker: MetaTrader5Broker, step: str
) -> None:
    """Entry and levels are one request; levels that a broker left out are set when the order is asked for again."""
    if step == "before it arrives":
        terminal.refuse = [0]
    elif step == "after it traded":
        terminal.lose_reply = 1
    else:
        terminal.drop_stops, terminal.lose_reply = True, 2
    with pytest.raises(BrokerUnavailable):
        await broker.submit(bracket())
    terminal.lose_reply = 0
    assert (await broker.submit(bracket())).status is OrderStatus.FILLED
    book = await broker.book()
    assert book.account.positions == {"TEST": Decimal(2)}
    assert [(r.quantity, r.price) for r in book.resting if r.type is OrderType.STOP] == [(Decimal(2), Decimal(90))]


async def test_quantities_are_units_and_never_lots() -> None:
    """10,000 EUR are a tenth of a lot; steps and bounds are the broker's."""
    terminal = FakeTerminal({"EURUSD.m": EURUSD})
    terminal.move("EURUSD.m", 1.1, 1.1002)
    broker = broker_of(terminal, symbols={"EURUSD": "EURUSD.m"})
    await broker.submit(order(quantity="10000", symbol="EURUSD", stop_loss=Decimal("1.09")))
    assert terminal.sent[0]["volume"] == 0.1
    assert terminal.sent[0]["symbol"] == "EURUSD.m"
    assert (await broker.account()).positions == {"EURUSD": Decimal(10000)}
    fill = (await broker.fills())[0]
    assert (fill.symbol, fill.quantity, fill.price) == ("EURUSD", Decimal(10000), Decimal("1.1002"))
    for bad in ("10500", "500", "600000"):
        with pytest.raises(OrderRejected, match="units"):
            await broker.submit(order("bad", quantity=bad, symbol="EURUSD"))
    await broker.close()


async def test_a_stop_closer_than_the_broker_allows_is_refused_before_it_is_sent() -> None:
    """stops_level is in points."""
    terminal = FakeTerminal({"TEST": SYMBOL._replace(trade_stops_level=200)})
    terminal.move("TEST", 100.0)
    broker = broker_of(terminal)
    with pytest.raises(OrderRejected, match="closer than"):
        await broker.submit(order(stop_loss=Decimal("98.5")))
    await broker.submit(order(stop_loss=Decimal(98)))
    assert len(terminal.sent) == 1
    await broker.close()


@pytest.mark.parametrize(
    ("flags", "market", "filling"), [(1, True, 0), (3, True, 0), (2, True, 1), (0, True, 1), (0, False, 2)]
)
async def test_the_filling_mode_is_the_symbols(flags: int, market: int, filling: int) -> None:
    """Fill or kill where it is allowed, then immediate or cancel, else what the execution mode knows."""
    terminal = FakeTerminal({"TEST": SYMBOL._replace(filling_mode=flags, trade_exemode=2 if market else 1)})
    terminal.move("TEST", 100.0)
    broker = broker_of(terminal)
    await broker.submit(order())
    assert terminal.sent[0]["type_filling"] == filling
    await broker.close()


async def test_hedging_positions_are_summed_and_exits_name_their_tickets() -> None:
    """Two tickets of one symbol are one position here; an exit closes the oldest first and opens nothing."""
    terminal = FakeTerminal(hedging=True)
    terminal.move("TEST", 100.0)
    broker = broker_of(terminal)
    await broker.submit(bracket("one"))
    await broker.submit(bracket("two", quantity="3"))
    assert (await broker.account()).positions == {"TEST": Decimal(5)}
    state = await broker.submit(order("exit", Side.SELL, "4", reduce_only=True))
    assert (state.status, state.told) == (OrderStatus.FILLED, Decimal(4))
    assert [request["volume"] for request in terminal.sent if "position" in request] == [2.0, 2.0]
    assert (await broker.account()).positions == {"TEST": Decimal(1)}
    assert [s.status for s in await broker.orders() if s.order.id == "exit"] == [OrderStatus.FILLED]
    await broker.close()


@pytest.mark.parametrize("code", [10018, 0])
async def test_an_exit_that_closed_one_ticket_of_two_is_told_as_it_is(code: int) -> None:
    """The second ticket was refused, or its answer never came: what was closed is filled, and nothing awaits the rest."""
    terminal = FakeTerminal(hedging=True)
    terminal.move("TEST", 100.0)
    broker = broker_of(terminal)
    await broker.submit(bracket("one"))
    await broker.submit(bracket("two"))
    terminal.refuse = [-1, code]
    with suppress(BrokerUnavailable):
        await broker.submit(order("exit", Side.SELL, "4", reduce_only=True))
    states = {s.order.id: s for s in await broker.orders()}
    assert (states["exit"].status, states["exit"].filled) == (OrderStatus.CANCELLED, Decimal(2))
    assert (await broker.account()).positions == {"TEST": Decimal(2)}
    await broker.close()


async def test_an_exit_whose_position_is_gone_opens_nothing(terminal: FakeTerminal, broker: MetaTrader5Broker) -> None:
    """The stop was faster: the exit names a ticket that is closed, and is refused."""
    await broker.submit(bracket())
    terminal.move("TEST", 89.0)
    with pytest.raises(OrderRejected, match="0 at most"):
        await broker.submit(order("exit", Side.SELL, reduce_only=True))
    assert (await broker.account()).positions == {}


async def test_a_partly_filled_entry_that_is_cancelled_keeps_its_stop(
    terminal: FakeTerminal, broker: MetaTrader5Broker
) -> None:
    """Stop and target belong to the position, and have its size by themselves."""
    await broker.submit(bracket(quantity="5", type=OrderType.LIMIT, limit_price=Decimal(95)))
    ticket = next(iter(terminal.orders_get() or ())).ticket
    terminal.fill(ticket, 2.0, 95.0)
    state = await broker.cancel("entry")
    assert (state.status, state.filled) == (OrderStatus.CANCELLED, Decimal(2))
    stops = [r for r in (await broker.book()).resting if r.type is OrderType.STOP]
    assert [(r.quantity, r.entry) for r in stops] == [(Decimal(2), "entry")]


async def test_an_entry_that_rested_and_lost_its_stop_gets_it(terminal: FakeTerminal, broker: MetaTrader5Broker) -> None:
    """The broker took the order without its levels; whoever looks at the orders afterwards sets them."""
    terminal.drop_stops = True
    await broker.submit(bracket(type=OrderType.LIMIT, limit_price=Decimal(95)))
    terminal.move("TEST", 95.0)
    await broker.orders()
    assert [r.price for r in (await broker.book()).resting if r.type is OrderType.STOP] == [Decimal(90)]


async def test_a_stop_that_is_refused_is_said(terminal: FakeTerminal, broker: MetaTrader5Broker) -> None:
    """A position without a stop is never reported as if all were well."""
    terminal.drop_stops = True
    await broker.account()
    terminal.after = [10016]
    with pytest.raises(BrokerUnavailable, match="it has no stop"):
        await broker.submit(bracket())


async def test_what_a_person_trades_is_told_as_nobodys(terminal: FakeTerminal, broker: MetaTrader5Broker) -> None:
    """A deal without our magic names its ticket, so that the fund sees a stranger."""
    terminal.by_hand("TEST", 1.0)
    (fill,) = await broker.fills()
    assert fill.order_id.startswith("ticket:")
    assert await broker.orders() == []
    assert (await broker.account()).positions == {"TEST": Decimal(1)}


async def test_a_cancelled_deal_is_a_bust(terminal: FakeTerminal, broker: MetaTrader5Broker) -> None:
    """The broker takes a deal back by changing its type."""
    await broker.submit(order())
    (fill,) = await broker.fills()
    terminal._deals[0] = terminal._deals[0]._replace(type=13)
    assert await broker.fills() == []
    assert await broker.busts() == (fill.id,)


async def test_fees_are_commission_swap_and_fee(terminal: FakeTerminal, broker: MetaTrader5Broker) -> None:
    """The terminal counts costs as negative money; a fill counts them as positive, and never differently afterwards."""
    await broker.submit(order())
    terminal._deals[0] = terminal._deals[0]._replace(commission=-1.0, swap=-0.25, fee=-0.5)
    first = await broker.fills()
    assert first[0].fee == Decimal("1.75")
    terminal._deals[0] = terminal._deals[0]._replace(commission=-9.0)
    assert await broker.fills() == first


async def test_the_time_zone_is_found_from_fresh_ticks(terminal: FakeTerminal) -> None:
    """Brokers count in a time zone of their own and do not say which."""
    broker = broker_of(terminal, utc_offset=None)
    before = datetime.now(UTC)
    await broker.submit(order())
    await broker.account()
    terminal.move("TEST", 100.5)
    (fill,) = await broker.fills()
    assert before - timedelta(seconds=2) <= fill.time <= datetime.now(UTC) + timedelta(seconds=2)
    await broker.close()


async def test_a_closed_market_does_not_tell_the_time_zone(terminal: FakeTerminal) -> None:
    """One tick, however old, is no proof: no fill is told with a time that may be hours off."""
    broker = broker_of(terminal, utc_offset=None, timeout_s=1.0)
    await broker.submit(order())
    with pytest.raises(BrokerUnavailable, match="utc_offset"):
        await broker.fills()
    await broker.close()


def test_an_offset_must_be_stable() -> None:
    """Two fresh ticks agree, or nobody knows; a stale tick says nothing; another offset makes it unknown again."""
    now = datetime(2026, 3, 2, 12, tzinfo=UTC)

    def tick(hours: float, seconds: float = 0.0) -> int:
        return int((now + timedelta(hours=hours, seconds=seconds)).timestamp() * 1000)

    offset = Offset()
    offset.note(tick(2), now)
    assert offset.value is None
    offset.note(tick(2), now)  # the same tick once more
    assert offset.value is None
    offset.note(tick(2, 1), now)
    assert offset.value == timedelta(hours=2)
    offset.note(tick(2, 200), now)  # no quarter of an hour
    assert offset.value == timedelta(hours=2)
    offset.note(tick(3), now)
    assert offset.value is None
    offset.note(tick(3, 1), now)
    assert offset.value == timedelta(hours=3)


async def test_the_heartbeat_beats_while_the_terminal_answers(terminal: FakeTerminal) -> None:
    """It is the time in seconds, and it stops where the terminal hangs and where the fund ends."""
    beats: list[str] = []
    broker = broker_of(terminal, heartbeat=beats.append)
    await broker.account()
    for _ in range(100):
        if beats:
            break
        await asyncio.sleep(0.01)
    assert abs(int(beats[0]) - datetime.now(UTC).timestamp()) < 60
    await broker.close()


@pytest.mark.parametrize(
    ("symbol", "why"),
    [
        (None, "no symbol"),
        (SYMBOL._replace(currency_profit="JPY"), "counted in JPY"),
        (SYMBOL._replace(trade_calc_mode=1), "not price times size"),
    ],
)
async def test_an_instrument_that_cannot_be_booked_is_said_at_once(symbol: Any, why: str) -> None:
    """Its cash would be wrong; so it is a ConfigError."""
    terminal = FakeTerminal({"OTHER": SYMBOL} if symbol is None else {"TEST": symbol})
    broker = broker_of(terminal)
    with pytest.raises(ConfigError, match=why):
        await broker.account()
    await broker.close()


@pytest.mark.parametrize(("settings", "why"), [({"symbols": []}, "symbols"), ({"magic": 0}, "magic")])
async def test_what_cannot_work_is_said_when_it_is_made(terminal: FakeTerminal, settings: dict[str, Any], why: str) -> None:
    """Each mistake is a ConfigError of its own words."""
    with pytest.raises(ConfigError, match=why):
        broker_of(terminal, **settings)
