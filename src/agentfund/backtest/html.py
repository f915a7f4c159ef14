"""The report as one HTML page that loads nothing: library, script, style and data are in it, and its policy forbids the rest.

All data travel as compressed JSON in base64, so no character of an agent's text is ever HTML; the script puts texts into
the page as text.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from datetime import timedelta
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.backtest import metrics as m
from agentfund.backtest.log import RULES
from agentfund.backtest.trades import bar_ends
from agentfund.clock import to_micros

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentfund.backtest.report import Report
    from agentfund.backtest.trades import Execution, RoundTrip
    from agentfund.market import Columns, Floats, Micros

SHOWN = 3000
"""Most candles that are drawn; more bars are drawn several to a candle."""


def page(report: Report) -> str:
    """Return the whole page; the same report always gives the same bytes."""
    library, script, style = _asset("lightweight-charts.standalone.production.js"), _asset("report.js"), _asset("report.css")
    packed = gzip.compress(json.dumps(payload(report), separators=(",", ":"), allow_nan=False).encode(), 6, mtime=0)
    logo = re.search(r'innerText="(a#tv-attr-logo[^"]*)"', library)
    styles = [style, logo[1]] if logo else [style]
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none';"
        f" script-src {' '.join(map(_hash, (library, script)))}; style-src {' '.join(map(_hash, styles))}"
    )
    parts = {
        "policy": policy,
        "title": html.escape(f"{report.symbol}: backtest report"),
        "style": style,
        "library": library,
        "script": script,
        "data": base64.b64encode(packed).decode(),
        "text": html.escape(report.text()),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: parts[slot[1]], _asset("report.html"))


def frame(page_text: str, height: int = 900) -> str:
    """Return the page in a sandboxed frame, as a notebook shows it.

    It is pure ASCII: the hashes in the policy hold whatever the encoding of the page around it.
    """
    document = html.escape(page_text).encode("ascii", "xmlcharrefreplace").decode()
    return (
        f'<iframe srcdoc="{document}" sandbox="allow-scripts allow-popups" title="backtest report"'
        f' style="width:100%;height:{height}px;border:0"></iframe>'
    )


@lru_cache(maxsize=8)
def _asset(name: str) -> str:
    return (files("agentfund.backtest") / "assets" / name).read_text(encoding="utf-8")


@lru_cache(maxsize=8)
def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def payload(report: Report) -> dict[str, Any]:
    """Return all that the page shows, as JSON values; times are seconds since 1970 UTC, `at` counts candles.

    Of the bars that share a candle it shows the first open, the highest, the lowest and the last close, the last equity
    and the deepest drawdown, so that no extreme is lost.
    """
    axis, columns = report.curve.ends, list(report.columns.values())
    step = max(1, -(-len(axis) // SHOWN))
    first = np.arange(0, len(axis), step)
    last = np.minimum(first + step, len(axis)) - 1
    number = {decision.id: n for n, decision in enumerate(report.log.decisions)}
    started = report.log.started
    null = report.nulls.random_entry
    return {
        **report.to_json(),
        "labels": m.LABELS,
        "step": step,
        "daily": all(column.interval >= timedelta(days=1) for column in columns),
        "times": _seconds((columns[0].start if len(columns) == 1 else axis)[first]),
        "equity": _numbers(report.curve.equity[last], 2),
        "hold": _numbers(report.hold[last], 2) if report.bars > 1 else [],
        "falls": _numbers(100 * np.minimum.reduceat(m.drawdowns(report.curve.equity), first), 3),
        "candles": {symbol: _candles(column, axis[last]) for symbol, column in report.columns.items()},
        "decided": [*_decisions(report, step)],
        "filled": [_fill(execution, number, step) for execution in report.executions],
        "draws": [] if null is None else _numbers(null.draws, 5),
        "trips": [_trip(trip, number) for trip in report.round_trips],
        "run": {
            "fund": started.fund,
            "run": started.run,
            "mode": started.mode,
            "agentfund": started.version,
            "data": str(started.feed.get("fingerprint", "")),
        },
    }


def _numbers(values: Floats, digits: int) -> list[float | None]:
    return [None if value != value else value for value in np.round(values, digits).tolist()]


def _seconds(micros: Micros) -> list[float]:
    return [int(s) if s.is_integer() else s for s in (micros / 1e6).tolist()]


def _candles(column: Columns, closes: Micros) -> dict[str, Any]:
    """One candle for each of `closes`, of the bars that closed since the one before; None where there was none."""
    to = bar_ends(column).searchsorted(closes, side="right")
    begin = np.concatenate([[0], to[:-1]])
    some = to > begin
    at, known = begin[some], int(to[-1])
    digits = max(0, -int(column.instrument.tick_size.normalize().as_tuple().exponent))
    prices = {
        "open": column.open[at],
        "high": np.maximum.reduceat(column.high[:known], at) if known else column.high[:0],
        "low": np.minimum.reduceat(column.low[:known], at) if known else column.low[:0],
        "close": column.close[to[some] - 1],
    }
    candles: dict[str, Any] = {"digits": digits}
    for name, values in prices.items():
        whole = np.full(len(closes), np.nan)
        whole[some] = values
        candles[name] = _numbers(whole, digits + 2)
    return candles


def _decisions(report: Report, step: int) -> Iterable[dict[str, Any]]:
    """Each decision with all that was said, done and paid about it."""
    log, axis = report.log, report.curve.ends
    orders: dict[str, list[dict[str, Any]]] = {}
    for order in log.orders.values():
        answer = log.answers.get(order.id)
        orders.setdefault(order.decision, []).append(
            {
                "text": f"{order.side} {order.quantity.normalize():f} {order.symbol}, {order.type}",
                "stop": None if order.stop_loss is None else str(order.stop_loss),
                "target": None if order.take_profit is None else str(order.take_profit),
                "status": str(answer.status) if answer else "intended",
                "reason": answer.reason if answer else "",
                "id": order.id[:16],
            }
        )
    for decision in log.decisions:
        cycle = log.cycles.get(decision.cycle)
        row = max(0, int(axis.searchsorted(to_micros(decision.time), side="right")) - 1)
        yield {
            **decision.model_dump(mode="json", exclude={"id"}),  # ids hold nothing to compress, and the page shows none
            "time": decision.time.timestamp(),
            "at": row // step,
            "thesis": report.thesis(decision),
            "opinions": cycle.opinions if cycle else [],
            "calls": [
                [call.agent, call.route, call.llm, call.outcome, float(call.billed_usd), round(call.latency_s, 3)]
                for call in (cycle.calls if cycle else ())
                if call.route != RULES
            ],
            "orders": orders.get(decision.id, []),
        }


def _fill(execution: Execution, number: dict[str, int], step: int) -> dict[str, Any]:
    fill = execution.fill
    return {
        "at": execution.bar // step,
        "decision": number.get(execution.decision),
        "symbol": fill.symbol,
        "side": str(fill.side),
        "leg": fill.leg,
        "quantity": f"{fill.quantity.normalize():f}",
        "price": float(fill.price),
        "cost": float(fill.cost),
        "time": fill.time.timestamp(),
    }


def _trip(trip: RoundTrip, number: dict[str, int]) -> dict[str, Any]:
    return {
        "decision": number.get(trip.decision),
        "closed_by": number.get(trip.closed_by) if trip.closed else None,
        "symbol": trip.symbol,
        "direction": str(trip.direction),
        "exit": trip.exit,
        "bars": trip.bars,
        "entry": float(trip.entry_price),
        "left": float(trip.exit_price),
        "profit": float(trip.profit),
        "pct": trip.profit_pct,
        "cost": float(trip.cost),
    }
