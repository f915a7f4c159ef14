"""What the command line says and how: answers on stdout, everything else on stderr, no control characters."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from agentfund.plain import plain

if TYPE_CHECKING:
    from agentfund.core.context import State
    from agentfund.doctor import Facts
    from agentfund.messages import Opinion

_WIDTH = 160


def say(text: str) -> None:
    """Tell the person something, on stderr."""
    sys.stderr.write(plain(text) + "\n")


def print_line(text: str) -> None:
    """Print text on stdout."""
    sys.stdout.write(plain(text) + "\n")


def print_json(value: Any) -> None:
    """Print one JSON object on stdout; exact amounts of money are strings, times are ISO 8601."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False, default=_json) + "\n")


def _json(value: Any) -> str:
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout, and nothing where it has no row."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(str(cell))) for cell in row))
    if table.row_count:
        console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
        console.print(table)
        console.print()


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr while the block runs, where stderr is a terminal; give what moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


@contextmanager
def tables() -> Iterator[Callable[[Iterable[tuple[str, Sequence[str], Sequence[Sequence[str]]]]], None]]:
    """Show tables on stdout that change in place while the block runs; give what shows them: title, head and rows of each."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    def drawn(parts: Iterable[tuple[str, Sequence[str], Sequence[Sequence[str]]]]) -> Group:
        shown = []
        for title, head, rows in parts:
            if rows:
                table = Table(title=Text(plain(title)), title_justify="left", header_style="bold", expand=True)
                for name in head:
                    table.add_column(name, overflow="fold")
                for row in rows:
                    table.add_row(*(Text(plain(cell)) for cell in row))
                shown.append(table)
        return Group(*shown)

    with Live(console=Console(highlight=False), auto_refresh=False) as screen:
        yield lambda parts: screen.update(drawn(parts), refresh=True)


def show_state(state: State) -> None:
    """Print a rebuilt state of the fund for people."""
    when = f"{state.observed:%Y-%m-%d %H:%M} UTC" if state.observed else "before the first bar"
    ended = "; the data had ended" if state.ended else ""
    print_line(f"Cycle {state.cycle:,}, {when}, run {state.run[:12]}{ended}\n")
    held = state.portfolio
    money = (f"{amount:,.2f}" for amount in (state.equity, held.cash, state.peak_equity))
    print_table(
        ("equity", "cash", "peak", "drawdown", "today", "language models"),
        [(*money, f"{state.drawdown:.2%}", f"{state.day_return:+.2%}", f"{state.billed_usd:,.4f} USD")],
    )
    print_table(("price of", "last known"), ((symbol, f"{price:,f}") for symbol, price in state.prices.items()))
    print_table(
        ("position", "quantity", "average price", "opened"),
        (
            (p.symbol, f"{p.quantity.normalize():f}", f"{p.average_price:,.4f}", f"{p.opened:%Y-%m-%d %H:%M} UTC")
            for p in held.positions.values()
        ),
    )
    print_table(
        ("open order", "status", "what", "decided"),
        (
            (o.order.id[:12], o.status, f"{o.order.side} {o.order.quantity.normalize():f} {o.order.symbol}", o.order.time)
            for o in state.orders.values()
        ),
    )
    print_table(
        ("agent", "answered by", "stance", "latest opinion"),
        ((name, opinion.answered_by, opinion.stance, _said(opinion)) for name, opinion in state.opinions.items()),
    )
    if decision := state.last_decision:
        words = f"cycle {decision.cycle:,}: {decision.outcome} by {decision.decided_by}: {decision.reason}"
        print_line(f"Last decision, {words}")
    if not held.positions and not state.orders:
        print_line("Nothing is held and no order is open.")


def show_facts(facts: Facts) -> None:
    """Print what the machine has and lacks for people."""
    print_line(f"agentfund {facts.agentfund}, Python {facts.python}, {facts.system}\n")
    print_table(("package", "version"), ((p.name, p.version or "not installed") for p in facts.packages))
    print_table(
        ("extra", "installed"),
        ((e.name, f"no, lacks {', '.join(e.missing)}" if e.missing else "yes") for e in facts.extras),
    )
    print_table(("group", "name", "loads"), ((p.group, p.name, p.error or "yes") for p in facts.plugs))
    print_table(("key", "environment"), ((name, "set" if there else "not set") for name, there in facts.keys.items()))
    print_table(("command", "path"), ((name, path or "not on PATH") for name, path in facts.programs.items()))
    print_table(
        ("service", "address", "answers"),
        ((s.name, s.address, "yes" if s.answers else f"no, {s.note}") for s in facts.services),
    )
    print_table(("route", "can be used"), ((name, f"no, {why}" if why else "yes") for name, why in facts.routes.items()))
    free = "unknown" if facts.disk_free_gb is None else f"{facts.disk_free_gb:,} GB"
    print_line(f"Free in {facts.folder}: {free}\n\nYou can run:")
    for sentence in facts.can:
        print_line(f"  {sentence}")


def _said(opinion: Opinion) -> str:
    if not isinstance(opinion.value, Mapping):
        return opinion.reason if opinion.value is None else str(opinion.value)
    if set(opinion.value) == {"text"}:
        return str(opinion.value["text"])
    return ", ".join(f"{name} {part}" for name, part in opinion.value.items() if part not in ("", None, []))
