"""Bars that do not say what they are of: tickers, dates and levels are hidden, and returns are the same.

A language model that remembers "AAPL, August 2020, near 125 dollars" cannot use it where it sees ASSET1 on some Monday at 40.
Masking makes recall harder and does not rule it out: the shape of a path can be recognised, too.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.clock import to_micros
from agentfund.errors import ConfigError
from agentfund.feeds.checks import PRICES
from agentfund.feeds.facts import Fact, Facts
from agentfund.feeds.history import Bars
from agentfund.feeds.mask import Mask
from agentfund.market import Columns, read_only
from agentfund.prompt import Untrusted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from agentfund.market import Instrument

_MICRO = timedelta(microseconds=1)
_WEEK = timedelta(weeks=1)
# Into the future, where no price list of language models ends, and never near enough to be read as a slip.
_WEEKS = (520, 2600)
_LATEST = to_micros(datetime(2199, 1, 1, tzinfo=UTC))
# Powers of two: every float of the masked market has the same digits as the real one, so not even a tie is decided otherwise.
_FACTORS = tuple(Decimal(2**n) for n in range(1, 9)) + tuple(Decimal("0.5") ** n for n in range(1, 9))


class Masked(Bars):
    """A masked copy of bars: a feed and a history of its own, which agents can be shown.

    Symbols become ASSET1, ASSET2, ... in a secret order; times are moved by a secret number of whole weeks, so that weekdays
    and times of day stay; the prices of each instrument are multiplied by a secret power of two from 1/256 to 256, and its
    volumes divided by it. Ticks and lots are moved with them: a rule that looks at changes trades the same, to the last lot,
    and money stays the same to the cent. Of facts, text is left out; times and symbols are moved, and numbers stay as they are.

    Run the fund over it with a paper broker, and the whole run lies in the masked market; `unmask` and
    `agentfund.backtest.masking.unmasked` lead back. With a real broker put `agentfund.brokers.unmasking.Unmasking` between:
    it translates what the gate let pass.

    Args:
        feed: the bars to mask; cut them before, not after.
        seed: chooses names, factors and weeks; whoever knows it can undo them.
        symbols: whether to hide symbols.
        dates: whether to move times.
        prices: whether to change levels of prices.
        volume: whether to change volumes. Where only one of prices and volumes is changed, an order's share of a
            bar's volume is another, and trades may differ where the broker limits it.

    Attributes:
        simulated: whether what is masked is no real past.

    Raises:
        ConfigError: the times cannot be moved so far, or the seed is below zero.
    """

    def __init__(
        self,
        feed: Bars,
        *,
        seed: int,
        symbols: bool = True,
        dates: bool = True,
        prices: bool = True,
        volume: bool = True,
    ) -> None:
        if seed < 0:
            raise ConfigError(f"seed={seed}: it must be zero or more")
        rng = np.random.Generator(np.random.PCG64(seed))
        names = list(feed.columns)
        if feed.facts is not None:
            names += sorted({fact.symbol for fact in feed.facts if fact.symbol} - set(names))
        # All is drawn whether it is used or not, so that switching one part off leaves the others as they are.
        order = rng.permutation(len(names)).tolist()
        weeks = int(rng.integers(*_WEEKS))
        drawn = [_FACTORS[at] for at in rng.integers(len(_FACTORS), size=2 * len(names)).tolist()]
        level, other = dict(zip(names, drawn, strict=False)), dict(zip(names, drawn[len(names) :], strict=True))
        mask = Mask(
            {name: f"ASSET{number + 1}" if symbols else name for name, number in zip(names, order, strict=True)},
            {name: level[name] for name in names if prices},
            {name: _inverse(level[name]) for name in names if prices},
            weeks * _WEEK if dates else timedelta(0),
        )
        scale = {name: (_inverse(level[name]) if prices else other[name]) if volume else Decimal(1) for name in names}
        columns = {mask.hide(name): _hidden(each, mask, scale[name]) for name, each in feed.columns.items()}
        count = len(columns)
        self.simulated: bool = getattr(feed, "simulated", False)
        what = f"{count} {'simulated ' if self.simulated else ''}instrument{'s'[: count != 1]}"
        super().__init__(
            columns,
            source=f"masked bars of {what}",
            facts=None if feed.facts is None else _facts(feed.facts, mask),
        )
        self._feed = feed
        self._mask = mask

    @property
    def feed(self) -> Bars:
        """The bars as they are; nothing for agents."""
        return self._feed

    @property
    def mask(self) -> Mask:
        """The mapping; nothing for agents."""
        return self._mask

    def with_facts(self, facts: Facts | None) -> Self:
        """Return the same masked bars with other facts of the masked market.

        Raises:
            ConfigError: they are facts of the real market: give those to the bars before they are masked.
        """
        names = set(self._mask.symbols) - set(self._mask.symbols.values())
        told = next((fact for fact in facts or () if fact.symbol in names or _numbers(fact.value) != fact.value), None)
        if told is not None:
            what = f"of {told.symbol}" if told.symbol in names else "with text"
            raise ConfigError(f"a fact {what} would tell what is masked: Masked(bars.with_facts(facts), ...) masks facts, too")
        return super().with_facts(facts)

    def unmask(self, thing: Any) -> Any:
        """Return a symbol, a time, an order, its state, a fill, an account or a decision as it really is.

        Raises:
            ConfigError: it is none of these, or of an instrument that the masked market does not have.
        """
        return self._mask.show(thing)


def _inverse(factor: Decimal) -> Decimal:
    return 1 / factor  # exact: it is a power of two


def _hidden(columns: Columns, mask: Mask, scale: Decimal) -> Columns:
    name = columns.instrument.symbol
    shift = mask.shift // _MICRO
    if int(columns.start[-1]) + shift > _LATEST:
        raise ConfigError(f"{name}: its times cannot be moved by {mask.shift.days} days; choose another seed, or dates=False")
    factor = float(mask.prices.get(name, Decimal(1)))
    arrays: dict[str, Any] = {each: getattr(columns, each) * factor for each in PRICES}
    arrays["volume"] = columns.volume * float(scale)
    instrument: Instrument = mask.hide_instrument(columns.instrument)
    times = {"start": columns.start + shift, **({} if columns.end is None else {"end": columns.end + shift})}
    return Columns(instrument, columns.interval, **read_only({**arrays, **times}))


def _facts(facts: Facts, mask: Mask) -> Facts:
    names = re.compile(rf"(?<![^\W_])(?:{'|'.join(map(re.escape, mask.symbols))})(?![^\W_])", re.IGNORECASE)
    kept = []
    ids: dict[tuple[Any, ...], str] = {}
    for fact in facts:
        value = _numbers(fact.value)
        if value is None:
            continue
        # An id may say what the fact is; a number says only that it is another one.
        own = ids.setdefault((fact.name, fact.symbol, fact.id), str(len(ids))) if fact.id else ""
        kept.append(
            Fact(
                names.sub("ASSET", fact.name),
                mask.hide(fact.event_time),
                mask.hide(fact.known_time),
                value,
                mask.hide(fact.symbol) if fact.symbol else "",
                own,
                fact.revision,
                fact.forecast,
            )
        )
    return Facts(kept, source="masked facts")


def _numbers(value: Any) -> float | Mapping[str, float] | None:
    if isinstance(value, Untrusted):
        return None
    if isinstance(value, float):
        return value
    return {key: part for key, part in value.items() if isinstance(part, float)} or None
