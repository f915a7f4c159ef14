"""What each gate was worth: what the trades that it stopped, or the numbers that bounds moved, would have made.

A stopped entry is walked from the next open with the proposal's own stop and target to its stop, its target, the next
proposal of another direction in that instrument, or the end. A stopped exit is compared with when the position really
ended. Sizes are those of the fund's sizing at the equity of that moment, costs and rules those of the paper broker. Each
trade is walked by itself: what it would have changed for later trades is ignored.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agentfund.backtest.passage import Passage
from agentfund.clock import to_micros
from agentfund.core.sizing import Sizing
from agentfund.errors import ConfigError
from agentfund.market import decimal
from agentfund.trading import Direction, Outcome, Proposal

if TYPE_CHECKING:
    from agentfund.backtest.passage import Ints
    from agentfund.backtest.report import Report
    from agentfund.backtest.trades import RoundTrip
    from agentfund.market import Floats
    from agentfund.trading import Decision

NOTE = "each stopped trade is walked by itself, so what it would have changed for later trades is ignored"
_STOPPED = (Outcome.VETOED, Outcome.DENIED, Outcome.DECLINED)
_SIGN = {Direction.LONG: 1.0, Direction.SHORT: -1.0}
_NOTHING = ("nothing",)
"""What a stopped proposal is about that asks for what is there already."""
_CLAMPED = ("stop_pct", "target_pct", "position_scale")


@dataclass(frozen=True, slots=True)
class GateWorth:
    """What one gate stopped, in the account's currency.

    Args:
        stopped: trades that would have been, each counted once.
        repeats: proposals that it stopped while such a trade would have been on already, or that asked for what was there.
        untold: stopped proposals of which nothing can be said: no bar after them, or no size.
        saved: what the losers among them would have lost.
        cost: what the winners among them would have made.
    """

    stopped: int = 0
    repeats: int = 0
    untold: int = 0
    saved: float = 0.0
    cost: float = 0.0

    @property
    def net(self) -> float:
        """Saved less cost: above zero where stopping was right, all in all."""
        return self.saved - self.cost

    def with_trade(self, profit: float) -> GateWorth:
        """Return it after one more trade, which would have made that much."""
        saved, cost = self.saved - min(profit, 0.0), self.cost + max(profit, 0.0)
        return GateWorth(self.stopped + 1, self.repeats, self.untold, saved, cost)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        counts = {"stopped": self.stopped, "repeats": self.repeats, "untold": self.untold}
        return {**counts, "saved": self.saved, "cost": self.cost, "net": self.net}


class Stopped(NamedTuple):
    """Something that was not done as proposed, and what it would have made more than what was done.

    Attributes:
        by: the gates that stopped it.
        key: what it would have been about: symbol and direction, or the position that it would have ended.
        begins: bar at which it would have begun, in the instrument's own series.
        ends: bar at which it would have ended.
        profit: in the account's currency; None where it cannot be told.
        decision: id of the decision.
    """

    by: tuple[str, ...]
    key: tuple[Any, ...]
    begins: int
    ends: int
    profit: float | None
    decision: str


@dataclass(frozen=True, slots=True)
class Worth:
    """What the gates were worth.

    Args:
        gates: by name of a gate agent, `limit: code` of the deterministic gate, `person`, or `bounds: field`. A trade that
            several stopped counts in full for each.
        total: the same of all, each trade counted once.
        stopped: each trade that was not made, or made with other numbers.
    """

    gates: Mapping[str, GateWorth]
    total: GateWorth
    stopped: tuple[Stopped, ...]

    @property
    def sentence(self) -> str:
        """What it comes to, in one sentence."""
        all_in = self.total
        if not all_in.stopped:
            return "no gate stopped a trade"
        verb = "saved" if all_in.net >= 0 else "cost"
        trades = f"{all_in.stopped:,} trade{'s'[: all_in.stopped != 1]}"
        return (
            f"the gates stopped or changed {trades}, which saved {all_in.saved:,.2f} and cost {all_in.cost:,.2f}:"
            f" all in all they {verb} {abs(all_in.net):,.2f}; {NOTE}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        gates = {name: gate.to_json() for name, gate in self.gates.items()}
        return {"gates": gates, "total": self.total.to_json(), "sentence": self.sentence}


def worth(report: Report) -> Worth:
    """Return what the gates of a run were worth."""
    found = [*_Walk(report).found()]
    names = dict.fromkeys(name for one in found for name in one.by)
    gates = {name: _added(one for one in found if name in one.by) for name in names}
    return Worth(gates, _added(iter(found)), tuple(found))


def _added(found: Iterator[Stopped]) -> GateWorth:
    """Count the trades of one gate; what would have been on already counts once."""
    worth, busy = GateWorth(), dict[tuple[Any, ...], int]()
    for one in found:
        if one.key == _NOTHING or one.begins <= busy.get(one.key, -1):
            worth = GateWorth(worth.stopped, worth.repeats + 1, worth.untold, worth.saved, worth.cost)
        elif one.profit is None:
            worth = GateWorth(worth.stopped, worth.repeats, worth.untold + 1, worth.saved, worth.cost)
        else:
            worth = worth.with_trade(one.profit)
            busy[one.key] = one.ends
    return worth


class _Draft(NamedTuple):
    """Something stopped whose walk, `wanted`, is still to be done; `had` is the walk of what was done in its place."""

    by: tuple[str, ...]
    key: tuple[Any, ...]
    begins: int
    decision: str
    wanted: tuple[str, int] | None = None
    had: tuple[str, int] | None = None
    ends: int = -1
    profit: float | None = None


class _Walk:
    """One pass over the decisions of a report."""

    def __init__(self, report: Report) -> None:
        self.report = report
        axis = report.curve.ends
        self._known = {symbol: column.closed_by(int(axis[-1])) for symbol, column in report.columns.items()}
        self._asked: dict[str, list[tuple[float, ...]]] = {symbol: [] for symbol in report.columns}
        self._passages: dict[str, Passage] = {}
        self._trips: dict[str, list[RoundTrip]] = {symbol: [] for symbol in report.columns}
        for trip in report.round_trips:
            self._trips[trip.symbol].append(trip)
        self._begun = {symbol: [trip.entry_bar for trip in trips] for symbol, trips in self._trips.items()}
        self._places = self._placed()
        self._until = self._leaving()
        try:
            self._sizing = Sizing(**report.log.started.settings["sizing"])
        except (KeyError, TypeError, ConfigError):
            self._sizing = Sizing()  # a log without them: the default, as the fund's own would be

    def found(self) -> Iterator[Stopped]:
        """Give what was stopped or changed, in the order in which it was."""
        drafts: list[_Draft] = []
        for decision in self.report.log.decisions:
            if decision.symbol not in self._known or decision.direction is None:
                continue
            if decision.outcome in _STOPPED:
                drafts.append(self._stopped(decision, decision.direction))
            elif decision.outcome is Outcome.ORDERED:
                drafts += self._changed(decision)
        # All entries of an instrument are walked at once.
        done = {symbol: self._walked(symbol, np.array(asked).T) for symbol, asked in self._asked.items() if asked}
        for draft in drafts:
            ends, profit = draft.ends, draft.profit
            if draft.wanted is not None:
                symbol, at = draft.wanted
                ends, profit = int(done[symbol][0][at]), float(done[symbol][1][at])
                if draft.had is not None:
                    profit -= float(done[symbol][1][draft.had[1]])
            yield Stopped(draft.by, draft.key, draft.begins, ends, profit, draft.decision)

    def _leaving(self) -> dict[str, int]:
        """Return for each decision the bar at whose open the next proposal of another direction would end its trade."""
        until: dict[str, int] = {}
        later: dict[str, tuple[int, Direction, int]] = {}
        for decision in reversed(self.report.log.decisions):
            symbol, direction = decision.symbol, decision.direction
            if direction is None or symbol not in self._known:
                continue
            if symbol not in later:
                until[decision.id] = self._known[symbol]
            elif later[symbol][1] is not direction:
                until[decision.id] = later[symbol][0] + 1
            else:
                until[decision.id] = later[symbol][2]
            later[symbol] = self._bar(decision), direction, until[decision.id]
        return until

    def _walked(self, symbol: str, asked: Floats) -> tuple[Ints, Floats]:
        """Return where each entry would have ended and what it would have made."""
        passage = self._passage(symbol)
        entry, until = asked[0].astype(np.int64), asked[1].astype(np.int64)
        sign, price, stop, target, quantity = asked[2:]
        walked = passage.walk(entry, sign, *passage.levels(price, sign, stop, target), until)
        return walked.bar, passage.profit(entry, sign, quantity, walked)

    def _stopped(self, decision: Decision, direction: Direction) -> _Draft:
        by: tuple[str, ...] = tuple(name for name, _ in decision.vetoes)
        if decision.outcome is Outcome.DENIED:
            by = (f"limit: {decision.code or 'other'}",)
        elif decision.outcome is Outcome.DECLINED:
            by = ("person",)
        symbol, bar = decision.symbol, self._bar(decision)
        trip = self._held(decision)
        if trip is None and direction is not Direction.FLAT:
            return _Draft(by, (symbol, direction), bar + 1, decision.id, self._entered(decision, direction))
        if trip is None or trip.direction is direction:
            return _Draft(by, _NOTHING, -1, decision.id)
        profit, last = self._left(decision, trip)
        return _Draft(by, (symbol, "exit", trip.entry_bar), bar + 1, decision.id, ends=last, profit=profit)

    def _changed(self, decision: Decision) -> Iterator[_Draft]:
        """What bounds made of an entry: what it would have made with the number given, less what it made with the one kept."""
        direction = decision.direction
        if direction is None or direction is Direction.FLAT or self._held(decision) is not None:
            return
        for clamp in (self._opinion(decision) or {}).get("clamps", ()):
            if clamp["field"] in _CLAMPED:
                name = f"bounds: {clamp['field']}"
                had = self._entered(decision, direction)
                wanted = None if had is None else self._entered(decision, direction, {clamp["field"]: clamp["given"]})
                yield _Draft((name,), (decision.id, name), self._bar(decision) + 1, decision.id, wanted, had)

    def _entered(
        self, decision: Decision, direction: Direction, changed: Mapping[str, Any] | None = None
    ) -> tuple[str, int] | None:
        """Ask for the walk of an entry: return where its answer will be, None where nothing can be told."""
        symbol, bar, price, opinion = decision.symbol, self._bar(decision), decision.price, self._opinion(decision)
        entry, count = bar + 1, self._known[symbol]
        if opinion is None or entry >= count or not price or not price > 0:
            return None
        value = {**opinion["value"], **(changed or {})}
        stop_pct, target_pct, scale = float(value["stop_pct"]), value["target_pct"], float(value["position_scale"])
        if not (stop_pct > 0 and scale > 0 and (target_pct is None or target_pct > 0)):
            return None
        proposal = Proposal.model_construct(direction=direction, stop_pct=stop_pct, position_scale=scale)
        equity = decimal(float(self.report.curve.equity[self._row(decision)]))
        quantity = self._sizing.quantity(equity, decimal(price), proposal, self.report.columns[symbol].instrument)
        if quantity <= 0:
            return None
        until = self._until[decision.id]
        target = np.nan if target_pct is None else target_pct / 100.0
        self._asked[symbol].append((entry, until, _SIGN[direction], price, stop_pct / 100.0, target, float(quantity)))
        return symbol, len(self._asked[symbol]) - 1

    def _left(self, decision: Decision, trip: RoundTrip) -> tuple[float | None, int]:
        """Return what leaving at the next open would have made more than what staying did, and where the position ended."""
        passage, entry = self._passage(decision.symbol), self._bar(decision) + 1
        column = self.report.columns[decision.symbol]
        last = column.closed_by(int(self.report.curve.ends[trip.exit_bar])) - 1
        if entry >= passage.count:
            return None, last
        sign, quantity = _SIGN[trip.direction], float(trip.quantity)
        at, none = np.array([entry]), np.array([np.nan])
        walked = passage.walk(at, np.array([sign]), none, none, at)
        # The entry that `profit` counts is the same on both sides of the comparison; its price is taken off again.
        there = float(passage.profit(at, np.array([sign]), np.array([quantity]), walked)[0])
        begun = float(passage.entered(at, np.array([sign]), np.array([quantity]))[0])
        entered = sign * float(trip.entry_price) * quantity + float(self._fee(trip))
        return there + begun - (float(trip.profit) + entered), last

    def _fee(self, trip: RoundTrip) -> float:
        fills = self.report.log.fills
        side = 1 if trip.direction is Direction.LONG else -1
        return float(sum(fills[one][0].fee for one in trip.fills if fills[one][0].side.sign == side))

    def _opinion(self, decision: Decision) -> Mapping[str, Any] | None:
        """Return the proposal that was decided on: the most cautious of those that agree."""
        cycle = self.report.log.cycles.get(decision.cycle)
        said = [
            opinion
            for opinion in (cycle.opinions if cycle else ())
            if opinion["agent"] in decision.proposed_by and isinstance(opinion["value"], Mapping)
        ]
        whole = [opinion for opinion in said if {*_CLAMPED} <= opinion["value"].keys()]
        return min(whole, key=lambda opinion: opinion["value"]["position_scale"], default=None)

    def _held(self, decision: Decision) -> RoundTrip | None:
        """Return the position at the close at which it was decided."""
        row, trips = self._row(decision), self._trips[decision.symbol]
        at = bisect_right(self._begun[decision.symbol], row) - 1
        trip = trips[at] if at >= 0 else None
        return trip if trip is not None and (trip.closed is None or row < trip.exit_bar) else None

    def _row(self, decision: Decision) -> int:
        """Return the row of the time axis at which it was decided."""
        return self._places[decision.id][0]

    def _bar(self, decision: Decision) -> int:
        """Return the newest bar of its instrument that had closed."""
        return self._places[decision.id][1]

    def _placed(self) -> dict[str, tuple[int, int]]:
        """Return row and bar of every decision in an instrument of the history: all are looked up at once."""
        places: dict[str, tuple[int, int]] = {}
        for symbol, column in self.report.columns.items():
            mine = [decision for decision in self.report.log.decisions if decision.symbol == symbol]
            times = np.array([to_micros(decision.time) for decision in mine], dtype=np.int64)
            rows = np.maximum(self.report.curve.ends.searchsorted(times, side="right") - 1, 0).tolist()
            bars = (column.ends.searchsorted(times, side="right") - 1).tolist()
            places |= {decision.id: place for decision, place in zip(mine, zip(rows, bars, strict=True), strict=True)}
        return places

    def _passage(self, symbol: str) -> Passage:
        if symbol not in self._passages:
            self._passages[symbol] = Passage(self.report.columns[symbol], self._known[symbol], self.report.trading_costs)
        return self._passages[symbol]
