"""A recorded run and its rerun side by side: decisions, orders, fills, equity, and where they part."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agentfund.backtest.trades import Execution, equity_curve, last_known, place, round_trips, time_axis
from agentfund.clock import from_micros
from agentfund.core.deciding import told as order_told
from agentfund.market import CENT, decimal
from agentfund.replays.answers import plain_decision, plain_order
from agentfund.trading import ZERO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from decimal import Decimal

    import pandas as pd

    from agentfund.market import Floats, Micros
    from agentfund.protocols import History
    from agentfund.replays.causes import Causes
    from agentfund.replays.cycles import Cycle
    from agentfund.replays.stage import Window
    from agentfund.trading import Fill

NONE = "nothing"


class Change(NamedTuple):
    """Something in which a rerun differs from the recorded run.

    Attributes:
        cycle: in which cycle.
        time: when that was.
        what: `decision`, `order` or `fill`.
        recorded: what the log tells.
        replayed: what happened in the rerun.
        cause: who said otherwise, or which limit did.
    """

    cycle: int
    time: datetime
    what: str
    recorded: str
    replayed: str
    cause: str


@dataclass(frozen=True, slots=True)
class Figures:
    """What one of the two runs came to within the window.

    Args:
        decisions: cycles in which something was proposed.
        outcomes: how they ended.
        codes: denials of the gate, by code.
        orders: orders that were meant to be sent.
        fills: fills that were seen.
        trips: round trips that ended.
        costs: commissions, half spread and slippage.
        equity: at the end of the window.
        profit: equity at its end less equity at its beginning.
        return_pct: profit in percent of the equity at its beginning.
        max_drawdown_pct: the deepest fall within it, in percent.
    """

    decisions: int
    outcomes: Mapping[str, int]
    codes: Mapping[str, int]
    orders: int
    fills: int
    trips: int
    costs: Decimal
    equity: Decimal
    profit: Decimal
    return_pct: float
    max_drawdown_pct: float

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "costs": float(self.costs), "equity": float(self.equity), "profit": float(self.profit)}


@dataclass(frozen=True, eq=False)
class Diff:
    """A recorded run and its rerun side by side.

    Args:
        recorded: what the recorded run came to.
        replayed: what the rerun came to.
        changes: every decision, order and fill that differs, in the order of time.
        opinions: in how many cycles each agent's opinion was another, by agent.
        ends: closes of the bars of the window, microseconds since 1970 UTC.
        equity: equity at each of them, in the recorded run and in the rerun.
    """

    recorded: Figures
    replayed: Figures
    changes: tuple[Change, ...]
    opinions: Mapping[str, int]
    ends: Micros
    equity: tuple[Floats, Floats]

    def __repr__(self) -> str:
        return f"<Diff: {len(self.changes):,} changes>"

    @property
    def first(self) -> Change | None:
        """The first change, None where nothing differs."""
        return self.changes[0] if self.changes else None

    @property
    def counts(self) -> dict[str, int]:
        """How many decisions, orders and fills differ."""
        found = Counter(change.what for change in self.changes)
        return {what: found[what] for what in ("decision", "order", "fill")}

    @property
    def equity_since(self) -> datetime | None:
        """The first close at which the two are worth different amounts, None where there is none."""
        apart = np.flatnonzero(np.round(self.equity[0], 2) != np.round(self.equity[1], 2))
        return from_micros(int(self.ends[apart[0]])) if len(apart) else None

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Equity of both by the close of each bar (UTC)."""
        import pandas as pd

        index = pd.to_datetime(self.ends, unit="us", utc=True)
        return pd.DataFrame({"recorded": self.equity[0], "replayed": self.equity[1]}, index=index.rename("close"))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        since = self.equity_since
        return {
            "recorded": self.recorded.to_json(),
            "replayed": self.replayed.to_json(),
            "counts": self.counts,
            "opinions": dict(self.opinions),
            "equity_since": None if since is None else since.isoformat(),
            "changes": [{**change._asdict(), "time": change.time.isoformat()} for change in self.changes],
        }


class Sides:
    """Collects two runs cycle by cycle.

    Args:
        history: the bars.
        window: the cycles that count; what lies before them is the same in both.
        cash: capital at the beginning, in the recorded run and in the rerun.
        causes: finds why something differs.
    """

    def __init__(self, history: History, window: Window, cash: tuple[Decimal, Decimal], causes: Causes) -> None:
        self._history = history
        self._first = window.first
        self._sides = _Side(cash[0]), _Side(cash[1])
        self._causes = causes
        self._changes: list[Change] = []
        self._opinions: Counter[str] = Counter()
        self._orders_since = 0

    def before(self, cycle: Cycle) -> None:
        """Take a cycle that lies before the window."""
        for side in self._sides:
            side.fills += cycle.fills

    def add(self, old: Cycle, new: Cycle, time: datetime, book_since: int) -> None:
        """Take a cycle of both runs."""
        for side, cycle in zip(self._sides, (old, new), strict=True):
            side.add(cycle)
        self._opinions.update(old.others.keys())
        fills = [[_plain_fill(fill) for fill, _ in cycle.fills] for cycle in (old, new)]
        if fills[0] != fills[1]:
            self._note(old, new, time, "fill", _fills_told, self._causes.of_fill(self._orders_since))
        decisions = [None if cycle.decision is None else plain_decision(cycle.decision) for cycle in (old, new)]
        orders = [[plain_order(order) for order in cycle.orders] for cycle in (old, new)]
        if decisions[0] == decisions[1] and orders[0] == orders[1]:
            return
        cause = self._causes.of(old, new, book_since)
        if decisions[0] != decisions[1]:
            self._note(old, new, time, "decision", _decision_told, cause)
        if orders[0] != orders[1]:
            self._note(old, new, time, "order", _orders_told, cause)
            self._orders_since = self._orders_since or old.number

    def _note(self, old: Cycle, new: Cycle, time: datetime, what: str, words: Callable[[Cycle], str], cause: str) -> None:
        self._changes.append(Change(old.number, time, what, words(old), words(new), cause))

    def diff(self, last: int, until: datetime) -> Diff:
        """Return the two runs side by side.

        Args:
            last: the last cycle.
            until: when it was.
        """
        axis = time_axis(self._history.columns, until)
        row = max(len(axis) - (last - self._first + 1), 0)
        figures, curves = zip(*(side.figures(self._history, axis, row) for side in self._sides), strict=True)
        return Diff(
            recorded=figures[0],
            replayed=figures[1],
            changes=tuple(self._changes),
            opinions=dict(self._opinions),
            ends=axis[row:],
            equity=(curves[0], curves[1]),
        )


class _Side:
    def __init__(self, cash: Decimal) -> None:
        self.cash = cash
        self.fills: list[tuple[Fill, datetime]] = []
        self.seen = 0
        self.orders = 0
        self.costs = ZERO
        self.outcomes: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()

    def add(self, cycle: Cycle) -> None:
        self.fills += cycle.fills
        self.seen += len(cycle.fills)
        self.orders += len(cycle.orders)
        self.costs += sum((fill.cost for fill, _ in cycle.fills), ZERO)
        if cycle.decision is not None:
            self.outcomes[str(cycle.decision.outcome)] += 1
            if cycle.decision.code:
                self.codes[cycle.decision.code] += 1

    def figures(self, history: History, axis: Micros, row: int) -> tuple[Figures, Floats]:
        """Return the figures from a row of the time axis on, and the equity there."""
        columns = history.columns
        executions = [Execution(fill, at) for fill, at in place(self.fills, columns, axis)]
        curve, book = equity_curve(columns, axis, self.cash, executions)
        marks = {
            name: decimal(float(last_known(c, c.close, axis[-1:])[0])) for name, c in columns.items() if book.quantity(name)
        }
        equity = book.equity(marks).quantize(CENT)
        base = decimal(float(curve.equity[row - 1])).quantize(CENT) if row else self.cash
        trips = round_trips(executions, marks, len(axis) - 1)
        part = np.concatenate([[float(base)], curve.equity[row:]])
        fallen = 1 - part / np.maximum.accumulate(part)
        figures = Figures(
            decisions=sum(self.outcomes.values()),
            outcomes=dict(self.outcomes),
            codes=dict(self.codes),
            orders=self.orders,
            fills=self.seen,
            trips=sum(trip.closed is not None and trip.exit_bar >= row for trip in trips),
            costs=self.costs.quantize(CENT),
            equity=equity,
            profit=equity - base,
            return_pct=float(100 * (equity - base) / base) if base else 0.0,
            max_drawdown_pct=float(100 * fallen.max()),
        )
        return figures, curve.equity[row:]


def _plain_fill(fill: Fill) -> tuple[Any, ...]:
    return fill.symbol, fill.side, fill.quantity, fill.price, fill.fee, fill.leg


def _fill_told(fill: Fill) -> str:
    by = {"order": "", "stop": " by the stop", "target": " by the target"}[fill.leg]
    return f"{fill.side} {fill.quantity.normalize():f} {fill.symbol} at {fill.price}{by}, fee {fill.fee}"


def _fills_told(cycle: Cycle) -> str:
    return ", ".join(_fill_told(fill) for fill, _ in cycle.fills) or NONE


def _decision_told(cycle: Cycle) -> str:
    decision = cycle.decision
    if decision is None:
        return NONE
    code = f" ({decision.code})" if decision.code else ""
    return f"{decision.outcome} by {decision.decided_by}{code}: {decision.reason}"


def _orders_told(cycle: Cycle) -> str:
    return ", ".join(order_told(order) for order in cycle.orders) or NONE
