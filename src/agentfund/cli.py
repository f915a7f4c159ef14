"""The command line: demo, backtest, journal, ledger, replay, doctor. What is heavy is imported inside a command."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from agentfund.errors import AgentFundError, BusUnavailable, ConfigError, LogMismatch
from agentfund.terminal import print_json, print_line, print_table, progress, say, show_state
from agentfund.version import __version__

if TYPE_CHECKING:
    from agentfund.backtest.report import Report
    from agentfund.feeds.files import Options
    from agentfund.outputs import Outputs
    from agentfund.protocols import Broker, Feed

CYCLE = re.compile(r"cycle:(\d{1,18})")
FILES = {
    "report.html": "the report, for a browser",
    "report.txt": "the same as text",
    "report.json": "the same for programs",
    "journal.md": "every decision in plain English",
    "fund.db": "the log: everything else follows from it",
}


class Commands(TyperGroup):
    """The commands; what goes wrong on purpose ends in one line and an exit code, never in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except AgentFundError as error:
            say(f"error: {error}")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            say("stopped")
            raise typer.Exit(130) from None
        except BrokenPipeError:  # typer ends quietly then
            raise
        except OSError as error:
            what = error.filename or "the output"
            say(f"error: {what} cannot be read or written: {error.strerror or error}; check the disk and your permissions")
            raise typer.Exit(1) from None
        return result


app = typer.Typer(cls=Commands, name="agentfund", add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def run() -> int:
    """Run the command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a log holds any character, a terminal may not
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="agentfund")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def _version(wanted: bool) -> None:
    if wanted:
        print_line(f"agentfund {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog="Begin with: agentfund demo")
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Compose LLM trading agents: agents propose, plain code disposes, one durable log remembers everything."""
    if context.invoked_subcommand is None:
        print_line(context.get_help())


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; all else goes to stderr.")]
Db = Annotated[Path, typer.Argument(help="A log, such as out/demo/fund.db, or the folder that holds it.", metavar="DB")]
Fund = Annotated[str, typer.Option(help="Name of the fund, where the log holds several.")]


@app.command(epilog="Example: agentfund demo --out out/demo --bars 2000")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/demo"),
    bars: Annotated[int, typer.Option(min=2, max=1_000_000, help="Length of the simulated market.")] = 4000,
    seed: Annotated[int, typer.Option(help="Which simulated market.")] = 4,
    as_json: Json = False,
) -> None:
    """Run a desk of six agents over a simulated market.

    It needs no key: each agent answers by its rule twin. It starts afresh each time: what an earlier demo left in the
    folder is replaced, and nothing else there is touched.
    """
    from agentfund.brokers.paper import PaperBroker
    from agentfund.feeds.simulated import SimulatedMarket
    from agentfund.outputs import Outputs

    feed = SimulatedMarket(bars=bars, seed=seed)
    outputs = Outputs(out, "demo")
    outputs.open(fresh=True)
    report = _backtest(feed, PaperBroker(), outputs, "the demo starts afresh when it is run again")
    if as_json:
        print_json(report.to_json())
        return
    print_line(f"{report}\n")
    print_line("What ran: a desk of six agents over a simulated market, on a paper broker. No language model was used:")
    print_line("each agent answered by its rule twin. None of this says anything about a real market.\n")
    _list_files(outputs)
    program = "agentfund" if shutil.which("agentfund") else sys.argv[0]
    print_line("\nTry next:")
    print_line(f"  {program} journal {outputs.log}")
    print_line(f"  {program} replay {outputs.log} --at cycle:{report.bars // 2}")
    print_line(f"  {program} backtest --data YOUR_BARS.csv --out out/mine")


@app.command(epilog="Example: agentfund backtest --data AAPL.csv --out out/aapl --from 2022-01-01 --slippage-bps 2")
def backtest(
    data: Annotated[Path, typer.Option(help="Bars: .csv, .tsv, .txt (each also with .gz) or .parquet.")],
    out: Annotated[Path, typer.Option(help="Folder for the log and the results.")],
    symbol: Annotated[str | None, typer.Option(help="Name of the instrument; the file's name says it otherwise.")] = None,
    cash: Annotated[float, typer.Option(min=0, max=1e15, help="Capital at the beginning.")] = 100_000,
    since: Annotated[str, typer.Option("--from", metavar="DATE", help="First day, or a time (UTC).")] = "",
    until: Annotated[str, typer.Option("--to", metavar="DATE", help="Last day, included, or a time (UTC).")] = "",
    tz: Annotated[str, typer.Option(help="Zone of times that name none, such as America/New_York; else UTC.")] = "",
    bar_minutes: Annotated[float | None, typer.Option(min=0.001, help="Length of a bar; else the usual distance.")] = None,
    on_bad: Annotated[Literal["raise", "drop"], typer.Option(help="Refuse a file with bad rows, or leave them out.")] = "raise",
    commission_bps: Annotated[float, typer.Option(help="Commission, basis points of the notional.")] = 1.0,
    commission_min: Annotated[float, typer.Option(help="Least commission of a fill.")] = 0.0,
    half_spread_bps: Annotated[float, typer.Option(help="Half the bid-ask spread, basis points of the price.")] = 1.0,
    slippage_bps: Annotated[float, typer.Option(help="What a market order loses beyond the spread, basis points.")] = 1.0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew: remove this folder's earlier results first.")] = False,
    as_json: Json = False,
) -> None:
    """Run the desk over a file of bars, as if it had traded.

    Each agent answers by its rule twin, orders go to a paper broker. Run again with the same data, options and folder
    it carries on where it was stopped.
    """
    first, last = _moment(since, "--from"), _moment(until, "--to", end_of_day=True)
    from agentfund.brokers.paper import PaperBroker
    from agentfund.feeds.history import Bars
    from agentfund.outputs import Outputs
    from agentfund.trading import Costs

    if data.is_dir():
        raise ConfigError(f"{data} is a folder; give one of the files in it as --data")
    said: Options = {"on_bad": on_bad}
    if tz:
        said["tz"] = tz
    if bar_minutes is not None:
        said["interval"] = timedelta(minutes=bar_minutes)
    try:
        feed = Bars.from_file(data, symbol, **said)
    except AgentFundError as error:
        raise ConfigError(_as_options(str(error))) from None
    if first or last:
        feed = feed.between(first, last)
    capital = int(cash) if cash.is_integer() else cash  # so that the run is the same as with PaperBroker(100_000)
    broker = PaperBroker(capital, costs=Costs(commission_bps, commission_min, half_spread_bps, slippage_bps))
    outputs = Outputs(out, "backtest")
    outputs.open(fresh=fresh)
    report = _backtest(feed, broker, outputs, "run the same command again to carry on")
    if as_json:
        print_json(report.to_json())
        return
    print_line(f"{report}\n")
    _list_files(outputs)


@app.command(epilog="Example: agentfund journal out/demo/fund.db --out journal.md")
def journal(
    db: Db,
    out: Annotated[Path | None, typer.Option(help="File to write; stdout otherwise.")] = None,
    fund: Fund = "",
) -> None:
    """Tell a log in plain English, decision by decision."""
    from agentfund.core.journal import lines
    from agentfund.logs import log_file, messages

    told = lines(messages(db, fund))
    if out is None:
        for line in told:
            print_line(line)
        return
    from agentfund.outputs import write

    log = log_file(db).resolve()
    if out.resolve().name.startswith(log.name) and out.resolve().parent == log.parent:
        raise ConfigError(f"{out} would lie on the log or on a file that belongs to it; give another --out")
    write(out, told)
    say(f"the journal is in {out}")


@app.command(epilog="Example: agentfund ledger out/demo/fund.db --json")
def ledger(db: Db, fund: Fund = "", as_json: Json = False) -> None:
    """Show what asking language models cost, by agent."""
    from agentfund.core.ledger import Ledger
    from agentfund.logs import messages

    found = Ledger.of(messages(db, fund))
    if as_json:
        by_agent = {agent: asdict(total) for agent, total in found.by("agent").items()}
        print_json({"total": asdict(found.total), "by_agent": by_agent, "calls": found.as_rows()})
        return
    print_line(found.as_text())


@app.command(epilog="Example: agentfund replay out/demo/fund.db --at 2024-02-01T15:30")
def replay(
    db: Db,
    at: Annotated[str, typer.Option(metavar="TIME", help="ISO 8601 (UTC unless it says), or cycle:123; else the end.")] = "",
    log: Annotated[bool, typer.Option("--log", help="Print the messages themselves, one line each, for diff.")] = False,
    fund: Fund = "",
    as_json: Json = False,
) -> None:
    """Rebuild the fund at a moment from its log alone."""
    if log and as_json:
        raise typer.BadParameter("--log prints lines of JSON already; leave one of --log and --json out")
    cycle = int(found[1]) if (found := CYCLE.fullmatch(at)) else None
    moment = _moment(at, "--at") if cycle is None else None
    from agentfund.core.context import SharedContext
    from agentfund.logs import log_file, messages, until

    told = until(messages(db, fund), log_file(db), cycle, moment)
    if log:
        for message in told:
            sys.stdout.write(message.line() + "\n")
        return
    state = SharedContext().apply(told)
    if as_json:
        from agentfund.logs import state_as_json

        print_json(state_as_json(state))
    else:
        show_state(state)


@app.command(epilog="Example: agentfund doctor --json")
def doctor(as_json: Json = False) -> None:
    """Say what is here and what can be run with it.

    Keys are never shown, no program is run, and nothing is sent anywhere but for a knock at local ports.
    """
    from agentfund.doctor import examine

    facts = examine(os.environ)
    if as_json:
        print_json(asdict(facts))
        return
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
    free = "unknown" if facts.disk_free_gb is None else f"{facts.disk_free_gb:,} GB"
    print_line(f"Free in {facts.folder}: {free}\n\nYou can run:")
    for sentence in facts.can:
        print_line(f"  {sentence}")


def _backtest(feed: Feed, broker: Broker, outputs: Outputs, again: str) -> Report:
    """Run the desk over history, leave everything in the folder, and tell the person what happens meanwhile."""
    from agentfund.backtest.engine import Backtest
    from agentfund.buses.sqlite import SqliteBus
    from agentfund.core.journal import lines
    from agentfund.core.orchestrator import Orchestrator
    from agentfund.logs import earlier, messages
    from agentfund.outputs import write
    from agentfund.specialists.desk import desk

    bus = SqliteBus(outputs.log)
    fund = Orchestrator(desk(), bus=bus)
    news, done = [earlier(outputs.log)], 0

    def stopped() -> str:
        return f"stopped after bar {max(done, fund.context.state.cycle):,}; {again}"

    try:
        with progress("backtest") as show:

            def tell(now: int, total: int) -> None:
                nonlocal done
                done = now
                while news and (text := news.pop()):  # only now is it known that the log belongs to this run
                    say(text)
                show(now, total)

            report = Backtest(fund, feed, broker, progress=tell).run()
        outputs.claim_results()
        report.save(outputs.folder)
        write(outputs.folder / "journal.md", lines(messages(outputs.log, fund.name)))
    except LogMismatch as error:
        what = str(error).partition(". ")[0]
        raise LogMismatch(f"{outputs.log}: {what}; --fresh starts anew in this folder, another --out leaves it alone") from None
    except BusUnavailable as error:
        raise BusUnavailable(f"{error}\n{stopped()}") from None
    except KeyboardInterrupt:
        say(stopped())
        raise typer.Exit(130) from None
    finally:
        asyncio.run(bus.close())
    return report


def _as_options(text: str) -> str:
    """Return an error's advice in the words of the command line."""
    text = text.replace(", or say which is which with columns=", "")
    text = re.sub(r"(pass )?on_bad='(\w+)'", r"give --on-bad \2", text)
    text = text.replace("give interval=, such as interval=timedelta(days=1)", "give --bar-minutes, such as --bar-minutes 1440")
    return re.sub(r"\btz='?([\w/+-]+)'?", r"--tz \1", text)


def _list_files(outputs: Outputs) -> None:
    print_line(f"In {outputs.folder}:")
    for path in outputs.files():
        print_line(f"  {path.name:15}{FILES.get(path.name, 'a table')}")


def _moment(text: str, option: str, *, end_of_day: bool = False) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if end_of_day and not re.search("[T:]", text):
            moment += timedelta(days=1)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        what = "a date such as 2024-02-01 or a time such as 2024-02-01T15:30"
        more = ", or cycle:123" if option == "--at" else ""
        raise typer.BadParameter(f"{text!r} is not {what}{more}", param_hint=option) from None
