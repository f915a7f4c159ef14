"""What a market shows, as JSON values and back: what an agent in another process sees.

A scene tells the bars that closed since the scene before it, by whose id it is chained to it; now and then one tells them all.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from agentfund.market import Columns, Instrument, Market, Window, read_only

if TYPE_CHECKING:
    from collections.abc import Mapping

_FLOATS = ("open", "high", "low", "close", "volume")
_INTS = ("start", "end")
_INSTRUMENT = TypeAdapter(Instrument)


def tell(market: Market, bars: int, before: Market | None = None, chain: str = "") -> dict[str, Any]:
    """Return a market as JSON values; numbers keep every bit.

    Args:
        market: what to tell.
        bars: most bars of an instrument.
        before: what the scene before it told; None to tell all.
        chain: that scene's id.
    """
    windows = []
    for symbol, window in market.windows.items():
        known = before.windows.get(symbol) if before is not None else None
        new = len(window) if known is None else int((window.start > known.start[-1]).sum())
        count = min(new, bars, len(window))
        first = len(window) - count
        windows.append(
            {
                "instrument": _INSTRUMENT.dump_python(window.instrument, mode="json"),
                "interval_s": window.interval.total_seconds(),
                **{name: getattr(window, name)[first:].tolist() for name in (*_INTS, *_FLOATS)},
            }
        )
    updated = list(market.updated)
    return {"now": market.now.isoformat(), "updated": updated, "bars": bars, "after": chain, "windows": windows}


def understand(told: Mapping[str, Any], before: Market | None = None) -> Market:
    """Return the market that `tell` told.

    Args:
        told: its values.
        before: the market of the scene that it is chained to; None where it tells all.

    Raises:
        ValueError: it is none.
        KeyError: a part is missing.
    """
    windows: dict[str, Window] = {}
    for one in told["windows"]:
        instrument = _INSTRUMENT.validate_python(one["instrument"])
        arrays = {name: np.array(one[name], dtype=np.float64) for name in _FLOATS}
        arrays |= {name: np.array(one[name], dtype=np.int64) for name in _INTS}
        known = before.windows.get(instrument.symbol) if before is not None else None
        if known is not None:
            keep = int(told["bars"])
            arrays = {name: np.concatenate([getattr(known, name), new])[-keep:] for name, new in arrays.items()}
        columns = Columns(instrument, timedelta(seconds=one["interval_s"]), **read_only(arrays))
        windows[instrument.symbol] = Window(columns, len(columns))
    return Market(datetime.fromisoformat(told["now"]), windows, tuple(told["updated"]))
