"""A sweep as a page: heat map, the best trials, and what the best of so many is worth."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.backtest.research import pages
from agentfund.backtest.research.grid import word, written
from agentfund.backtest.research.pages import Svg
from agentfund.backtest.research.sweep_result import COLUMNS, LOWER, cell
from agentfund.clock import from_micros
from agentfund.errors import ConfigError

if TYPE_CHECKING:
    from agentfund.backtest.research.sweep_result import SweepResult

TOP = 20
_PERCENT = frozenset({"total_return", "cagr", "volatility", "max_drawdown", "hit_rate", "exposure"})
# From bad over indifferent to good; told apart by people who do not see red and green alike.
_SCALE = ((178, 78, 26), (241, 163, 94), (247, 244, 238), (118, 164, 224), (26, 74, 168))


def page(result: SweepResult, by: str) -> str:
    """Return the whole page; the same result always gives the same bytes."""
    span = f"{from_micros(int(result.ends[0])):%Y-%m-%d} to {from_micros(int(result.ends[-1])):%Y-%m-%d}"
    subtitle = f"{len(result):,} trials on {result.bars:,} bars, {span}, {result.source}. Costs: {result.costs}."
    honest = html.escape(result.honest[0].upper() + result.honest[1:] + ".")
    parts = []
    if result.done:
        best = result.best(by)
        figures = {f"best by {by.replace('_', ' ')}": written(best.parameters)}
        figures |= {title: cell(best.metrics.get(name), unit) for name, title, unit in COLUMNS[:4]}
        parts.append(pages.tiles(figures))
    told = "".join(
        f'<p class="muted small">{html.escape(each.sentence[0].upper() + each.sentence[1:])}.</p>'
        for each in (result.deflated, result.overfitting)
        if each is not None
    )
    parts.append(pages.card("What the best is worth", f'<p class="honest">{honest}</p>', told))
    if result.done:
        parts.append(pages.card("", heatmap(result, None, None, by)))
        parts.append(pages.card(f"Best {min(TOP, len(result.ranked(by)))} by {by.replace('_', ' ')}", _table(result, by)))
    failed = [f"{written(each.parameters)}: {each.error}" for each in result.failed[:TOP]]
    more = [f"and {len(result.failed) - TOP:,} more"] if len(result.failed) > TOP else []
    parts += [pages.notes(f"{len(result.failed):,} trials failed", failed + more), pages.notes("Warnings", result.warnings)]
    return pages.page(f"{result.name} on {', '.join(result.symbols)}: parameter sweep", subtitle, parts)


def _table(result: SweepResult, by: str) -> str:
    head = ["", *result.parameters, *(title for _, title, _ in COLUMNS), "trades"]
    rows = [
        [
            str(number),
            *(word(each.parameters[name]) for name in result.parameters),
            *(cell(each.metrics.get(name), unit) for name, _, unit in COLUMNS),
            f"{each.trades:,}",
        ]
        for number, each in enumerate(result.ranked(by)[:TOP], 1)
    ]
    return pages.table(head, rows)


def heatmap(result: SweepResult, x: str | None, y: str | None, by: str) -> Svg:
    """Return the heat map of a figure over two parameters; see `SweepResult.heatmap`."""
    result.ranked(by)  # says so where there is no such figure
    values = {name: list(dict.fromkeys(each.parameters[name] for each in result.attempts)) for name in result.parameters}
    for name in (x, y):
        if name is not None and name not in values:
            raise ConfigError(f"there is no parameter {name!r}; there is {', '.join(values)}")
    wide = [name for name, given in values.items() if len(given) > 1] or list(values)
    y = y or next((name for name in wide if name != x), None)
    x = x or next((name for name in wide if name != y), None)
    if x is None:  # one parameter alone lies across
        x, y = y, None
    if x is None or x == y:
        raise ConfigError(f"a heat map takes two different parameters, not {x!r} twice")
    rows: list[Any] = values[y] if y else [None]
    shown = np.array([[_median(result, {x: across, **({y: down} if y else {})}, by) for across in values[x]] for down in rows])
    others = [name for name in result.parameters if name not in (x, y) and len(values[name]) > 1]
    return _draw(shown, x, y, values[x], rows, by, others, result)


def _median(result: SweepResult, at: dict[str, Any], by: str) -> float:
    found = [
        each.metrics[by]
        for each in result.done
        if each.metrics.get(by) is not None and all(each.parameters[name] == value for name, value in at.items())
    ]
    return float(np.median(np.array(found, dtype=np.float64))) if found else math.nan


def _draw(
    shown: np.ndarray[Any, np.dtype[np.float64]],
    x: str,
    y: str | None,
    across: list[Any],
    down: list[Any],
    by: str,
    others: list[str],
    result: SweepResult,
) -> Svg:
    known = shown[np.isfinite(shown)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    # Zero is where gain turns to loss, so it has the colour in the middle wherever the figure has both signs.
    middle = 0.0 if low < 0 < high else (low + high) / 2
    reach = max(high - middle, middle - low) or 1.0
    sign = -1.0 if by in LOWER else 1.0
    width, left, top = 1000, 92, 46
    step = (width - left - 20) / len(across)
    tall = min(46.0, max(14.0, 420 / len(down)))
    height = top + tall * len(down) + 62
    numbers = step >= 34 and tall >= 14
    best = tuple(np.argwhere(shown == (known.min() if by in LOWER else known.max()))[0]) if len(known) else None
    title = f"{by.replace('_', ' ')} over {x}" + (f" and {y}" if y else "")
    title += f", median over {', '.join(others)}" if others else ""
    parts = [
        f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{html.escape(title)}">',
        f'<text class="axis" x="{left}" y="16">{html.escape(title)}</text>',
    ]
    for row, own in enumerate(down):
        if y and (tall >= 14 or not row % math.ceil(14 / tall)):
            text = html.escape(word(own))
            parts.append(
                f'<text class="tick" x="{left - 8}" y="{top + tall * (row + 0.5) + 4:.1f}" text-anchor="end">{text}</text>'
            )
        for column, other in enumerate(across):
            value = float(shown[row, column])
            corner = f'x="{left + step * column:.1f}" y="{top + tall * row:.1f}"'
            place = f'{corner} width="{step - 1.5:.1f}" height="{tall - 1.5:.1f}" rx="3"'
            where = f"{x}={word(other)}" + (f", {y}={word(own)}" if y else "")
            if not math.isfinite(value):
                parts.append(f'<rect class="none" {place}><title>{html.escape(where)}: none</title></rect>')
                continue
            colour, dark = _colour(sign * (value - middle) / reach)
            text = _figure(value, by)
            parts.append(f'<rect fill="{colour}" {place}><title>{html.escape(where)}: {text}</title></rect>')
            if numbers:
                at = f'x="{left + step * (column + 0.5):.1f}" y="{top + tall * (row + 0.5) + 4:.1f}"'
                parts.append(f'<text class="{"on-dark" if dark else "on-light"}" {at} text-anchor="middle">{text}</text>')
            if best == (row, column):
                parts.append(f'<rect class="best" {place}/>')
    every = max(1, math.ceil(26 / step))
    foot = top + tall * len(down)
    for column, other in enumerate(across):
        if not column % every:
            parts.append(
                f'<text class="tick" x="{left + step * (column + 0.5):.1f}" y="{foot + 16:.1f}" text-anchor="middle">'
                f"{html.escape(word(other))}</text>"
            )
    parts.append(
        f'<text class="axis" x="{left + step * len(across) / 2:.1f}" y="{foot + 34:.1f}" text-anchor="middle">'
        f"{html.escape(x)}</text>"
    )
    if y:
        centre = top + tall * len(down) / 2
        parts.append(
            f'<text class="axis" transform="translate(18 {centre:.1f}) rotate(-90)" text-anchor="middle">'
            f"{html.escape(y)}</text>"
        )
    parts.append(_legend(low, high, middle, reach, sign, by, foot))
    return Svg("".join(parts) + "</svg>")


def _legend(low: float, high: float, middle: float, reach: float, sign: float, by: str, foot: float) -> str:
    parts = [f'<text class="tick" x="92" y="{foot + 56:.1f}">{_figure(low, by)}</text>']
    for part in range(40):
        colour, _ = _colour(sign * (low + (high - low) * part / 39 - middle) / reach)
        parts.append(f'<rect fill="{colour}" x="{150 + part * 5}" y="{foot + 47:.1f}" width="5.3" height="11"/>')
    parts.append(f'<text class="tick" x="{150 + 208}" y="{foot + 56:.1f}">{_figure(high, by)}</text>')
    return "".join(parts)


def _figure(value: float, by: str) -> str:
    return f"{100 * value + 0.0:.1f} %" if by in _PERCENT else f"{round(value, 2) + 0.0:.2f}"  # + 0.0: there is no -0.00


def _colour(place: float) -> tuple[str, bool]:
    """Return the colour of a place from -1 (bad) to 1 (good), and whether text on it must be light."""
    at = (min(1.0, max(-1.0, place)) + 1) / 2 * (len(_SCALE) - 1)
    first = min(int(at), len(_SCALE) - 2)
    red, green, blue = (round(a + (b - a) * (at - first)) for a, b in zip(_SCALE[first], _SCALE[first + 1], strict=True))
    return f"#{red:02x}{green:02x}{blue:02x}", 0.299 * red + 0.587 * green + 0.114 * blue < 140
