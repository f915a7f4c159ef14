"""A counterfactual rerun as one HTML page: the figures, both equity curves, and what differs."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from agentfund.replays.text import asked, one_by_one, rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentfund.market import Floats
    from agentfund.replays.counterfactual import Counterfactual

MOST = 500
"""Most changes that are listed."""

_POINTS = 1_000
_WIDTH, _HEIGHT = 960, 260
_STYLE = """
:root { color-scheme: light dark; --old: #6b7280; --new: #0d9488; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
.figures td:not(:first-child), .figures th:not(:first-child) { text-align: right; }
.figures td:first-child { white-space: pre; }
svg { width: 100%; height: auto; } polyline { fill: none; stroke-width: 1.5; }
.old { stroke: var(--old); color: var(--old); } .new { stroke: var(--new); color: var(--new); }
"""


def page(found: Counterfactual) -> str:
    """Return the page; it loads nothing from anywhere."""
    run = escape(found.recorded.started.run[:12])
    span = f"cycles {found.first:,} to {found.last:,}, {found.begin:%Y-%m-%d %H:%M} to {found.end:%Y-%m-%d %H:%M} UTC"
    diff = found.diff
    told = one_by_one(diff)
    first = "Nothing differs: every decision, order and fill is that of the log."
    if diff.first is not None:
        first = f"The first difference is in cycle {diff.first.cycle:,}. Its cause: {diff.first.cause}."
    figures = _table(("", "recorded", "replayed", "difference"), rows(diff), "figures")
    changes = _table(
        ("cycle", "time (UTC)", "what", "recorded", "replayed", "cause"),
        ((f"{c.cycle:,}", f"{c.time:%Y-%m-%d %H:%M}", c.what, c.recorded, c.replayed, c.cause) for c in told[:MOST]),
        "changes",
    )
    left = f"<p>and {len(told) - MOST:,} more</p>" if len(told) > MOST else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Run {run} once more</title><style>{_STYLE}</style></head><body>
<h1>Run {run} once more</h1>
<p>{span}</p>
<h2>Changed</h2>{_list(found.what_changed or ("nothing",))}
<h2>Asked</h2>{_list([*asked(found), *found.remarks])}
<h2>Figures</h2>{figures}
<h2>Equity</h2><p><span class="old">recorded</span>, <span class="new">replayed</span></p>{_curves(diff.equity)}
<h2>What differs</h2><p>{escape(first)}</p>{changes if told else ""}{left}
</body></html>
"""


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def _table(head: Sequence[str], body: Iterable[Sequence[str]], kind: str) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    return f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table>'


def _curves(equity: tuple[Floats, Floats]) -> str:
    low, high = (float(find([find(each) for each in equity])) for find in (np.min, np.max))
    scale = (_HEIGHT - 10) / (high - low or 1.0)
    drawn = []
    for name, each in zip(("old", "new"), equity, strict=True):
        at = np.unique(np.linspace(0, len(each) - 1, min(len(each), _POINTS)).astype(int))
        across = at * (_WIDTH / max(len(each) - 1, 1))
        up = _HEIGHT - 5 - (each[at] - low) * scale
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across.tolist(), up.tolist(), strict=True))
        drawn.append(f'<polyline class="{name}" points="{points}"/>')
    title = f"equity from {low:,.2f} to {high:,.2f}"
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"><title>{title}</title>{"".join(drawn)}</svg>'
