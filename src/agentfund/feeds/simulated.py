"""A market that is not real: seeded bars with regimes, sessions, jumps and gaps, for trying things out offline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np

from agentfund.clock import to_micros
from agentfund.errors import ConfigError
from agentfund.feeds.history import Bars
from agentfund.market import Columns, Instrument, decimal, read_only

if TYPE_CHECKING:
    from agentfund.market import Floats, Micros

Sessions = Literal["stocks", "forex", "24h"]

_MICRO = timedelta(microseconds=1)
_DAY = timedelta(days=1)
_DAY_MICROS = _DAY // _MICRO


class _Calendar(NamedTuple):
    """When a market is open: so long from a time of day (UTC), on some days of the week (Monday is 0)."""

    opens: timedelta
    length: timedelta
    weekdays: tuple[int, ...]


_CALENDARS: dict[str, _Calendar] = {
    "stocks": _Calendar(timedelta(hours=14, minutes=30), timedelta(hours=6, minutes=30), (0, 1, 2, 3, 4)),
    # From Sunday evening to Friday evening: five sessions of a day that begin on the evening before.
    "forex": _Calendar(timedelta(hours=22), _DAY, (6, 0, 1, 2, 3)),
    "24h": _Calendar(timedelta(0), _DAY, (0, 1, 2, 3, 4, 5, 6)),
}


@dataclass(frozen=True, slots=True)
class _Regime:
    """How prices move for a while: drift and noise in units of the usual bar, and the pull back to where it began."""

    drift: float
    noise: float
    pull: float = 0.0


_REGIMES = {
    "trending_up": _Regime(0.12, 0.8),
    "trending_down": _Regime(-0.12, 0.8),
    "ranging": _Regime(0.0, 0.6, pull=0.06),
    "volatile": _Regime(0.0, 2.0),
}
_NAMES = tuple(_REGIMES)

# A usual day moves by 1.5 %, a third of its variance while the market is closed.
_DAILY = 0.015
_CLOSED_SHARE = 1 / 3
_WEEKEND = 1.5
_CHANGE = 1 / 80  # chance per bar that the regime ends
_JUMP = 1 / 400  # chance per bar of a jump of some usual bars
_JUMP_SIZE = 5.0
# Today's variance: a constant, the last shock and the last variance; they sum to 1, so it stays around 1.
_CONSTANT, _SHOCK, _MEMORY = 0.04, 0.10, 0.86
_HOME = 2e-5  # pull to the first price, weak enough not to be seen, so that long runs stay in reach of it
_LEAST_TICKS = 100


class SimulatedMarket(Bars):
    """Simulated bars of one instrument: a `Feed` and a `History` that says of itself that it is not real.

    Regimes follow each other by a Markov chain; volatility clusters; there are jumps, overnight and weekend gaps, and
    more volume at the ends of a session. The same arguments give the same bytes wherever numpy's PCG64 does.

    Args:
        symbol: what to call the instrument.
        bars: how many, at least 2.
        seed: chooses the market.
        interval: length of a bar: a part of the session, or a whole day.
        sessions: "stocks" (weekdays 14:30 to 21:00 UTC), "forex" (Sunday 22:00 to Friday 22:00 UTC) or "24h". No holidays.
        start: the first bar starts at the first session time that is not before it, aware.
        price: about where prices begin.
        tick_size: smallest step of a price.

    Attributes:
        regimes: the true regime of each bar: trending_up, trending_down, ranging or volatile.
        simulated: it is no past that a language model could remember.

    Raises:
        ConfigError: an argument cannot be; says which and why.
    """

    simulated: ClassVar[bool] = True

    def __init__(
        self,
        symbol: str = "SIM",
        *,
        bars: int = 2000,
        seed: int = 7,
        interval: timedelta = timedelta(minutes=15),
        sessions: Sessions = "stocks",
        start: datetime = datetime(2024, 1, 2, tzinfo=UTC),
        price: float = 100.0,
        tick_size: Decimal | str | float = Decimal("0.01"),
    ) -> None:
        tick = decimal(tick_size)
        instrument = Instrument(symbol, tick_size=tick)
        _check(bars, seed, interval, sessions, start, price, tick)
        calendar = _CALENDARS[sessions]
        times = _times(calendar, interval, start, bars)
        rng = np.random.Generator(np.random.PCG64(seed))
        states = _states(rng, bars)
        arrays = _prices(rng, times, states, calendar, interval, price, float(tick))
        kind = f"{bars:,} bars of {interval.total_seconds() / 60:g} minutes, {sessions} sessions, seed {seed}"
        super().__init__(
            Columns(instrument, interval, **read_only({"start": times, **arrays})),
            source=f"a simulated market, not real data ({kind})",
        )
        self.regimes: tuple[str, ...] = tuple(_NAMES[state] for state in states)


def _check(bars: int, seed: int, interval: timedelta, sessions: str, start: datetime, price: float, tick: Decimal) -> None:
    if sessions not in _CALENDARS:
        raise ConfigError(f"sessions={sessions!r}: it can be {', '.join(map(repr, get_args(Sessions)))}")
    if bars < 2:
        raise ConfigError(f"bars={bars}: a market has at least 2")
    if seed < 0:
        raise ConfigError(f"seed={seed}: it must be zero or more")
    length = _CALENDARS[sessions].length
    if interval != _DAY and not timedelta(0) < interval <= length:
        raise ConfigError(f"interval={interval}: a bar lasts a whole day or a part of the {sessions} session of {length}")
    if start.tzinfo is None:
        raise ConfigError(f"start={start}: it has no time zone; use datetime(..., tzinfo=UTC)")
    if not (math.isfinite(price) and price >= _LEAST_TICKS * tick):
        raise ConfigError(f"price={price}: it must be at least {_LEAST_TICKS} ticks of {tick}")


def _times(calendar: _Calendar, interval: timedelta, start: datetime, bars: int) -> Micros:
    """Return the starts of the first `bars` bars at or after `start`."""
    width, opens = interval // _MICRO, calendar.opens // _MICRO
    if interval == _DAY and calendar.length < _DAY:
        opens = 0  # a daily bar of a market with short sessions carries the date, as daily files do
    slots = np.arange(max(1, calendar.length // interval), dtype=np.int64) * width + opens
    first = to_micros(start)
    weeks = bars // (len(slots) * len(calendar.weekdays)) + 3
    day = first // _DAY_MICROS - 1 + np.arange(7 * weeks, dtype=np.int64)
    open_days = day[np.isin((day + 3) % 7, calendar.weekdays)]  # 1970 began on a Thursday
    times = (open_days[:, None] * _DAY_MICROS + slots).ravel()
    times = times[times >= first]
    return times[:bars].copy()


def _states(rng: np.random.Generator, bars: int) -> list[int]:
    """Walk the Markov chain: stay, or go to one of the other regimes with equal chance."""
    change = rng.random(bars) < _CHANGE
    step = rng.integers(1, len(_NAMES), bars)
    step[~change] = 0
    step[0] = rng.integers(len(_NAMES))
    walk: list[int] = (np.cumsum(step) % len(_NAMES)).tolist()
    return walk


def _prices(
    rng: np.random.Generator,
    times: Micros,
    states: list[int],
    calendar: _Calendar,
    interval: timedelta,
    price: float,
    tick: float,
) -> dict[str, Floats]:
    bars, width = len(times), interval // _MICRO
    per_day = max(1, calendar.length // interval)
    closed = 0.0 if calendar.length == _DAY and len(calendar.weekdays) == 7 else _CLOSED_SHARE
    usual = _DAILY * math.sqrt((1 - closed) / per_day)
    shocks = rng.standard_normal(bars)
    jumps = np.where(rng.random(bars) < _JUMP, rng.standard_normal(bars) * _JUMP_SIZE, 0.0)
    shut = np.diff(times, prepend=times[:1]) - width
    rested = shut >= (0 if per_day == 1 and closed else 1)
    gaps = rng.standard_normal(bars) * np.where(rested, _DAILY * math.sqrt(closed), 0.02 * usual)
    gaps[shut > _DAY_MICROS] *= _WEEKEND
    opens, closes, moved = _walk(states, shocks + jumps, gaps, usual, price, _LEAST_TICKS * tick)

    wicks = rng.standard_exponential((2, bars)) * moved * 0.4
    high, low = np.maximum(opens, closes) * (1 + wicks[0]), np.minimum(opens, closes) * (1 - np.minimum(wicks[1], 0.5))
    part = (times - calendar.opens // _MICRO) % _DAY_MICROS / (calendar.length // _MICRO)
    shape = 0.6 + 1.6 * (2 * part - 1) ** 2
    volume = np.rint(10_000 * shape * (0.5 + rng.random(bars)) * (0.5 + moved / usual))
    prices: dict[str, Any] = {"open": opens, "high": high, "low": low, "close": closes}
    return {**{name: _rounded(values, tick) for name, values in prices.items()}, "volume": volume}


def _walk(
    states: list[int], shocks: Floats, gaps: Floats, usual: float, price: float, least: float
) -> tuple[Floats, Floats, Floats]:
    """Return opens, closes and each bar's volatility. Products and roots only: they are the same on every machine."""
    regimes = [_REGIMES[name] for name in _NAMES]
    opens, closes, moved = [], [], []
    home = anchor = close = price
    variance, before = 1.0, states[0]
    for state, shock, gap in zip(states, shocks.tolist(), gaps.tolist(), strict=True):
        regime = regimes[state]
        if state != before:
            anchor, before = close, state
        opened = max(least, close * (1 + min(0.3, max(-0.3, gap))))
        volatility = usual * regime.noise * math.sqrt(variance)
        change = regime.drift * usual + volatility * shock - regime.pull * (opened / anchor - 1) + _HOME * (home / opened - 1)
        close = max(least, opened * (1 + min(0.3, max(-0.3, change))))
        variance = _CONSTANT + (_SHOCK * min(9.0, shock * shock) + _MEMORY) * variance
        opens.append(opened)
        closes.append(close)
        moved.append(volatility)
    return np.array(opens), np.array(closes), np.array(moved)


def _rounded(values: Floats, tick: float) -> Floats:
    """Round to the tick, as the nearest float to the decimal number: 123.45 and not 123.45000000000002."""
    rounded: Floats = np.round(np.rint(values / tick) * tick, 10)
    return rounded
