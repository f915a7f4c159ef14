"""Pages and drawings in plain HTML and SVG that load nothing and run nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from agentfund.clock import from_micros

if TYPE_CHECKING:
    from agentfund.market import Floats, Micros

_POINTS = 1200


class Svg(str):
    """A drawing as SVG text; a notebook shows it."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return f"<style>{style()}</style>{self}"


def style() -> str:
    """Return the style sheet of all these pages and drawings."""
    return (files("agentfund.backtest") / "assets" / "tables.css").read_text(encoding="utf-8")


def page(title: str, subtitle: str, parts: Iterable[str]) -> str:
    """Return a whole page; `parts` are HTML already, title and subtitle are text."""
    sheet = style()
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-{digest}'"
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">\n<meta name="color-scheme" content="light dark">',
            f"<title>{html.escape(title)}</title>\n<style>{sheet}</style>\n</head>\n<body>",
            f'<header><h1>{html.escape(title)}</h1><p class="muted">{html.escape(subtitle)}</p></header>',
            *parts,
            "</body>\n</html>\n",
        ]
    )


def card(heading: str, *parts: str) -> str:
    """Return a section; the parts are HTML already."""
    head = f"<h2>{html.escape(heading)}</h2>" if heading else ""
    return f'<section class="card">{head}{"".join(parts)}</section>'


def tiles(figures: Mapping[str, str]) -> str:
    """Return headline figures side by side."""
    each = (
        f'<div class="card"><div class="muted small">{html.escape(name)}</div>'
        f'<div class="value">{html.escape(value)}</div></div>'
        for name, value in figures.items()
    )
    return f'<section class="tiles">{"".join(each)}</section>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 0, chosen: int | None = None) -> str:
    """Return a table of texts; the first `left` columns stand left, the others are numbers; row `chosen` is marked."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}>{html.escape(text)}</{tag}>" if at < left else f'<{tag} class="number">{html.escape(text)}</{tag}>'
            for at, text in enumerate(cells)
        )

    body = "".join(
        f"<tr{' class=chosen' if number == chosen else ''}>{line(row, 'td')}</tr>" for number, row in enumerate(rows)
    )
    return f'<div class="wide"><table><thead><tr>{line(head, "th")}</tr></thead><tbody>{body}</tbody></table></div>'


def notes(heading: str, sentences: Sequence[str]) -> str:
    """Return a box of sentences, nothing where there are none."""
    if not sentences:
        return ""
    items = "".join(f"<li>{html.escape(each)}</li>" for each in sentences)
    return f'<div class="warnings"><b>{html.escape(heading)}</b><ul>{items}</ul></div>'


def curves(ends: Micros, lines: Mapping[str, Floats], *, spans: Sequence[tuple[int, int]] = (), colour: int = 0) -> Svg:
    """Return curves over time as a drawing of at most 1,200 points each, with a legend.

    Args:
        ends: moments, microseconds since 1970 UTC.
        lines: values at these moments by name; NaN is left out.
        spans: every second one is shaded: (first, last) index of `ends`.
        colour: number of the first line's colour.
    """
    width, height, left, right, top, bottom = 1000, 320, 64, 12, 10, 26
    if not len(ends):
        return Svg("")
    known = np.concatenate([values[np.isfinite(values)] for values in lines.values()])
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    first, last = int(ends[0]), max(int(ends[-1]), int(ends[0]) + 1)

    def across(moment: float) -> float:
        return left + (width - left - right) * (moment - first) / (last - first)

    def down(value: float) -> float:
        return top + (height - top - bottom) * (high - value) / (high - low)

    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(", ".join(lines))}">']
    for begin, end in spans[1::2]:
        x = across(int(ends[begin]))
        parts.append(
            f'<rect class="span" x="{x:.1f}" y="{top}" width="{across(int(ends[end])) - x:.1f}"'
            f' height="{height - top - bottom}"/>'
        )
    for value in ticks:
        y = down(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 6}" y="{y + 3.5:.1f}" text-anchor="end">{_short(value)}</text>')
    days = (last - first) / 86_400e6
    form = "%Y" if days > 365 * 4 else "%Y-%m" if days > 120 else "%m-%d" if days > 4 else "%m-%d %H:%M"
    for part in range(6):
        moment = first + (last - first) * part // 5
        anchor = "start" if part == 0 else "end" if part == 5 else "middle"
        parts.append(
            f'<text class="tick" x="{across(moment):.1f}" y="{height - 8}" text-anchor="{anchor}">'
            f"{from_micros(moment):{form}}</text>"
        )
    step = max(1, -(-len(ends) // _POINTS))
    at = np.unique(np.append(np.arange(0, len(ends), step), len(ends) - 1))
    for number, values in enumerate(lines.values()):
        points = [
            f"{across(int(ends[i])):.1f},{down(float(values[i])):.1f}" for i in at.tolist() if math.isfinite(float(values[i]))
        ]
        parts.append(f'<polyline class="line c{(number + colour) % 8}" points="{" ".join(points)}"/>')
    keys = "".join(f'<span><i class="c{(n + colour) % 8}"></i>{html.escape(name)}</span>' for n, name in enumerate(lines))
    return Svg(f'<div class="legend">{keys}</div>{"".join(parts)}</svg>')


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers from below `low` to above `high`."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return [step * n for n in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _short(value: float) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.4g} M"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.4g}"
