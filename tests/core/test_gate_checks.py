"""Each check of the gate on its own: it denies with its code, allows just inside of its limit, and spares exits or does not."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import fields, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from agentfund import Instrument, Limits, Order, Portfolio, Side
from agentfund.core.gate import CHECKS, Rates, Scene, Status, check
from agentfund.hours import Blackout, Blackouts, Hours, Schedule
from agentfund.market import Quote
from agentfund.trading import Level, OrderState, OrderStatus, OrderType, Permit, Position
from tests.core.test_gate import order as usual
from tests.market import START

D = Decimal
NOW_US = int(START.timestamp()) * 1_000_000
OPEN = Hours({"": Schedule("x", (NOW_US - 10,), (NOW_US + 10,), NOW_US - 100, NOW_US + 100)})
SHUT = Hours({"": Schedule("x", (NOW_US - 10,), (NOW_US,), NOW_US - 100, NOW_US + 100)})
FORGOTTEN = Hours({"": Schedule("x", (NOW_US - 10,), (NOW_US,), NOW_US - 100, NOW_US)})
LONG = Portfolio(D(90_000), {"SIM": Position("SIM", D(100), D(100), START)})
OTHER = Portfolio(D(90_000), {"SIM2": Position("SIM2", D(100), D(100), START)})
LIMIT: dict[str, Any] = {"type": OrderType.LIMIT, "limit_price": D(100)}


def order(**changes: Any) -> Order:
    """Return a purchase for 10,000, a tenth of equity."""
    return usual(**changes)


def scene(**changes: Any) -> Scene:
    """Return a scene of live trading in which every fact is told and all is well."""
    live = Scene(
        now=START,
        decided=START,
        instrument=Instrument("SIM"),
        price=D(100),
        quote_age_s=0,
        portfolio=Portfolio(D(100_000)),
        prices={"SIM": D(100), "SIM2": D(100)},
        equity=D(100_000),
        peak_equity=D(100_000),
        day_equity=D(100_000),
        live=True,
        permit=Permit(),
        hours=OPEN,
        status=Status.TRADING,
        quote=quote(),
        volume=D(1_000),
        sectors={"SIM": "tech", "SIM2": "tech"},
        clusters={"SIM": "fast", "SIM2": "fast"},
        buying_power=D(200_000),
        margin_used=0.0,
        day_peak_equity=D(100_000),
        proposed_by=("strategist",),
        decided_quantity=D(100),
    )
    return replace(live, **changes)


def quote(bid: Any = 100.0, ask: Any = 100.0, last: Any = None, *, age: float = 0.0, symbol: str = "SIM") -> Quote:
    """Return a quote."""
    return Quote(symbol, bid, ask, last, START - timedelta(seconds=age))


def working(number: str = "w", *, status: OrderStatus = OrderStatus.WORKING, filled: int = 0, **changes: Any) -> OrderState:
    """Return an open order that nothing but its size speaks against."""
    old = {"id": number, "decision": "d0", "time": START - timedelta(hours=1), **changes}
    return OrderState(order(**old), status, D(filled))


N: dict[str, Any] = {}


class Row(NamedTuple):
    """What a check denies, and what it allows just inside: changes of order, scene and limits."""

    code: str
    denied: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
    allowed: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]


def row(code: str, *denied: dict[str, Any], inside: tuple[dict[str, Any], ...] = ()) -> Row:
    """Return a row; what is not told is not changed, and an unchanged limit stays in what is allowed."""
    o, s, m = [*denied, *[N] * (3 - len(denied))]
    io, is_, im = [*inside, *[N] * (3 - len(inside))]
    return Row(code, (o, s, m), (io, is_, im or m))


SELL: dict[str, Any] = {"side": Side.SELL, "stop_loss": D(102), "take_profit": D(96)}
ROWS = [
    row("halt", N, {"permit": Permit(Level.HALT)}, inside=(N, {"permit": Permit(Level.NORMAL)})),
    row("halt", N, {"permit": Permit(Level.KILL, cause="c1")}),
    row("no_permit", N, {"permit": None}, inside=(N, {"permit": None, "live": False})),
    row("level", N, {"permit": Permit(Level.REDUCE_ONLY)}),
    row("lease", N, {"permit": Permit(lease=False)}),
    row("schema", {"type": OrderType.MARKET, "limit_price": D(1)}, inside=(LIMIT,)),
    row("schema", {"type": OrderType.LIMIT, "limit_price": D(100), "stop_price": D(100)}),
    row("schema", {"quantity": D("1E+24")}),
    row("schema", {"time": START.replace(tzinfo=None)}),
    row("schema", {"symbol": ""}),
    row(
        "new_symbol",
        N,
        {"permit": Permit(Level.CAUTION)},
        inside=(N, {"permit": Permit(Level.CAUTION), "portfolio": LONG, "volume": D(2_000)}),
    ),
    row("restricted", N, N, {"restricted": frozenset({"SIM"})}, inside=(N, N, {"restricted": frozenset({"SIM2"})})),
    row("not_allowed", N, N, {"symbols": frozenset({"SIM2"})}, inside=(N, N, {"symbols": frozenset({"SIM"})})),
    row("unknown_symbol", N, {"instrument": Instrument("SIM2")}),
    row("broker", N, {"blind": "it cannot be seen"}),
    row("degraded", N, {"degraded": True}),
    row(
        "unknown_order",
        N,
        {"orders": (working(status=OrderStatus.UNKNOWN),)},
        inside=(N, {"orders": (working(status=OrderStatus.UNKNOWN, symbol="SIM2"),)}),
    ),
    row("unknown_hours", N, {"hours": None}, inside=(N, {"hours": None}, {"require_hours": False})),
    row("unknown_hours", N, {"hours": FORGOTTEN}),
    row("unknown_hours", N, {"hours": Hours({"SIM2": OPEN.schedules[""]})}),
    row(
        "closed",
        N,
        {"hours": SHUT},
        inside=(N, {"hours": SHUT, "now": START - timedelta(microseconds=1), "decided": START - timedelta(seconds=1)}),
    ),
    row(
        "blackout",
        N,
        {"blackouts": Blackouts((Blackout(START, START + timedelta(seconds=1), frozenset({"SIM"})),))},
        inside=(N, {"blackouts": Blackouts((Blackout(START - timedelta(seconds=1), START),))}),
    ),
    row(
        "blackout",
        N,
        {"blackouts": Blackouts(until=START)},
        inside=(N, {"blackouts": Blackouts(until=START + timedelta(microseconds=1))}),
    ),
    row("halted", N, {"status": Status.HALTED}, inside=(N, {"status": None})),
    row("unknown_status", N, {"status": None}, {"require_status": True}, inside=(N, {"status": Status.TRADING})),
    row("price_band", N, {"status": Status.LIMIT_UP}),
    row("price_band", N, {"status": Status.LIMIT_DOWN}),
    row("quote", N, {"price": D(0)}),
    row("stale_quote", N, {"quote_age_s": -1.01}, inside=(N, {"quote_age_s": -1})),
    row("stale_quote", N, {"quote_age_s": 60.01}, inside=(N, {"quote_age_s": 60})),
    row("no_quote", N, {"quote": None}, inside=(N, {"quote": None}, {"require_quote": False})),
    row("old_quote", N, {"quote": quote(age=60.01)}, inside=(N, {"quote": quote(age=60)})),
    row("old_quote", N, {"quote": quote(age=-1.01)}, inside=(N, {"quote": quote(age=-1)})),
    row("bad_quote", N, {"quote": quote(symbol="SIM2")}),
    row(
        "bad_quote", N, {"quote": quote(None, None)}, inside=(N, {"quote": quote(None, None, 100.0)}, {"require_quote": False})
    ),
    row("bad_quote", N, {"quote": quote(100.01, 100.0)}, inside=(N, {"quote": quote(100.0, 100.0)})),
    row("gate_error", N, {"quote": quote(0.0, 100.0)}),
    row("gate_error", N, {"quote": quote(float("nan"), 100.0)}),
    row("spread", N, {"quote": quote(99.49, 100.50)}, inside=(N, {"quote": quote(99.5, 100.5)})),
    row("spread", N, {"quote": quote(None, 100.0)}, inside=(N, {"quote": quote(None, 100.0)}, {"require_quote": False})),
    row("jump", N, {"quote": quote(89.99, 89.99)}, inside=(N, {"quote": quote(90.0, 90.0)})),
    row("jump", N, {"quote": quote(110.01, 110.01)}, inside=(N, {"quote": quote(110.0, 110.0)})),
    row("collar", {**LIMIT, "limit_price": D("110.01")}, inside=({**LIMIT, "limit_price": D(110)},)),
    row(
        "lot",
        {"quantity": D("99.5")},
        {"instrument": Instrument("SIM", D("0.01"), D(1))},
        inside=({"quantity": D(99)}, {"instrument": Instrument("SIM", D("0.01"), D(1))}),
    ),
    row("tick", {"stop_loss": D("98.001")}, inside=({"stop_loss": D("98.01")},)),
    row("min_notional", N, {"min_notional": D("10000.01")}, inside=(N, {"min_notional": D(10_000)})),
    row("reduce_only", {"reduce_only": True}),
    row("order_quantity", N, N, {"max_order_quantity": 99.99}, inside=(N, N, {"max_order_quantity": 100})),
    row("order_notional", N, N, {"max_order_notional": 9_999.99}, inside=(N, N, {"max_order_notional": 10_000})),
    row("volume", N, {"volume": D("999.99")}, inside=(N, {"volume": D(1_000)})),
    row("volume", N, {"volume": None}, inside=(N, {"volume": None}, {"max_volume_pct": 1e12})),
    row("volume", N, {"volume": D(0)}),
    row("short", SELL, inside=(SELL, N, {"allow_short": True})),
    row("equity", N, {"equity": D(0)}),
    row("order_size", N, N, {"max_order_pct": 9.99}, inside=(N, N, {"max_order_pct": 10})),
    row("order_size", N, {"quote": quote(100.01, 100.01)}, {"max_order_pct": 10}),
    row(
        "position_size",
        N,
        {"portfolio": LONG, "orders": (working(filled=90),)},
        {"max_position_pct": 20.99},
        inside=(N, {"portfolio": LONG, "orders": (working(filled=90),)}, {"max_position_pct": 21}),
    ),
    row(
        "leverage",
        N,
        {"portfolio": OTHER, "orders": (working(symbol="SIM2", filled=90),)},
        {"max_leverage": 0.2099},
        inside=(N, {"portfolio": OTHER, "orders": (working(symbol="SIM2", filled=90),)}, {"max_leverage": 0.21}),
    ),
    row(
        "leverage",
        N,
        {"orders": (working(symbol="SIM2", status=OrderStatus.UNKNOWN, type=OrderType.STOP, stop_price=D(110)),)},
        {"max_leverage": 0.2099},
        inside=(N, {"orders": (working(symbol="SIM2", status=OrderStatus.UNKNOWN),)}, {"max_leverage": 0.21}),
    ),
    row(
        "net_leverage",
        N,
        {"portfolio": OTHER},
        {"max_net_leverage": 0.199},
        inside=(N, {"portfolio": OTHER}, {"max_net_leverage": 0.2}),
    ),
    row(
        "sector_size",
        N,
        {"portfolio": OTHER},
        {"max_sector_pct": 19.9},
        inside=(N, {"portfolio": OTHER}, {"max_sector_pct": 20}),
    ),
    row(
        "sector_size",
        N,
        {"portfolio": OTHER, "sectors": {"SIM": "tech"}},
        {"max_sector_pct": 15},
        inside=(N, {"portfolio": OTHER, "sectors": {"SIM": "tech", "SIM2": "oil"}}),
    ),
    row("sector_size", N, {"sectors": None}, {"max_sector_pct": 50}, inside=(N, {"sectors": None}, {"max_sector_pct": 100})),
    row(
        "cluster_size",
        N,
        {"portfolio": OTHER},
        {"max_cluster_pct": 19.9},
        inside=(N, {"portfolio": OTHER}, {"max_cluster_pct": 20}),
    ),
    row("cluster_size", N, {"clusters": {}}, {"max_cluster_pct": 50}),
    row("positions", N, {"portfolio": OTHER}, {"max_positions": 1}, inside=(N, {"portfolio": LONG}, {"max_positions": 1})),
    row(
        "open_orders",
        N,
        {"orders": (working(), working("w2"))},
        {"max_open_orders": 2},
        inside=(N, {"orders": (working(),)}, {"max_open_orders": 2}),
    ),
    row("buying_power", N, {"portfolio": Portfolio(D("9999.99"))}, inside=(N, {"portfolio": Portfolio(D(10_000))})),
    row("buying_power", N, {"buying_power": D("10526.31")}, inside=(N, {"buying_power": D("10526.32")})),
    row("margin", N, {"margin_used": 0.5}, inside=(N, {"margin_used": 0.4999})),
    row("order_rate", N, {"ordered_last_hour": 50}, inside=(N, {"ordered_last_hour": 49})),
    *(
        row(code, N, {name: Rates(**{span: most})}, inside=(N, {name: Rates(**{span: most - 1})}))
        for code, name in (("order_rate", "rates"), ("agent_rate", "agent_rates"))
        for span, most in (("second", 2), ("minute", 10), ("hour", 50), ("day", 1_000))
    ),
    row(
        "critical_rate", N, {"critical": True, "critical_last_day": 10}, inside=(N, {"critical": True, "critical_last_day": 9})
    ),
    row("duplicate", N, {"recent": (order(time=START - timedelta(days=1), decision="d0"),)}),
    row("duplicate", N, {"orders": (working("id1"),)}),
    row(
        "duplicate",
        N,
        {"recent": (working(time=START - timedelta(seconds=59.9)).order,)},
        inside=(N, {"recent": (working(time=START - timedelta(seconds=60)).order,)}),
    ),
    row("repeated", N, {"repeats": 5}, inside=(N, {"repeats": 4})),
    row("daily_loss", N, {"day_equity": D("103092.79")}, inside=(N, {"day_equity": D("103092.78")})),
    row("drawdown", N, {"peak_equity": D(125_000)}, inside=(N, {"peak_equity": D("124999.99")})),
    row("intraday_drawdown", N, {"day_peak_equity": D("105263.16")}, inside=(N, {"day_peak_equity": D("105263.15")})),
    row("intraday_drawdown", N, {"day_peak_equity": None}, inside=(N, {"day_peak_equity": None, "live": False})),
    row("no_stop", {"stop_loss": None}, inside=({"stop_loss": None}, N, {"require_stop": False})),
    row("stop_distance", {"stop_loss": D(100)}, inside=({"stop_loss": D("99.99")},)),
    row("stop_distance", {"stop_loss": D("84.99")}, inside=({"stop_loss": D(85)},)),
    row(
        "stop_distance",
        {**LIMIT, "limit_price": D(95), "stop_loss": D(97)},
        inside=({**LIMIT, "limit_price": D(95), "stop_loss": D(94)},),
    ),
    row("target", {"take_profit": D(100)}, inside=({"take_profit": D("100.01")},)),
    row("risk", N, N, {"max_risk_pct": 0.199}, inside=(N, N, {"max_risk_pct": 0.2})),
    row("risk", N, {"quote": quote(100.01, 100.01)}, {"max_risk_pct": 0.2}),
    row(
        "self_cross",
        {**LIMIT},
        {"orders": (working(**SELL, **LIMIT),)},
        inside=({**LIMIT, "limit_price": D("99.99")}, {"orders": (working(**SELL, **LIMIT),)}),
    ),
    row("self_cross", N, {"orders": (working(**SELL, **LIMIT),)}),
    row("no_decision", {"decision": ""}),
    row(
        "stale_decision",
        N,
        {"decided": START - timedelta(seconds=120.1)},
        inside=(N, {"decided": START - timedelta(seconds=120)}),
    ),
    row("stale_decision", {"time": START + timedelta(seconds=1.1)}, inside=({"time": START + timedelta(seconds=1)},)),
    row("proposer", N, {"proposed_by": ()}, {"proposers": frozenset({"strategist"})}, inside=(N, N)),
    row("proposer", N, {"proposed_by": ("strategist", "other")}, {"proposers": frozenset({"strategist"})}),
    row("more_than_decided", N, {"decided_quantity": D("99.99")}),
    row("more_than_decided", N, {"decided_quantity": None}, inside=(N, {"decided_quantity": None, "live": False})),
    row(
        "more_than_decided",
        N,
        {"recent": (working(decision="d1", quantity=D(1)).order,)},
        inside=(N, {"recent": (working(decision="d1", quantity=D(1)).order,), "decided_quantity": D(101)}),
    ),
]
IDS = [f"{number}-{one.code}" for number, one in enumerate(ROWS)]


def code(changes: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]) -> str:
    """Return the code of the denial, empty where the order is allowed."""
    denial = check(order(**changes[0]), scene(**changes[1]), Limits(**changes[2]))
    return denial.code if denial else ""


@pytest.mark.parametrize("one", ROWS, ids=IDS)
def test_a_check_denies_with_its_code_and_allows_just_inside(one: Row) -> None:
    """In live trading with all facts told."""
    assert code(one.denied) == one.code
    assert code(one.allowed) == ""


def test_every_check_stands_in_the_table() -> None:
    """And each at least once."""
    assert {one.code for one in ROWS} == {one.code for one in CHECKS} | {"gate_error"}
    assert len({one.code for one in CHECKS}) == len(CHECKS)


CLOSING: dict[str, Any] = {"id": "exit", "side": Side.SELL, "stop_loss": None, "take_profit": None, "reduce_only": True}
SCENES = [one for one in ROWS if not one.denied[0] and one.code != "self_cross"]


@pytest.mark.parametrize("one", SCENES, ids=[f"{number}-{one.code}" for number, one in enumerate(SCENES)])
def test_an_exit_passes_unless_its_column_says_otherwise(one: Row) -> None:
    """The same scene, and an order that closes a position in it."""
    rules = {each.code: each.exits for each in CHECKS}
    view, held = dict(one.denied[1]), Portfolio(D(90_000), {"SIM": Position("SIM", D(100), D(100), START)})
    denial = check(order(**CLOSING), scene(**{**view, "portfolio": held}), Limits(**one.denied[2]))
    if rules.get(one.code) == "checked":
        assert denial is not None
        assert denial.code == one.code
    elif one.code != "stale_quote":
        assert denial is None


def test_an_exit_may_meet_an_open_entry() -> None:
    """Nothing but a halt keeps a position from being closed: the entry is taken back."""
    entry = working(symbol="SIM", **LIMIT)
    assert check(order(**CLOSING), scene(portfolio=LONG, orders=(entry,)), Limits()) is None


def test_at_level_one_entries_are_half_as_large() -> None:
    """Every size that is limited."""
    known = {
        "permit": Permit(Level.CAUTION),
        "portfolio": Portfolio(D(100_000), {"SIM": Position("SIM", D("0.0001"), D(100), START)}),
    }
    for name, most, expected in (
        ("max_order_quantity", 200, "order_quantity"),
        ("max_order_notional", 20_000, "order_notional"),
        ("max_volume_pct", 20, "volume"),
        ("max_order_pct", 20, "order_size"),
        ("max_position_pct", 20.0001, "position_size"),
        ("max_risk_pct", 0.4, "risk"),
    ):  # fmt: skip
        usual = {"max_volume_pct": 50, name: most}
        assert code(({}, known, usual)) == "", name
        assert code(({}, known, {**usual, name: most * 0.999})) == expected


def test_a_fact_that_nobody_told_is_asked_for_in_live_trading_alone() -> None:
    """A backtest has no permit, no hours, no quote; the same in live trading is a denial of each."""
    names = [one.name for one in fields(Scene) if one.default is None]
    assert code(({}, {**dict.fromkeys(names), "live": False}, {})) == ""
    asked: dict[str, Any] = {"require_status": True, "max_sector_pct": 50, "max_cluster_pct": 50}
    spared = {"buying_power", "margin_used"}  # the broker may not say; then the fund's own books bound the order
    for name in set(names) - spared:
        assert code(({}, {name: None}, asked)) not in ("", "gate_error"), name


def test_the_callers_arithmetic_changes_nothing() -> None:
    """A thread may work with three digits and with no traps."""
    from decimal import Context, localcontext

    with localcontext(Context(prec=3, traps=[])):
        assert code(({}, {}, {"max_order_pct": 9.999999})) == "order_size"
        assert code(({}, {"equity": D("NaN")}, {})) == "gate_error"


def test_a_number_that_would_have_to_be_rounded_is_not_judged() -> None:
    """Digits beyond any amount of money."""
    assert code(({}, {"portfolio": Portfolio(D("100000." + "0" * 450 + "1"))}, {})) == "gate_error"


@pytest.mark.parametrize("one", CHECKS, ids=[one.code for one in CHECKS])
def test_a_check_looks_at_the_limits_that_it_names(one: Any) -> None:
    """So that the table in the documentation cannot say otherwise."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    names = {field.name for field in fields(Limits)}
    seen = {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
    seen |= {node.value for node in ast.walk(function) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    helped = {"sector_size": {"max_leverage"}, "cluster_size": {"max_leverage"}}
    assert (seen & names) | helped.get(one.code, set()) == set(one.limits)
