"""Seeded intents and scenes, most of them close to one that the gate allows, with anything that may go wrong in them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from agentfund.core.gate import Limits, Rates, Scene, Status
from agentfund.hours import Blackout, Blackouts, Hours, Schedule
from agentfund.market import Instrument, Quote
from agentfund.trading import Level, Order, OrderState, OrderStatus, OrderType, Permit, Portfolio, Position, Side
from tests.market import START

D = Decimal
SYMBOLS = ("SIM", "SIM2", "SIM3")
NOW_US = int(START.timestamp()) * 1_000_000
HOUR_US = 3_600_000_000

RUBBISH: tuple[Any, ...] = (
    None, "", "100", b"1", float("nan"), math.inf, -math.inf, 1.5, 0, 1, -1, True, [], {}, object,
    D("NaN"), D("sNaN"), D("Infinity"), D("-Infinity"), D(0), D(-1), D("1E+24"), D("1E+30"), D("-1E+25"), D("1E-40"),
    D("9" * 40), START, START.replace(tzinfo=None), Side.SELL, Level.KILL,
)  # fmt: skip


def limits_of(r: Chance) -> Limits:
    """Return limits, a few of them other than usual."""
    changed: dict[str, Any] = {}
    choices: dict[str, tuple[Any, ...]] = {
        "symbols": (frozenset({"SIM"}), frozenset({"SIM", "SIM2"}), frozenset({"SIM2"})),
        "restricted": (frozenset({"SIM2"}), frozenset({"SIM"})),
        "proposers": (frozenset({"strategist"}), frozenset({"other"}), frozenset({"strategist", "other"})),
        "allow_short": (True, True, False),
        "require_hours": (False,),
        "require_status": (True,),
        "require_quote": (False,),
        "require_stop": (False,),
        "max_order_quantity": (50, 100, 200),
        "max_order_notional": (5_000, 10_000, 20_000.5),
        "max_volume_pct": (1, 5, 1e12),
        "max_order_pct": (10, 50, 200),
        "max_position_pct": (10, 60.5, 200),
        "max_leverage": (0.5, 1.5, 3),
        "max_net_leverage": (0.1, 0.5, 1),
        "max_sector_pct": (10, 30, 1e12),
        "max_cluster_pct": (10, 30, 1e12),
        "max_positions": (1, 2),
        "max_open_orders": (1, 2),
        "haircut_pct": (0, 50),
        "max_risk_pct": (0.2, 1, 5),
        "max_stop_pct": (1, 2, 50),
        "max_spread_pct": (0.02, 5, 1e12),
        "max_jump_pct": (0.01, 1),
        "collar_pct": (1, 50),
        "max_daily_loss_pct": (1, 50),
        "max_drawdown_pct": (1, 50),
        "max_intraday_drawdown_pct": (1, 50),
        "duplicate_window_s": (1, 3_600),
    }
    for name in r.sample(list(choices), r.choice((0, 0, 1, 2, 3, 6))):
        changed[name] = r.choice(choices[name])
    return Limits(**changed)


class Chance(random.Random):
    """Seeded chance that is calm half of the time: then nearly all is well, and what is wrong is wrong alone."""

    calm = False

    def some(self, options: Sequence[Any]) -> Any:
        """Return one of the options, of which the first is the one that is well."""
        return options[0] if self.calm and self.random() < 0.95 else self.choice(options)


def order_of(r: Chance) -> Order:
    """Return an order that most scenes would allow."""
    side = r.some((Side.BUY, Side.BUY, Side.SELL))
    sign, price = side.sign, D(100)
    kind = r.some((OrderType.MARKET, OrderType.MARKET, OrderType.LIMIT, OrderType.STOP))
    told: dict[str, Any] = {"limit_price": None, "stop_price": None}
    if kind is OrderType.LIMIT:
        price = told["limit_price"] = r.some((D("99.50"), D(100), D("101.00"), D("109.99"), D(110), D("110.01"), D(90)))
    if kind is OrderType.STOP:
        price = told["stop_price"] = r.some((D("100.50"), D(100), D(99), D(105), D(111)))
    return Order(
        id=r.some(("id1", "id1", "id1", "w0", "r0")),
        symbol=r.some(("SIM", "SIM", "SIM", "SIM2")),
        side=side,
        quantity=r.some((D(100), D(100), D(10), D(50), D("50.0001"), D(500), D(1000), D("1000.0001"))),
        time=START - timedelta(seconds=r.some((0, 0, 60, -1, -1.5))),
        type=kind,
        stop_loss=r.some((min(price, D(100)) - 2 * sign, max(price, D(100)) - 2 * sign, price - 15 * sign, price, None)),
        take_profit=r.some((None, price + 4 * sign, price - 4 * sign, max(price, D(100)) + 20 * sign)),
        reduce_only=r.random() < 0.15,
        decision=r.some(("d1", "d1", "d2")) if r.random() > 0.02 else "",
        **told,
    )


def _working(r: Chance, number: int, around: Order) -> OrderState:
    kind = r.some(tuple(OrderType))
    price = r.some((D(95), D(100), D(105)))
    order = Order(
        id=f"w{number}",
        symbol=r.some(SYMBOLS),
        side=r.some((around.side, around.side, Side.BUY, Side.SELL)),
        quantity=r.some((D(10), D(100), D(400))),
        time=START - timedelta(seconds=r.some((5, 59, 60, 61, 900))),
        type=kind,
        limit_price=price if kind is OrderType.LIMIT else None,
        stop_price=price if kind is OrderType.STOP else None,
        reduce_only=r.random() < 0.2,
        decision=r.some(("d0", "d1")),
    )
    status = r.some((OrderStatus.WORKING, OrderStatus.WORKING, OrderStatus.INTENDED, OrderStatus.UNKNOWN))
    return OrderState(order, status, r.some((D(0), D(0), D(5), D(10), D(500))))


def _hours(r: Chance) -> Hours | None:
    schedules = (
        Schedule("x", (NOW_US - HOUR_US,), (NOW_US + HOUR_US,), NOW_US - 9 * HOUR_US, NOW_US + 9 * HOUR_US),
        Schedule("x", (NOW_US,), (NOW_US + 1,), NOW_US, NOW_US + 1),
        Schedule("x", (NOW_US - 5,), (NOW_US,), NOW_US - 5, NOW_US + 5),
        Schedule("x", (), (), NOW_US - 5, NOW_US + 5),
        Schedule("x", (NOW_US - 5,), (NOW_US + 5,), NOW_US - 5, NOW_US),
    )
    one = r.some((0, 0, 0, 0, 1, 2, 3, 4))
    return Hours({r.some(("", "", "SIM", "SIM2")): schedules[one]})


def _blackouts(r: Chance) -> Blackouts:
    names = (frozenset[str](), frozenset({"SIM"}), frozenset({"SIM2", "SIM3"}))
    windows = []
    for _ in range(r.some((0, 1, 3))):
        start = START + timedelta(seconds=r.some((-3_600, -60, -1, 0, 1, 60)))
        end = start + timedelta(seconds=r.some((1, 60, 7_200)))
        windows.append(Blackout(start, end, r.some(names), "news"))
    until = r.some((None, None, START, START + timedelta(seconds=1), START - timedelta(days=1)))
    return Blackouts(tuple(windows), until)


def scene_of(r: Chance, order: Order) -> Scene:
    """Return a scene in which much is well."""
    live = r.random() < 0.5
    positions = {}
    for symbol in r.sample(SYMBOLS, r.some((0, 0, 1, 1, 2))):
        positions[symbol] = Position(symbol, r.some((D(500), D(-500), D(100), D(-100), D(10))), D(100), START)
    if r.random() < (0.1 if r.calm else 0.25):  # something to close
        positions[order.symbol] = Position(order.symbol, -order.side.sign * r.some((D(100), D(1000))), D(100), START)
    prices = {symbol: r.some((D(100), D(100), D("100.5"), D(99))) for symbol in SYMBOLS}
    equity = r.some((D(100_000), D(100_000), D(97_000), D(97_001), D(80_000), D("80000.01"), D(10_000)))
    groups = {"SIM": "a", "SIM2": r.some("ab"), "SIM3": "b"}
    return Scene(
        now=START,
        decided=START - timedelta(seconds=r.some((0, 0, 0, 120))),
        instrument=Instrument(order.symbol),
        price=D(100),
        quote_age_s=r.some((0, 0, 0.0, 60, 60.0)),
        portfolio=Portfolio(r.some((D(100_000), D(1_000_000), D(50_000))), MappingProxyType(positions)),
        prices=prices,
        equity=equity,
        peak_equity=max(equity, D(100_000)),
        day_equity=r.some((equity, equity, D(100_000))),
        orders=tuple(_working(r, n, order) for n in range(r.some((0, 0, 0, 1, 2)))),
        recent=tuple(_recent(r, n, order) for n in range(r.some((0, 0, 1, 2)))),
        critical_last_day=r.some((0, 0, 9, 10)),
        critical=r.random() < 0.15,
        live=live,
        permit=r.some((Permit(), Permit(), Permit(), None, Permit(Level.CAUTION))),
        hours=_hours(r) if live or r.random() < 0.2 else None,
        blackouts=_blackouts(r) if r.random() < 0.2 else Blackouts(),
        status=r.some((None, Status.TRADING)),
        quote=Quote(order.symbol, 99.99, 100.01, r.some((None, 100.0)), START) if live or r.random() < 0.3 else None,
        volume=r.some((D(1000), D(10_000))) if live or r.random() < 0.3 else None,
        sectors=groups if live or r.random() < 0.3 else None,
        clusters=groups if live or r.random() < 0.3 else None,
        buying_power=r.some((None, None, D(100_000), D(10_000), D("10526.31"))),
        margin_used=r.some((None, None, 0.1, 0.5, 0.49)),
        day_peak_equity=max(equity, D(90_000)) if live or r.random() < 0.3 else None,
        proposed_by=r.some((("strategist",), ("strategist",), ("strategist", "other"), ())),
        decided_quantity=order.quantity if live or r.random() < 0.3 else None,
    )


def _recent(r: Chance, number: int, around: Order) -> Order:
    ago = timedelta(seconds=r.some((1, 59, 60, 61, 4_000, -5)))
    base = replace(around, id=f"r{number}", time=START - ago, decision=r.some(("d0", "d1")))
    return replace(base, quantity=r.some((around.quantity, D(7))), symbol=r.some((around.symbol, "SIM3")))


CHANGES: dict[str, tuple[Any, ...]] = {
    "critical": (True,),
    "blackouts": (
        Blackouts(
            (
                Blackout(START - timedelta(hours=1), START + timedelta(hours=1)),
                Blackout(START - timedelta(seconds=60), START - timedelta(seconds=59)),
            )
        ),
    ),
    "degraded": (True,),
    "blind": ("the broker cannot be seen",),
    "permit": (
        Permit(Level.REDUCE_ONLY),
        Permit(Level.HALT),
        Permit(Level.KILL),
        Permit(lease=False),
        Permit(Level.CAUTION),
        None,
    ),
    "status": tuple(Status),
    "instrument": (None, Instrument("SIM3"), Instrument("SIM", D("0.05"), D(1)), Instrument("SIM", D("0.25"), D(30))),
    "price": (D(101), D(90), D("100.000001")),
    "quote_age_s": (60.001, -1, -1.001, math.nan, math.inf),
    "min_notional": (D(10_000), D("10000.01"), D(1)),
    "rates": (Rates(2), Rates(minute=10), Rates(hour=50), Rates(day=1_000), Rates(1, 9, 49, 999)),
    "agent_rates": (Rates(2), Rates(minute=10), Rates(hour=50), Rates(day=1_000), Rates(1, 9, 49, 999)),
    "ordered_last_hour": (49, 50),
    "critical_last_day": (9, 10),
    "repeats": (4, 5),
    "sectors": ({}, {"SIM": "a"}, None),
    "clusters": ({}, {"SIM": "a"}, None),
    "volume": (D(0), D(999), None),
    "day_equity": (D("103092.78"), D("103092.79"), D(0)),
    "peak_equity": (D(125_000), D("124999.99"), D(1)),
    "day_peak_equity": (D("105263.15"), D("105263.16"), None),
    "decided_quantity": (D(150), D(1), None),
    "hours": (None,),
    "quote": (None,),
    "decided": (START + timedelta(seconds=1), START - timedelta(seconds=121), START - timedelta(seconds=120.5)),
    "margin_used": (0.5, 0.4999, 0.51, -0.1, math.nan, math.inf),
    "equity": (D(0), D(-5), D("0.01")),
    "live": (True, False),
}
QUOTES: tuple[tuple[Any, ...], ...] = (
    (100.0, 99.0, None), (99.0, 100.0, None), (99.5, 100.5, None), (99.499, 100.501, None), (100.0, 100.0, None),
    (None, 100.0, None), (None, None, 100.0), (None, None, None), (0.0, 100.0, None), (math.nan, 100.0, 1.0),
    (-1.0, 1.0, None), (109.9, 110.1, None), (110.0, 110.1, None), (99, 101, None), (True, 100.0, None), ("99", 100.0, None),
    (89.9, None, 100.0), (math.inf, math.inf, None), (1e25, 1e25, None),
)  # fmt: skip


def _edit_scene(r: Chance, order: Order, scene: Scene) -> tuple[Order, Scene]:
    name = r.choice(list(CHANGES))
    return order, replace(scene, **{name: r.choice(CHANGES[name])})


def _edit_quote(r: Chance, order: Order, scene: Scene) -> tuple[Order, Scene]:
    time = START + timedelta(seconds=r.choice((0, 0, 0, -60, -61, 1, 2)))
    bid, ask, last = r.choice(QUOTES)
    return order, replace(scene, quote=Quote(r.choice((order.symbol, order.symbol, "XYZ")), bid, ask, last, time))


def _spoil_scene(r: Chance, order: Order, scene: Scene) -> tuple[Order, Scene]:
    name = r.choice(fields(Scene)).name
    return order, replace(scene, **{name: r.choice(RUBBISH)})


def _spoil_order(r: Chance, order: Order, scene: Scene) -> tuple[Order, Scene]:
    name = r.choice([one.name for one in fields(Order) if one.name not in ("token",)])
    return replace(order, **{name: r.choice(RUBBISH)}), scene


def _spoil_book(r: Chance, order: Order, scene: Scene) -> tuple[Order, Scene]:
    book: Any = scene.portfolio
    if not isinstance(book, Portfolio):
        return order, scene
    positions: dict[Any, Any] = dict(book.positions)
    symbol = r.choice(SYMBOLS)
    positions[symbol] = Position(r.choice((symbol, symbol, "XYZ")), r.choice((*RUBBISH, D(3))), D(100), START)
    return order, replace(scene, portfolio=replace(book, positions=MappingProxyType(positions)))


def _spoil_open_order(r: Chance, order: Order, scene: Scene) -> tuple[Order, Scene]:
    state = _working(r, 7, order)
    what = r.choice(("filled", "status", "quantity", "side", "limit_price", "stop_price", "reduce_only", "symbol", "type"))
    if what in ("filled", "status"):
        state = replace(state, **{what: r.choice(RUBBISH)})
    else:
        state = replace(state, order=replace(state.order, **{what: r.choice(RUBBISH)}))
    orders = scene.orders if isinstance(scene.orders, tuple) else ()
    return order, replace(scene, orders=(*orders, state))


def _spoil_price(r: Chance, order: Order, scene: Scene) -> tuple[Order, Scene]:
    prices = {**dict.fromkeys(SYMBOLS, D(100)), r.choice(SYMBOLS): r.choice(RUBBISH)}
    if r.random() < 0.3:
        prices.pop(r.choice(SYMBOLS))
    return order, replace(scene, prices=prices)


def _spoil_inside(r: Chance, order: Order, scene: Scene) -> tuple[Order, Scene]:
    rates = replace(Rates(), **{r.choice(("second", "minute", "hour", "day")): r.choice(RUBBISH)})
    permit = replace(Permit(), **{r.choice(("level", "lease")): r.choice(RUBBISH)})
    quote = replace(
        Quote(order.symbol, 99.9, 100.1, None, START), **{r.choice(("symbol", "bid", "ask", "time")): r.choice(RUBBISH)}
    )
    name: str
    value: Any
    name, value = r.choice((("rates", rates), ("agent_rates", rates), ("permit", permit), ("quote", quote)))
    return order, replace(scene, **{name: value})


def _size(r: Chance, order: Order, scene: Scene) -> tuple[Order, Scene]:
    return replace(order, quantity=r.choice((D("0.0001"), D(999), D(10**9), D("1E+23"), D("100.00001"), D(150), D(200)))), scene


def _is_whole(order: Any) -> bool:
    return isinstance(order.side, Side) and isinstance(order.symbol, str)


def _caution(r: Chance, order: Order, scene: Scene) -> tuple[Order, Scene]:
    if not _is_whole(order):
        return order, scene
    held = MappingProxyType({order.symbol: Position(order.symbol, D(10) * order.side.sign, D(100), START)})
    book = Portfolio(D(1_000_000), held)
    return order, replace(scene, permit=Permit(Level.CAUTION), portfolio=book, volume=r.choice((D(2_000), D(100_000))))


def _cross(r: Chance, order: Order, scene: Scene) -> tuple[Order, Scene]:
    if not _is_whole(order):
        return order, scene
    other = replace(_working(r, 8, order).order, symbol=order.symbol, side=order.side.opposite, stop_price=None)
    other = replace(other, type=OrderType.LIMIT, limit_price=r.choice((D("99.5"), D(100), D(101))), quantity=D(1))
    limit = r.choice((D("99.5"), D(100), D(101)))
    order = replace(order, type=OrderType.LIMIT, limit_price=limit, stop_price=None, stop_loss=limit - 3 * order.side.sign)
    return order, replace(scene, orders=(OrderState(other, OrderStatus.WORKING),))


def _together(r: Chance, order: Order, scene: Scene) -> tuple[Order, Scene]:
    if not _is_whole(order):
        return order, scene
    held = MappingProxyType({"SIM3": Position("SIM3", r.choice((D(100), D(200), D(-200))), D(100), START)})
    groups = r.choice(({order.symbol: "a"}, {order.symbol: "a", "SIM3": "b"}, {order.symbol: "a", "SIM3": "a"}))
    return order, replace(scene, portfolio=Portfolio(D(1_000_000), held), sectors=groups, clusters=groups)


Edit = Callable[[Chance, Order, Scene], tuple[Order, Scene]]
EDITS: tuple[Edit, ...] = (
    _edit_scene, _edit_scene, _edit_scene, _edit_quote, _spoil_scene, _spoil_order, _spoil_book, _spoil_open_order,
    _spoil_price, _spoil_inside, _size, _caution, _cross, _together,
)  # fmt: skip


def intent(r: Chance) -> tuple[Order, Scene]:
    """Return an order and a scene; a part of them is well, and the more is wrong the rarer."""
    r.calm = r.random() < 0.5
    order = order_of(r)
    scene = scene_of(r, order)
    for _ in range(r.choice((0, 0, 0, 1, 1, 2))):
        order, scene = r.choice(EDITS)(r, order, scene)
    return order, scene
