"""The command line. What is heavy is imported inside a command."""

from __future__ import annotations

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

from agentfund.errors import AgentFundError, ConfigError
from agentfund.live.commands import add as add_live
from agentfund.terminal import print_json, print_line, progress, say, show_facts, show_state
from agentfund.version import __version__
from agentfund.watchdog.commands import add as add_watchdog

if TYPE_CHECKING:
    from agentfund.outputs import Outputs

BY: tuple[Literal["agent", "route", "llm", "day", "outcome"], ...] = ("agent", "route", "llm", "day", "outcome")
MOST_DAYS = 31
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
        except KeyboardInterrupt as stopped:
            say(str(stopped) or "stopped")
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
Db = Annotated[str, typer.Argument(help="A log: a file, the folder that holds it, or a bus's URL.", metavar="DB")]
Fund = Annotated[str, typer.Option(help="Name of the fund, where the log holds several.")]
Data = Annotated[Path, typer.Option(help="Bars: .csv, .tsv, .txt (each also with .gz) or .parquet.")]
Symbol = Annotated[str | None, typer.Option(help="Name of the instrument; the file's name says it otherwise.")]
Cash = Annotated[float, typer.Option(min=0, max=1e15, help="Capital at the beginning.")]
Since = Annotated[str, typer.Option("--from", metavar="DATE", help="First day, or a time (UTC).")]
Until = Annotated[str, typer.Option("--to", metavar="DATE", help="Last day, included, or a time (UTC).")]
Tz = Annotated[str, typer.Option(help="Zone of times that name none, such as America/New_York; else UTC.")]
BarMinutes = Annotated[float | None, typer.Option(min=0.001, help="Length of a bar; else the usual distance.")]
OnBad = Annotated[Literal["raise", "drop"], typer.Option(help="Refuse a file with bad rows, or leave them out.")]
Llm = Annotated[str, typer.Option(metavar="ROUTES", help="Routes to language models, best first, such as anthropic,openai.")]
PerRun = Annotated[str, typer.Option(metavar="USD", help="Most that this run may spend on language models.")]
PerDay = Annotated[str, typer.Option(metavar="USD", help="Most that it may spend within 24 hours.")]
Record = Annotated[Path | None, typer.Option(help="Cassette: answers in it are replayed, others are asked for and recorded.")]
Agents = Annotated[str, typer.Option(metavar="WHO", help="desk, sma, rsi, donchian, module:name or file.py:name.")]
Trials = Annotated[Path | None, typer.Option(help="Ledger in which runs on the same data are counted; else in the folder.")]
Insist = Annotated[str, typer.Option(metavar="NAMES", help="Routes to ask although they tell a language model today's date.")]


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
    from agentfund.runs import backtest as run_backtest

    feed = SimulatedMarket(bars=bars, seed=seed)
    outputs = Outputs(out, "demo")
    outputs.open(fresh=True)
    report = run_backtest(feed, PaperBroker(), outputs, "the demo starts afresh when it is run again")
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


@app.command(epilog="Example: agentfund backtest --data AAPL.csv --out out/aapl --llm anthropic --budget-usd 5")
def backtest(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the log and the results.")],
    symbol: Symbol = None,
    cash: Cash = 100_000,
    since: Since = "",
    until: Until = "",
    tz: Tz = "",
    bar_minutes: BarMinutes = None,
    on_bad: OnBad = "raise",
    agents: Agents = "desk",
    commission_bps: Annotated[float, typer.Option(help="Commission, basis points of the notional.")] = 1.0,
    commission_min: Annotated[float, typer.Option(help="Least commission of a fill.")] = 0.0,
    half_spread_bps: Annotated[float, typer.Option(help="Half the bid-ask spread, basis points of the price.")] = 1.0,
    slippage_bps: Annotated[float, typer.Option(help="What a market order loses beyond the spread, basis points.")] = 1.0,
    llm: Llm = "",
    budget_usd: PerRun = "",
    budget_usd_per_day: PerDay = "",
    record: Record = None,
    insist: Insist = "",
    yes: Annotated[bool, typer.Option("--yes", help="Begin although a budget would stop the run, or none holds it.")] = False,
    trials: Trials = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew: remove this folder's earlier results first.")] = False,
    as_json: Json = False,
) -> None:
    """Run the desk, or other agents, over a file of bars, as if it had traded.

    Each agent answers by its rule twin, or language models are asked with --llm; orders go to a paper broker. A strategy
    given with --agents runs alone, or with --llm in the strategist's place. Run again
    with the same data, options and folder it carries on where it was stopped. With --llm an estimate comes first, and
    the run does not begin where a budget would stop it, or where none holds it.
    """
    first, last = _moment(since, "--from"), _moment(until, "--to", end_of_day=True)
    from agentfund.brokers.paper import PaperBroker
    from agentfund.outputs import Outputs
    from agentfund.runs import agree, asked, read_bars
    from agentfund.runs import backtest as run_backtest
    from agentfund.trading import Costs

    feed = read_bars(data, symbol, tz, bar_minutes, on_bad, first, last)
    broker = PaperBroker(_money(cash), costs=Costs(commission_bps, commission_min, half_spread_bps, slippage_bps))
    llms = asked(llm, budget_usd, budget_usd_per_day, record, insist)
    outputs = Outputs(out, "backtest")
    if llms.llm is not None:
        agree(llms, feed, broker, None if fresh else outputs.log, agents=agents, yes=yes)
    outputs.open(fresh=fresh)
    report = run_backtest(feed, broker, outputs, "run the same command again to carry on", llms, agents=agents, trials=trials)
    if as_json:
        print_json(report.to_json())
        return
    print_line(f"{report}\n")
    _list_files(outputs)


@app.command(epilog="Example: agentfund audit sma --data AAPL.csv")
def audit(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="sma, rsi, donchian, desk, module:name or file.py:name.")],
    data: Data,
    symbol: Symbol = None,
    since: Since = "",
    until: Until = "",
    tz: Tz = "",
    bar_minutes: BarMinutes = None,
    on_bad: OnBad = "raise",
    facts: Annotated[
        Path | None, typer.Option(help="File of facts that became known, for a factory that takes them as its second argument.")
    ] = None,
    cuts: Annotated[int, typer.Option(min=1, max=1000, help="Moments after which the future is changed.")] = 8,
    seed: Annotated[int, typer.Option(help="Chooses the moments and the changes.")] = 0,
    at: Annotated[
        Literal["close", "open"],
        typer.Option(help="When the factory's own values are decided: at the close of a bar, or at its open."),
    ] = "close",
    as_json: Json = False,
) -> None:
    """Find what sees the future: decisions up to a moment must not change when what comes after it does.

    The future is cut off, shuffled, mirrored and moved; a factory `def make(bars)` gets the changed bars each time. The exit
    code is 0 where nothing was found, 1 where something was, or where nothing was decided and so nothing was tested.
    """
    first, last = _moment(since, "--from"), _moment(until, "--to", end_of_day=True)
    from agentfund.backtest.audits.audit import audit as run_audit
    from agentfund.backtest.audits.command import exit_code, load, ran, told
    from agentfund.feeds.facts import Facts
    from agentfund.runs import read_bars
    from agentfund.specialists.desk import desk

    make = ran(load(what, {"desk": lambda bars: desk()}), what)
    feed = read_bars(data, symbol, tz, bar_minutes, on_bad, first, last)
    known = Facts.from_csv(facts) if facts is not None else None
    with progress("audit") as show:
        found = run_audit(make, feed, facts=known, cuts=cuts, seed=seed, at=at, progress=show)
    if as_json:
        print_json(found.to_json())
    else:
        print_line(told(found, what, feed))
    raise typer.Exit(exit_code(found))


@app.command(epilog="Example: agentfund sweep sma --data AAPL.csv --set fast=5,10,20 --set slow=40:100:20 --out out/sweep")
def sweep(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="sma, rsi, donchian, or module:name of a strategy.")],
    data: Data,
    grid: Annotated[list[str], typer.Option("--set", metavar="NAME=VALUES", help="fast=5,10,20 or slow=50:200:50.")],
    out: Annotated[Path, typer.Option(help="Folder for the results; trials that are stored there are not run again.")],
    symbol: Symbol = None,
    cash: Cash = 100_000,
    since: Since = "",
    until: Until = "",
    tz: Tz = "",
    bar_minutes: BarMinutes = None,
    on_bad: OnBad = "raise",
    where: Annotated[
        list[str] | None, typer.Option(metavar="CONDITION", help="Combinations that are meant: 'fast<slow'.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="How many at once; one for each core where not given.")] = None,
    cluster: Annotated[bool, typer.Option("--ray", help="Run on a Ray cluster (extra `ray`).")] = False,
    trials: Trials = None,
    as_json: Json = False,
) -> None:
    """Try every combination of a strategy's parameters, and say how much of the best one is luck.

    Run again with the same folder it does only what is missing.
    """
    first, last = _moment(since, "--from"), _moment(until, "--to", end_of_day=True)
    from agentfund.backtest.research.sweep_command import sweep_command
    from agentfund.brokers.paper import PaperBroker
    from agentfund.runs import read_bars

    feed = read_bars(data, symbol, tz, bar_minutes, on_bad, first, last)
    broker = PaperBroker(_money(cash))
    found = sweep_command(
        what,
        feed,
        grid,
        out,
        broker=broker,
        where=where or (),
        workers=workers,
        on="ray" if cluster else "processes",
        trials=trials,
    )
    if not any(each.ok for each in found.attempts):
        raise ConfigError(f"every trial failed, the first one so: {found.attempts[0].error}")
    if as_json:
        print_json(found.to_json())
        return
    print_line(found.text())


@app.command(epilog="Example: agentfund estimate --data AAPL.csv --llm anthropic --budget-usd 5")
def estimate(
    data: Data,
    llm: Llm,
    symbol: Symbol = None,
    cash: Cash = 100_000,
    since: Since = "",
    until: Until = "",
    tz: Tz = "",
    bar_minutes: BarMinutes = None,
    on_bad: OnBad = "raise",
    budget_usd: PerRun = "",
    budget_usd_per_day: PerDay = "",
    record: Record = None,
    insist: Insist = "",
    agents: Agents = "desk",
    bars: Annotated[int, typer.Option(min=1, help="Most bars to rehearse; of more a sample is taken.")] = 300,
    seconds_per_call: Annotated[float, typer.Option(min=0.001, max=86_400, help="How long a call takes.")] = 5.0,
    as_json: Json = False,
) -> None:
    """Say what a backtest would ask of language models, what that costs, and whether a budget would stop it.

    Nobody is asked: the desk is rehearsed over a part of the bars, each agent answering by its rule twin.
    """
    first, last = _moment(since, "--from"), _moment(until, "--to", end_of_day=True)
    from agentfund.brokers.paper import PaperBroker
    from agentfund.buses.memory import MemoryBus
    from agentfund.runs import asked, foretell, read_bars, say_unusable, shown

    feed = read_bars(data, symbol, tz, bar_minutes, on_bad, first, last)
    llms = asked(llm, budget_usd, budget_usd_per_day, record, insist, to_record=False)
    say_unusable(llms)
    told = foretell(
        llms, feed, PaperBroker(_money(cash)), MemoryBus(), agents=agents, bars=bars, seconds_per_call=seconds_per_call
    )
    if as_json:
        print_json(told.to_json())
        return
    print_line(shown(told))


@app.command(epilog="Example: agentfund worker --agents strategist,risk_gate --bus postgresql://fund@db/fund --llm anthropic")
def worker(
    agents: Annotated[str, typer.Option(metavar="NAMES", help="Agents to host, comma between them, or all.")],
    bus: Annotated[
        str,
        typer.Option(
            metavar="URL", envvar="AGENTFUND_BUS", help="The funds' log: a file, postgresql://, redis://, nats://, amqp://."
        ),
    ],
    of: Annotated[str, typer.Option(metavar="WHO", help="Where they are: desk, module:name or file.py:name.")] = "desk",
    llm: Llm = "",
    budget_usd: PerRun = "",
    budget_usd_per_day: PerDay = "",
    time_limit: Annotated[float, typer.Option(min=0.001, help="Seconds that an agent may work on a question.")] = 120.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions that one agent works on at a time.")] = 8,
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Serve metrics for Prometheus here.")] = None,
) -> None:
    """Host agents for funds on the same log, in this process.

    A fund whose orchestrator has workers=Workers(...) asks them over the log. Several workers share the questions by fund;
    what a dead one held is answered by another, or the opinion is unavailable. Ctrl-C or SIGTERM hands back what is in work.
    """
    from agentfund.hosting import chosen, host
    from agentfund.runs import asked, say_unusable

    llms = asked(llm, budget_usd, budget_usd_per_day, None, "", to_record=False)
    say_unusable(llms)
    crew = chosen(agents, of, llms.llm)
    answered = host(crew, bus, concurrency=concurrency, time_limit_s=time_limit, metrics_port=metrics_port)
    say(f"stopped after {answered:,} answers")


@app.command(epilog="Example: agentfund journal out/demo/fund.db --out journal.md")
def journal(
    db: Db,
    out: Annotated[Path | None, typer.Option(help="File to write; stdout otherwise.")] = None,
    fund: Fund = "",
) -> None:
    """Tell a log in plain English, decision by decision."""
    from agentfund.core.journal import lines
    from agentfund.logs import log_at, messages

    told = lines(messages(db, fund))
    if out is None:
        for line in told:
            print_line(line)
        return
    from agentfund.outputs import write

    log = log_at(db)
    if isinstance(log, Path) and out.resolve().name.startswith(log.name) and out.resolve().parent == log.resolve().parent:
        raise ConfigError(f"{out} would lie on the log or on a file that belongs to it; give another --out")
    write(out, told)
    say(f"the journal is in {out}")


@app.command(epilog="Example: agentfund ledger out/demo/fund.db --by route")
def ledger(
    db: Db,
    by: Annotated[
        str,
        typer.Option(
            metavar="|".join(BY), help="One table, by agent, route, llm, day or outcome; else by agent, route and day."
        ),
    ] = "",
    fund: Fund = "",
    as_json: Json = False,
) -> None:
    """Show what asking language models took and cost."""
    from agentfund.core.ledger import Ledger
    from agentfund.logs import messages

    chosen = tuple(what for what in BY if what == by)
    if by and not chosen:
        raise typer.BadParameter(f"{by!r} is not one of {', '.join(BY)}", param_hint="--by")
    found = Ledger.of(messages(db, fund))
    if as_json:
        sums = {f"by_{what}": {key: asdict(total) for key, total in found.by(what).items()} for what in BY}
        print_json({"total": asdict(found.total), **sums, "calls": found.as_rows()})
        return
    days = len(found.by("day"))
    print_line(found.as_text(*(chosen if chosen else BY[:2] if days > MOST_DAYS else (*BY[:2], "day"))))
    if not chosen and days > MOST_DAYS:
        print_line(f"\nThe calls are of {days:,} days; --by day shows them.")


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
    from agentfund.logs import log_at, messages, until

    told = until(messages(db, fund), log_at(db), cycle, moment)
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


@app.command(epilog="Example: agentfund rerun out/aapl --data AAPL.csv --limits max_position_pct=50")
def rerun(
    db: Db,
    data: Data,
    agents: Annotated[
        str,
        typer.Option(metavar="WHO", help="Who plays: desk, sma, rsi, donchian, module:name or file.py:name; else as recorded."),
    ] = "",
    limits: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A setting that is changed; sizing.NAME and consensus.NAME too."),
    ] = None,
    changed: Annotated[str, typer.Option(metavar="NAMES", help="Agents to ask whatever their descriptions say.")] = "",
    unchanged: Annotated[str, typer.Option(metavar="NAMES", help="Agents not to ask, whatever they say.")] = "",
    ask: Annotated[
        Literal["changed", "affected"], typer.Option(help="Ask those that changed, or also those that see something else.")
    ] = "changed",
    since: Annotated[str, typer.Option("--from", metavar="WHEN", help="First cycle: a time (UTC), or cycle:123.")] = "",
    until: Annotated[str, typer.Option("--to", metavar="WHEN", help="Last cycle, included: a time (UTC), or cycle:123.")] = "",
    llm: Llm = "",
    budget_usd: PerRun = "",
    record: Record = None,
    symbol: Symbol = None,
    tz: Tz = "",
    bar_minutes: BarMinutes = None,
    on_bad: OnBad = "raise",
    html: Annotated[Path | None, typer.Option(help="File for a page with both runs side by side.")] = None,
    fund: Fund = "",
    as_json: Json = False,
) -> None:
    """Run a recorded run once more over the same bars: exactly, or as it would have been with something changed.

    Where nothing is changed, its log is compared with the recorded one message by message, and the exit code is 1 where they
    differ. With --agents, --limits or --changed it says which decisions, orders and fills come out otherwise, and why.
    Agents that did not change are not asked: what they said is taken from the log.
    """
    window = _cycle_or_moment(since, "--from"), _cycle_or_moment(until, "--to")
    from agentfund.logs import log_at, opened
    from agentfund.replays.command import names
    from agentfund.replays.command import rerun as run_again
    from agentfund.runs import asked, read_bars

    if llm and not budget_usd and (agents or changed or ask == "affected"):
        raise ConfigError("with --llm agents that changed ask language models: give --budget-usd")
    llms = asked(llm, budget_usd, "", record, "")
    feed = read_bars(data, symbol, tz, bar_minutes, on_bad, None, None)
    with progress("rerun") as show:
        found = run_again(
            opened(log_at(db)),
            fund,
            feed,
            agents=agents,
            limits=limits or (),
            changed=names(changed),
            unchanged=names(unchanged),
            ask=ask,
            window=window,
            llm=llms.llm,
            html=html,
            progress=show,
        )
    if as_json:
        print_json(found.to_json())
    else:
        print_line(f"{found}" if html is None else f"{found}\n\nBoth runs side by side: {html}")
    if not found:
        raise typer.Exit(1)


@app.command(epilog="Example: agentfund gate --listen 127.0.0.1:50051 --limits max_leverage=1 --limits symbols=AAPL,MSFT")
def gate(
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen; unix:/PATH for a socket.")],
    limits: Annotated[
        list[str] | None, typer.Option(metavar="FILE|NAME=VALUE", help="Limits, as .toml or .json or one by one; else strict.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="The server's certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    client_ca: Annotated[Path | None, typer.Option(help="Who signs the certificates that clients must show, PEM.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow plaintext to other machines.")] = False,
    name: Annotated[str, typer.Option(help="The server's name in its answers; else the machine's.")] = "",
) -> None:
    """Serve the deterministic gate over gRPC: it allows or denies orders by limits that no client can change.

    It serves until Ctrl-C or SIGTERM, and then ends what is in work. Without a certificate it listens on this machine only.
    """
    from agentfund.rpc.command import gate_command

    gate_command(
        listen, limits or (), cert=tls_cert, key=tls_key, client_ca=client_ca, insecure=insecure, name=name, tell=print_line
    )


@app.command(epilog="Example: agentfund doctor --json")
def doctor(as_json: Json = False) -> None:
    """Say what is here and what can be run with it.

    Keys are never shown. Nothing is sent anywhere but for a knock at local ports; claude and codex, where they are
    installed, are asked whether they are logged in.
    """
    from agentfund.doctor import examine

    facts = examine(os.environ)
    if as_json:
        print_json(asdict(facts))
    else:
        show_facts(facts)


add_live(app)
add_watchdog(app)


def _money(cash: float) -> float:
    return int(cash) if cash.is_integer() else cash  # so that the run is the same as with PaperBroker(100_000)


def _list_files(outputs: Outputs) -> None:
    print_line(f"In {outputs.folder}:")
    for path in outputs.files():
        print_line(f"  {path.name:15}{FILES.get(path.name, 'a table')}")


def _cycle_or_moment(text: str, option: str) -> int | datetime | None:
    found = CYCLE.fullmatch(text)
    return int(found[1]) if found else _moment(text, option, end_of_day=option == "--to")


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
