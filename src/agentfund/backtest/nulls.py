"""What the same trading makes without any skill: the result's own trades, at times that chance chose.

Two nulls, each a distribution of total returns: random entries (the same number of trades with the same directions, sizes,
stops, targets and holding rule, entered anywhere) and shuffled decisions (each entry together with its exit, moved as one to
another time). Both pay the same costs and hold one position at a time in an instrument, as the result did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agentfund.backtest.passage import SIGNAL, Passage
from agentfund.errors import ConfigError

if TYPE_CHECKING:
    from agentfund.backtest.passage import Ints
    from agentfund.backtest.report import Report
    from agentfund.backtest.result import Result
    from agentfund.market import Columns, Floats
    from agentfund.trading import Costs

DRAWS = 200
_AT_ONCE = 500_000


class Taken(NamedTuple):
    """The trades of one instrument, as columns of equal length: what chance may move, and what it leaves as it is.

    Attributes:
        sign: 1 long, -1 short.
        notional: what the entry was worth.
        stop: distance of the stop from the price at the decision, as a share of it; NaN for none.
        target: the same of the target.
        bars: bars from entry to exit.
        kind: what ended it; see `passage`.
        profit: what it made, after costs.
    """

    sign: Floats
    notional: Floats
    stop: Floats
    target: Floats
    bars: Ints
    kind: Ints
    profit: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Null:
    """A result beside what chance makes of its own trades.

    Args:
        name: which null.
        result: what the trades made, as a share of the capital.
        draws: what they made at each draw, sorted.
        trials: of how many trials the result is the best.
    """

    name: str
    result: float
    draws: Floats
    trials: int = 1

    @property
    def percentile(self) -> float:
        """Share of the draws that lie below the result, in percent; draws equal to it count half."""
        below, upto = (float(self.draws.searchsorted(self.result, side)) for side in ("left", "right"))
        return 50.0 * (below + upto) / len(self.draws)

    @property
    def p_value(self) -> float:
        """How likely chance does at least as well: (draws at or above the result + 1) / (draws + 1)."""
        return (len(self.draws) - float(self.draws.searchsorted(self.result, "left")) + 1.0) / (len(self.draws) + 1.0)

    @property
    def p_best(self) -> float:
        """How likely the best of so many independent trials by chance does at least as well: 1 - (1 - p)^trials."""
        return 1.0 - (1.0 - self.p_value) ** self.trials

    @property
    def median(self) -> float:
        """The middle of the draws."""
        return float(np.median(self.draws))

    @property
    def sentence(self) -> str:
        """What it comes to, in one sentence."""
        verdict = "better than chance" if self.p_best < 0.05 else "not told from chance"
        best = f", {self.p_best:.3f} as the best of {self.trials:,} trials" if self.trials > 1 else ""
        return (
            f"{self.name}: {100 * self.result:+.2f} % is better than {self.percentile:.0f} % of {len(self.draws)} draws"
            f" (median {100 * self.median:+.2f} %, p = {self.p_value:.3f}{best}): {verdict}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values; returns are fractions of the capital."""
        quantiles = np.quantile(self.draws, (0.05, 0.25, 0.5, 0.75, 0.95)).tolist()
        return {
            "result": self.result,
            "draws": len(self.draws),
            "percentile": self.percentile,
            "p_value": self.p_value,
            "p_best": self.p_best,
            "quantiles": dict(zip(("5", "25", "50", "75", "95"), quantiles, strict=True)),
            "sentence": self.sentence,
        }


class Nulls:
    """The nulls of one result; both are computed when they are asked for, and the same seed gives the same draws.

    Args:
        columns: the bars by symbol.
        known: how many bars of each were known at the end.
        taken: the trades by symbol.
        cash: capital at the beginning.
        costs: what trading costs; nothing where it is None.
        draws: how many times chance is asked.
        seed: of chance.
        trials: of how many trials the result is the best.
    """

    def __init__(
        self,
        columns: Mapping[str, Columns],
        known: Mapping[str, int],
        taken: Mapping[str, Taken],
        cash: float,
        costs: Costs | None,
        *,
        draws: int = DRAWS,
        seed: int = 0,
        trials: int = 1,
    ) -> None:
        if draws < 20:
            raise ConfigError(f"draws={draws}: fewer than 20 say nothing; 200 are usual")
        self._passages = {s: Passage(columns[s], known[s], costs) for s, one in taken.items() if len(one.sign)}
        self._taken = {symbol: taken[symbol] for symbol in self._passages}
        self._cash, self._draws, self._seed, self._trials = cash, draws, seed, trials
        self._made: dict[str, Null] = {}

    @classmethod
    def of(
        cls,
        found: Report | Result,
        *,
        draws: int = DRAWS,
        seed: int = 0,
        trials: int = 1,
        stop_pct: float | None = None,
        target_pct: float | None = None,
    ) -> Nulls:
        """Take the trades of a report or of a simulated result.

        Args:
            found: either.
            draws: how many times chance is asked.
            seed: of chance.
            trials: of how many trials the result is the best; a report knows.
            stop_pct: distance of the stops in percent, for a simulated result whose trades do not say.
            target_pct: the same of the targets; left out for none.

        Raises:
            ConfigError: nobody says how far the stops were.
        """
        from agentfund.backtest.result import Result
        from agentfund.backtest.taken import of_report, of_result

        if isinstance(found, Result):
            return cls(*of_result(found, stop_pct, target_pct), draws=draws, seed=seed, trials=trials)
        return cls(*of_report(found), draws=draws, seed=seed, trials=max(trials, found.luck.trials))

    @property
    def random_entry(self) -> Null | None:
        """Entries anywhere, with the result's own stops, targets and holding rule; None where nothing was traded.

        A trade that ended by order keeps its length at most. One that ended at its stop or target shows no limit of its own:
        it gets the length of a longer one that ended by order, drawn at random, or none where there is no such trade.
        """
        return self._null("random entry", self._random)

    @property
    def shuffled(self) -> Null | None:
        """The result's own entries and exits, each pair moved to another time; None where nothing was traded."""
        return self._null("shuffled decisions", self._shuffled)

    def to_json(self) -> dict[str, Any]:
        """Return both as JSON values."""
        return {
            "random_entry": None if self.random_entry is None else self.random_entry.to_json(),
            "shuffled": None if self.shuffled is None else self.shuffled.to_json(),
        }

    def _null(self, name: str, draw: Any) -> Null | None:
        if not self._taken:
            return None
        if name not in self._made:
            rng = np.random.default_rng((self._seed, len(name)))
            total = np.zeros(self._draws)
            for symbol, taken in self._taken.items():
                size = max(1, _AT_ONCE // len(taken.sign))
                parts = [min(size, self._draws - first) for first in range(0, self._draws, size)]
                total += np.concatenate([draw(self._passages[symbol], taken, rng, part) for part in parts])
            result = float(sum(float(taken.profit.sum()) for taken in self._taken.values()))
            self._made[name] = Null(name, result / self._cash, np.sort(total / self._cash), self._trials)
        return self._made[name]

    @staticmethod
    def _random(passage: Passage, taken: Taken, rng: np.random.Generator, draws: int) -> Floats:
        entry, which, after = _places(passage, taken, rng, draws)
        sign = taken.sign[which]
        length = _limits(taken, passage.count, rng, draws)
        until = np.minimum(entry + np.take_along_axis(length, which, axis=1), after)
        stop, target = passage.levels(passage.close[entry - 1], sign, taken.stop[which], taken.target[which])
        walked = passage.walk(entry, sign, stop, target, until)
        return _sum(passage, entry, sign, taken.notional[which], walked)

    @staticmethod
    def _shuffled(passage: Passage, taken: Taken, rng: np.random.Generator, draws: int) -> Floats:
        entry, which, _ = _places(passage, taken, rng, draws)
        sign, none = taken.sign[which], np.full(entry.shape, np.nan)
        walked = passage.walk(entry, sign, none, none, entry + np.maximum(taken.bars[which], 1))
        return _sum(passage, entry, sign, taken.notional[which], walked)


def _sum(passage: Passage, entry: Ints, sign: Floats, notional: Floats, walked: Any) -> Floats:
    return passage.profit(entry, sign, notional / passage.open[entry], walked).sum(axis=1)  # type: ignore[no-any-return]


def _places(passage: Passage, taken: Taken, rng: np.random.Generator, draws: int) -> tuple[Ints, Ints, Ints]:
    """Put the trades in any order, with the time between them shared out at random.

    Returns:
        Three arrays of shape (draws, trades): the bar of each entry, which trade it is, and the entry of the next one.
    """
    trades, bars = len(taken.sign), passage.count
    which = rng.permuted(np.tile(np.arange(trades), (draws, 1)), axis=1)
    slots = taken.bars[which] + 1
    free = max(0, bars - 1 - int(taken.bars.sum()) - trades)
    gaps = np.sort(rng.integers(0, free + 1, (draws, trades)), axis=1)
    entry = np.minimum(1 + gaps + np.cumsum(slots, axis=1) - slots, bars - 1)
    after = np.concatenate([entry[:, 1:], np.full((draws, 1), bars)], axis=1)
    return entry, which, after


def _limits(taken: Taken, bars: int, rng: np.random.Generator, draws: int) -> Ints:
    """Return for each draw and trade how many bars it lasts at most."""
    lengths = np.sort(taken.bars[taken.kind == SIGNAL])
    first = lengths.searchsorted(taken.bars)
    choice = len(lengths) - first
    drawn = first + np.floor(rng.random((draws, len(taken.bars))) * choice).astype(np.int64)
    endless = np.append(lengths, bars)
    longer = np.where(choice > 0, endless[np.minimum(drawn, len(lengths))], bars)
    return np.where(taken.kind == SIGNAL, np.maximum(taken.bars, 1), np.maximum(longer, 1))


def stacked(rows: Sequence[tuple[float, ...]]) -> Taken:
    """Make columns of rows in the order of the fields of `Taken`."""
    table = np.asarray(rows, dtype=np.float64).reshape(len(rows), 7)
    sign, notional, stop, target, bars, kind, profit = table.T
    return Taken(sign, notional, stop, target, bars.astype(np.int64), kind.astype(np.int64), profit)
