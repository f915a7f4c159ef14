"""What was decided on one set of data, in a form that can be compared and shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.clock import from_micros

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentfund.market import Micros
    from agentfund.trading import Fill, Order

DECISIONS = ("decision", "position", "enter", "leave", "enter, bar by bar", "leave, bar by bar")
"""What counts as decided; opinions and indicators lead to it."""

STEPPED = ", bar by bar"

_DIRECTIONS = {"long": 1.0, "short": -1.0}


@dataclass(frozen=True, slots=True)
class Key:
    """Whose values they are, what they are, and of which instrument; empty where it is of all."""

    who: str
    what: str
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class Track:
    """Values by the moment at which they were decided.

    Args:
        times: microseconds since 1970 UTC, rising; a moment may occur more than once.
        values: as many: numbers, truth values, or texts.
        rounding: relative difference below which two numbers are the same.
    """

    times: Micros
    values: NDArray[Any]
    rounding: float = 0.0

    @property
    def acted(self) -> NDArray[np.bool_]:
        """Where something was decided: neither zero nor NaN nor no."""
        if self.values.dtype.kind in "OU":
            return np.array([value not in ("", None) for value in self.values.tolist()], dtype=bool)
        numbers = self.values.astype(np.float64)
        acted: NDArray[np.bool_] = (numbers != 0) & ~np.isnan(numbers)
        return acted

    def until(self, moment: int) -> int:
        """Return how many values there are up to a moment."""
        return int(self.times.searchsorted(moment, side="right"))


@dataclass(slots=True)
class Trace:
    """All that was decided on one set of data.

    Args:
        tracks: by whose they are.
        universe: the instruments that the factory chose, None where that is not its to choose.
        fills: orders, each with its fill, of a fund.
    """

    tracks: dict[Key, Track] = field(default_factory=dict)
    universe: tuple[str, ...] | None = None
    fills: list[tuple[Order, Fill]] = field(default_factory=list)

    def decisions(self) -> dict[Key, Track]:
        """Return the tracks that are decisions."""
        return {key: track for key, track in self.tracks.items() if key.what in DECISIONS}


def position(track: Track) -> NDArray[np.float64]:
    """Return what was wanted at each moment of a track as -1, 0 or 1."""
    if track.values.dtype.kind not in "OU":
        return np.sign(np.nan_to_num(track.values.astype(np.float64)))
    return np.array([_wanted(str(text)) for text in track.values.tolist()])


def _wanted(text: str) -> float:
    try:
        told = json.loads(text)
    except ValueError:
        return _DIRECTIONS.get(text.lower(), 0.0)
    return _DIRECTIONS.get(str(told.get("direction")), 0.0) if isinstance(told, Mapping) else 0.0


def shown(value: Any) -> str:
    """Return a value of a track for people: one line, the parts of an opinion or a decision that tell most."""
    if value is None:
        return "nothing"
    if not isinstance(value, str):
        number = value.item() if hasattr(value, "item") else value
        return ("yes" if number else "no") if isinstance(number, bool) else f"{number:.10g}"
    try:
        told = json.loads(value)
    except ValueError:
        return value or "nothing"
    if not isinstance(told, Mapping):
        return value
    if "outcome" in told:
        parts = [told["outcome"], told.get("direction"), told.get("symbol"), f"({told['reason']})" if told["reason"] else ""]
    elif isinstance(inner := told.get("value"), Mapping):
        parts = [f"{name} {part}" for name, part in inner.items() if part not in ("", None, [])]
        return _short(", ".join(parts))
    else:
        parts = [told.get("stance"), f"({told['reason']})" if told.get("reason") else ""]
    return _short(" ".join(str(part) for part in parts if part))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:117] + "..."


def moment(micros: int) -> str:
    """Return a moment as people write it."""
    return f"{from_micros(micros):%Y-%m-%d %H:%M} UTC"
