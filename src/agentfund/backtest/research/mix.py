"""A portfolio of sleeves: several agents, markets and lengths of bars at once, each with its share of the capital."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from agentfund.backtest.metrics import NOTHING, YEAR
from agentfund.backtest.research.allocations import Allocate, Named, VolatilityTarget, called, checked, chosen
from agentfund.backtest.research.mix_result import MixResult
from agentfund.backtest.research.sleeves import Growth, Sleeve
from agentfund.clock import from_micros
from agentfund.errors import ConfigError

if TYPE_CHECKING:
    from agentfund.market import Floats, Micros

Period: TypeAlias = Literal["day", "week", "month", "quarter", "year"]

_MICRO = timedelta(microseconds=1)
_SETTLED = 1e-12


class Mix:
    """A portfolio of sleeves that share one capital.

    Between rebalancings each sleeve's share grows as the sleeve does; what is in none lies as cash without interest. At a
    rebalancing, weights are made of returns that are known at that moment, and hold from the next moment at which any bar
    closes. To give a sleeve more or less costs `cost_bps` of what is moved; the first sharing out is free.

    The mix begins when all sleeves have begun. Bars may be of any length and calendar: at every moment the last known value
    of each sleeve counts. A sleeve from which no bar came for ten days, and for three times as long as ever before, counts as
    ended: it gets no weight, and allocations are not asked about it. So does one that lost all.

    Args:
        sleeves: the parts, each with a name of its own.
        weights: "equal", "inverse_volatility", "volatility_target", "risk_parity", one of the classes of
            `agentfund.backtest.research.allocations`, or a function of (returns so far, names, now) that gives weights by name.
        rebalance: "day", "week", "month", "quarter" or "year" (UTC), a timedelta, or None for never.
        cash: capital at the beginning.
        cost_bps: what moving capital costs, in basis points of the amount.
        sample: length of the periods whose returns weights are made of.

    Raises:
        ConfigError: an argument cannot work; says which.
    """

    def __init__(
        self,
        sleeves: Sequence[Sleeve],
        weights: Named | Allocate = "equal",
        rebalance: Period | timedelta | None = "month",
        *,
        cash: float = 100_000.0,
        cost_bps: float = 3.0,
        sample: timedelta = timedelta(days=1),
    ) -> None:
        names = [each.name for each in sleeves]
        if not names:
            raise ConfigError('a mix needs sleeves: Mix([Sleeve("stocks", SmaCross(), bars)])')
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"two sleeves are called {twice[0]!r}; give each a name of its own")
        if not (math.isfinite(cash) and cash > 0) or not (math.isfinite(cost_bps) and 0 <= cost_bps < 10_000):
            raise ConfigError(f"cash={cash} must be above zero, and cost_bps={cost_bps} at least zero and below 10,000")
        if sample <= timedelta(0):
            raise ConfigError(f"sample={sample}: a period must be longer than nothing")
        if isinstance(rebalance, timedelta) and rebalance <= timedelta(0):
            raise ConfigError(f"rebalance={rebalance}: it takes a length above zero, or None for never")
        if isinstance(rebalance, str) and rebalance not in ("day", "week", "month", "quarter", "year"):
            raise ConfigError(f'rebalance={rebalance!r}: "day", "week", "month", "quarter", "year", a timedelta, or None')
        self.sleeves = tuple(sleeves)
        self.allocate = chosen(weights)
        self.rebalance = rebalance
        self.cash = float(cash)
        self.cost_bps = float(cost_bps)
        self.sample = sample

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sleeves."""
        return tuple(each.name for each in self.sleeves)

    def run(self) -> MixResult:
        """Simulate the sleeves that are strategies, and mix all.

        Raises:
            ConfigError: sleeves never run at the same time, or weights cannot be used; names the function.
            BadData: a series of returns cannot be used.
        """
        grown = [each.growth() for each in self.sleeves]
        begin = max(each.begin for each in grown)
        axis = np.unique(np.concatenate([each.ends[each.ends > begin] for each in grown]))
        if early := [each.name for each in grown if int(each.ends[-1]) <= begin]:
            late = next(each.name for each in grown if each.begin == begin)
            raise ConfigError(f"sleeve {early[0]!r} ends before {late!r} begins ({from_micros(begin)}); mix what overlaps")
        moments = np.concatenate([[begin], axis])
        levels = np.stack([each.at(moments) / each.at(moments[:1]) for each in grown], axis=1)
        run = _Run(self, grown, moments, levels)
        return MixResult(
            names=self.names,
            begin=begin,
            ends=axis,
            cash=self.cash,
            equity=run.equity[1:],
            values=run.values[1:],
            levels=levels[1:],
            decided=tuple(run.decided),
            contributions=run.contributions,
            costs=run.paid,
            allocation=called(self.allocate),
            rebalance="never" if self.rebalance is None else str(self.rebalance),
            cost_bps=self.cost_bps,
            currency=next((each.currency for each in grown if each.currency), ""),
            warnings=tuple(_warnings(grown, begin, int(axis[-1]))),
            sampled=run.sampled,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Sharing:
    """A rebalancing.

    Args:
        time: when the weights were made, microseconds since 1970 UTC.
        since: from when on they hold.
        weights: in the order of the sleeves.
        cost: what moving the capital cost.
    """

    time: int
    since: int
    weights: Floats
    cost: float


class _Run:
    """One way through time."""

    def __init__(self, mix: Mix, grown: Sequence[Growth], moments: Micros, levels: Floats) -> None:
        self._mix, self._grown, self._moments, self._levels = mix, grown, moments, levels
        step = mix.sample // _MICRO
        # Periods end at round times (midnight UTC for days), so that they do not depend on where the data begin.
        first = int(moments[0]) // step + 1
        self._grid: Micros = np.arange(first, int(moments[-1]) // step + 1, dtype=np.int64) * step
        known = levels[np.concatenate([[0], moments.searchsorted(self._grid, side="right") - 1])]
        before = known[:-1]
        self.sampled: Floats = np.where(before > NOTHING, known[1:] / np.where(before > NOTHING, before, 1.0) - 1.0, 0.0)
        count = len(mix.sleeves)
        self.values = np.zeros(levels.shape)
        self.equity = np.full(len(moments), mix.cash)
        self.contributions = np.zeros(count)
        self.paid = np.zeros(count)
        self.decided: list[Sharing] = []
        self._go()

    def _go(self) -> None:
        """Share out, let it grow until the next weights hold, share out again."""
        last = len(self._moments) - 1
        deciding = self._deciding()
        rows = [row + 1 for row in deciding]
        held, rest = self._share(0, 0, np.zeros(len(self._mix.sleeves)), self._mix.cash, free=True)
        self.values[0] = held
        for at, (row, until) in enumerate(zip([0, *rows], [*rows, last], strict=True)):
            begin = self._levels[row]
            alive = begin > NOTHING
            growth = np.where(alive, self._levels[row : until + 1] / np.where(alive, begin, 1.0), 1.0)
            self.values[row + 1 : until + 1] = held * growth[1:]
            self.equity[row + 1 : until + 1] = rest + self.values[row + 1 : until + 1].sum(axis=1)
            if until > row:
                self.contributions += self.values[until] - held
            if at < len(deciding):
                held, rest = self._share(deciding[at], until, self.values[until], rest)
                self.values[until] = held
                self.equity[until] = rest + float(held.sum())

    def _deciding(self) -> list[int]:
        """Return the rows at which weights are made: the first moment of each new period, where another one follows."""
        every, moments = self._mix.rebalance, self._moments
        if every is None:
            return []
        if isinstance(every, timedelta):
            period = (moments - moments[0]) // (every // _MICRO)
        else:
            dates = moments.astype("datetime64[us]")
            if every == "day":
                period = dates.astype("datetime64[D]").astype(np.int64)
            elif every == "week":  # from Monday on; the first day of 1970 was a Thursday
                period = (dates.astype("datetime64[D]").astype(np.int64) + 3) // 7
            else:
                months = dates.astype("datetime64[M]").astype(np.int64)
                period = months // {"month": 1, "quarter": 3, "year": 12}[every]
        fresh: list[int] = (np.flatnonzero(np.diff(period)) + 1).tolist()
        return [row for row in fresh if row < len(moments) - 1]

    def _share(self, row: int, since: int, held: Floats, rest: float, *, free: bool = False) -> tuple[Floats, float]:
        """Make weights of what is known at `row`, move the capital at `since`; return what each sleeve has, and the rest."""
        mix, now = self._mix, from_micros(int(self._moments[row]))
        known = int(self._grid.searchsorted(self._moments[row], side="right"))
        runs = [
            at for at, each in enumerate(self._grown) if each.runs(int(self._moments[row])) and self._levels[row, at] > NOTHING
        ]
        weights = self._weights(self.sampled[:known, runs].copy(), runs, now)
        total = rest + float(held.sum())
        # A sleeve may lose all between the two moments, and all of them together everything.
        wanted = np.where(self._levels[since] > NOTHING, weights, 0.0) if total > NOTHING else np.zeros_like(weights)
        rate = 0.0 if free else mix.cost_bps / 1e4
        cost = 0.0
        for _ in range(100):  # what is moved pays for the move
            moved = np.abs(wanted * (total - cost) - held)
            before, cost = cost, rate * float(moved.sum())
            if abs(cost - before) <= _SETTLED * max(total, 1.0):
                break
        target = wanted * (total - cost)
        each = rate * np.abs(target - held)
        self.paid += each
        self.contributions -= each
        self.decided.append(Sharing(int(self._moments[row]), int(self._moments[since]), weights, float(each.sum())))
        return target, total - float(each.sum()) - float(target.sum())

    def _weights(self, seen: Floats, runs: list[int], now: datetime) -> Floats:
        """Return the weights of all sleeves, given the returns of those that run."""
        mix, most = self._mix, 1.0
        if not runs:
            return np.zeros(len(mix.sleeves))
        seen.flags.writeable = False
        names = tuple(mix.names[at] for at in runs)
        if isinstance(mix.allocate, VolatilityTarget):
            given = mix.allocate.scaled(seen, names, now, YEAR / mix.sample)
            most = max(1.0, mix.allocate.max_leverage)
        else:
            given = mix.allocate(seen, names, now)
        weights = checked(given, mix.allocate, mix.names, now, most)
        weights[[at for at in range(len(weights)) if at not in runs]] = 0.0
        return weights


def _warnings(grown: Sequence[Growth], begin: int, end: int) -> list[str]:
    told = []
    for each in grown:
        if (begin - each.begin) > 0.05 * (end - begin):
            told.append(
                f"{each.name} begins on {from_micros(each.begin):%Y-%m-%d}; the mix begins with the last of all sleeves"
            )
        if (end - int(each.ends[-1])) > 0.05 * (end - begin):
            told.append(f"{each.name} ends on {from_micros(int(each.ends[-1])):%Y-%m-%d}; then its share lies still")
        if float(each.level.min()) <= NOTHING:
            told.append(f"{each.name} lost all its capital")
    currencies = sorted({each.currency for each in grown if each.currency})
    if len(currencies) > 1:
        told.append(
            f"sleeves are counted in {', '.join(currencies)}; their returns are mixed as they are, without exchange rates"
        )
    return told
