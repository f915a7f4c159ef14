"""What the gate's whole check costs: 10 positions, 10 open orders, a quote, a permit, hours and the blackouts of a year.

`python -m benchmarks gate` prints one JSON line a figure: median and 99th percentile of single calls.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from time import perf_counter_ns
from typing import Any

from agentfund import Instrument, Limits, Order, Portfolio, Side
from agentfund.core.gate import Rates, Scene, Status, check
from agentfund.feeds.calendars import hours
from agentfund.hours import Blackout, Blackouts
from agentfund.market import Quote
from agentfund.trading import OrderState, OrderStatus, OrderType, Permit, Position
from benchmarks._measure import figure

CALLS = 40_000
D = Decimal
NOW = datetime(2026, 3, 4, 15, 0, tzinfo=UTC)
SYMBOLS = tuple(f"SYM{number}" for number in range(10))
ORDER = Order("id1", "SYM0", Side.BUY, D(100), NOW, stop_loss=D("98.00"), take_profit=D("104.00"), decision="d1")
EXIT = replace(ORDER, side=Side.SELL, quantity=D(10), stop_loss=None, take_profit=None, reduce_only=True)
RESTING = replace(ORDER, type=OrderType.LIMIT, limit_price=D("99.50"), time=NOW - timedelta(hours=1))
OTHERS = tuple(
    replace(RESTING, id=f"{n:032x}", symbol=SYMBOLS[n % 10], decision=f"{n:032x}", quantity=D(50 + n)) for n in range(50)
)
EVENTS = tuple(
    Blackout.around(
        datetime(2026, 1, 1, 13, 30, tzinfo=UTC) + timedelta(days=n // 4),
        timedelta(minutes=30),
        timedelta(minutes=30),
        symbols=[SYMBOLS[n % 10]] if n % 4 else (),
        reason="earnings" if n % 4 else "macro",
    )
    for n in range(1_460)
)
SECTORS = {symbol: f"sector{n % 3}" for n, symbol in enumerate(SYMBOLS)}
LIMITS = Limits(max_sector_pct=50, max_cluster_pct=60, max_net_leverage=0.9, proposers=frozenset({"strategist"}))
SCENE = Scene(
    now=NOW,
    decided=NOW,
    instrument=Instrument("SYM0"),
    price=D("100.00"),
    quote_age_s=0.0,
    portfolio=Portfolio(D(1_000_000), {s: Position(s, D(10), D("99.99"), NOW) for s in SYMBOLS}),
    prices=dict.fromkeys(SYMBOLS, D("100.01")),
    equity=D(1_010_001),
    peak_equity=D(1_010_001),
    day_equity=D(1_010_001),
    orders=tuple(OrderState(order, OrderStatus.WORKING) for order in OTHERS[:10]),
    recent=OTHERS,
    live=True,
    permit=Permit(),
    hours=hours("24/7", NOW.date(), NOW.date() + timedelta(days=365)),
    blackouts=Blackouts(EVENTS),
    status=Status.TRADING,
    quote=Quote("SYM0", 99.99, 100.01, 100.0, NOW),
    volume=D(100_000),
    sectors=SECTORS,
    clusters=SECTORS,
    buying_power=D(900_000),
    margin_used=0.1,
    rates=Rates(0, 1, 2, 3),
    agent_rates=Rates(0, 1, 2, 3),
    day_peak_equity=D(1_010_001),
    proposed_by=("strategist",),
    decided_quantity=D(100),
)
PATHS: tuple[tuple[str, Order, Scene, str, Limits], ...] = (
    ("allowed", ORDER, SCENE, "", Limits()),
    ("allowed, every limit in use", ORDER, SCENE, "", LIMITS),
    ("an exit is allowed", EXIT, SCENE, "", LIMITS),
    ("denied by the first check", ORDER, replace(SCENE, permit=Permit(lease=False)), "lease", LIMITS),
    ("denied by the last check", ORDER, replace(SCENE, decided_quantity=D(99)), "more_than_decided", LIMITS),
)


def times(order: Order, scene: Scene, limits: Limits) -> list[float]:
    """Return the microseconds of each call, fastest first."""
    found = []
    for _ in range(CALLS):
        begin = perf_counter_ns()
        check(order, scene, limits)
        found.append((perf_counter_ns() - begin) / 1e3)
    return sorted(found)


def figures() -> Iterator[dict[str, Any]]:
    """Yield each figure as soon as it is measured."""
    gc.collect()
    gc.freeze()
    for name, order, scene, code, limits in PATHS:
        denial = check(order, scene, limits)
        assert (denial.code if denial else "") == code, denial
        found = times(order, scene, limits)
        for share, word in ((0.5, "p50"), (0.99, "p99")):
            yield figure(f"gate: {name}, {word}", found[int(len(found) * share)], "us")
