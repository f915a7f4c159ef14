"""`agentfund paper`, `live`, `approve`, `promote`, `resolve` and `execution`. What is heavy is imported inside a command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from agentfund.terminal import print_json, print_line, say

if TYPE_CHECKING:
    from collections.abc import Mapping

FeedName = Annotated[str, typer.Option(metavar="NAME", help="recorded, binance, bybit, okx, eodhd, alpaca, or file.py:name.")]
Symbols = Annotated[str, typer.Option(help="What to trade, comma between them, such as BTC/USDT,ETH/USDT.")]
BarMinutes = Annotated[float, typer.Option(min=0.001, help="Length of a bar.")]
Back = Annotated[int, typer.Option(min=0, help="Bars of history at the beginning.")]
Data = Annotated[Path | None, typer.Option(help="The file of a recording: ticks or bars.")]
Speed = Annotated[
    float, typer.Option(min=0, help="How many times as fast as in life a recording runs; 0 for as fast as it can.")
]
Out = Annotated[Path, typer.Option("--dir", help="The fund's folder: log, keys, approvals.")]
Mode = Annotated[
    Literal["advisory", "supervised", "autonomous"] | None,
    typer.Option(help="How much the fund may do by itself; else what its log allows."),
]
Llm = Annotated[str, typer.Option(metavar="ROUTES", help="Routes to language models, best first, such as anthropic,openai.")]
PerRun = Annotated[str, typer.Option(metavar="USD", help="Most that this fund may spend on language models.")]
PerDay = Annotated[str, typer.Option(metavar="USD", help="Most that it may spend within 24 hours.")]
Agents = Annotated[str, typer.Option(metavar="WHO", help="desk, sma, rsi, donchian, module:name or file.py:name.")]
Shadow = Annotated[str, typer.Option(metavar="WHO", help="A candidate that runs beside it on the same feed, on paper.")]
Limit = Annotated[list[str] | None, typer.Option(metavar="LIMIT", help="A file of limits, or name=value.")]
Calendar = Annotated[str, typer.Option(help="Opening hours: XNYS, 24/7, forex or another calendar.")]
Page = Annotated[int, typer.Option(min=0, max=65_535, help="Port of the page on which a person approves; 0 for a free one.")]
Wait = Annotated[
    float, typer.Option(min=1, max=270, metavar="SECONDS", help="How long an order waits for a person; silence is a no.")
]
"""Below the five minutes after which a watchdog takes a fund that asks, be it agents or a person, for stuck."""
Cycles = Annotated[int | None, typer.Option(min=1, help="End after so many bars.")]
Plain = Annotated[bool, typer.Option("--plain", help="A line for each decision instead of tables that change in place.")]
Name = Annotated[str, typer.Option(help="The fund's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; all else goes to stderr.")]
By = Annotated[str, typer.Option(help="Your name: it stands on the log.")]
Why = Annotated[str, typer.Option(help="Why: it stands on the log.")]


def add(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(epilog="Example: agentfund paper --feed binance --symbols BTC/USDT --bar-minutes 1")(paper)
    app.command(epilog="Example: agentfund live --feed alpaca --symbols AAPL --broker alpaca --hours XNYS")(live)
    app.command(epilog="Example: agentfund approve out/live")(approve)
    app.command(epilog='Example: agentfund promote out/live/fund.db --to supervised --by Ada --reason "ten good days"')(promote)
    app.command(
        epilog='Example: agentfund resolve fund.db 3fa94c07 --as rejected --by Ada --reason "the broker says it never came"'
    )(resolve)
    app.command(
        epilog='Example: agentfund adopt out/live/fund.db --broker alpaca --by Ada --reason "a deposit of 5,000 on Monday"'
    )(adopt)
    app.command(epilog="Example: agentfund execution --broker alpaca --bus fund.db --watch out/live/watch")(execution)


def paper(
    feed: FeedName,
    symbols: Symbols = "",
    dir: Out = Path("out/paper"),
    data: Data = None,
    speed: Speed = 1.0,
    bar_minutes: BarMinutes = 5.0,
    back: Back = 500,
    cash: Annotated[float, typer.Option(min=0, max=1e15, help="Capital at the beginning.")] = 100_000,
    mode: Mode = None,
    agents: Agents = "desk",
    llm: Llm = "",
    budget_usd: PerRun = "",
    budget_usd_per_day: PerDay = "",
    limit: Limit = None,
    shadow: Shadow = "",
    page: Page = 0,
    wait: Wait = 240.0,
    cycles: Cycles = None,
    fund: Name = "fund",
    plain: Plain = False,
) -> None:
    """Run a fund on live data, or on a recording, with a paper broker in the same process.

    Nothing leaves this machine but questions to feeds and language models. A watchdog's keys in DIR/watch make the fund obey
    it. Ctrl-C ends it; run it again to carry on.
    """
    from agentfund.live.fund import Asked, run_paper

    asked = Asked(feed, symbols, dir, data, speed, bar_minutes, back, mode, agents, llm, budget_usd, budget_usd_per_day, wait)
    _ended(run_paper(asked, cash=cash, limits=limit or (), shadow=shadow, page=page, cycles=cycles, name=fund, plain=plain))


def live(
    feed: FeedName,
    symbols: Symbols,
    broker: Annotated[str, typer.Option(metavar="NAME", help="alpaca, ccxt:EXCHANGE, or file.py:name.")] = "",
    execution: Annotated[
        str, typer.Option(metavar="ADDRESS", help="In place of --broker: where an execution listens, which alone holds keys.")
    ] = "",
    token: Annotated[Path | None, typer.Option(help="The execution's token.")] = None,
    real: Annotated[bool, typer.Option("--real", help="Real money, not the broker's paper account or sandbox.")] = False,
    unwatched: Annotated[
        bool, typer.Option("--unwatched", help="Go without a watchdog: nothing outside could stop the fund.")
    ] = False,
    hours: Calendar = "",
    dir: Out = Path("out/live"),
    bus: Annotated[str, typer.Option(metavar="URL", envvar="AGENTFUND_BUS", help="The log; else a file in DIR.")] = "",
    bar_minutes: BarMinutes = 5.0,
    back: Back = 500,
    mode: Mode = None,
    agents: Agents = "desk",
    llm: Llm = "",
    budget_usd: PerRun = "",
    budget_usd_per_day: PerDay = "",
    limit: Limit = None,
    shadow: Shadow = "",
    page: Page = 0,
    wait: Wait = 240.0,
    cycles: Cycles = None,
    fund: Name = "fund",
    plain: Plain = False,
) -> None:
    """Run a fund on live data and a real broker; at first in advisory mode, until a person promotes it.

    It needs a watchdog: agentfund watchdog --dir DIR/watch --init makes its keys. Ctrl-C ends it; stops and targets stay at
    the broker, and what is left is said.
    """
    from agentfund.live.fund import Asked, run_live

    asked = Asked(feed, symbols, dir, None, 1.0, bar_minutes, back, mode, agents, llm, budget_usd, budget_usd_per_day, wait)
    count = run_live(
        asked,
        broker=broker,
        execution=execution,
        token=token,
        real=real,
        unwatched=unwatched,
        hours=hours,
        bus=bus,
        limits=limit or (),
        shadow=shadow,
        page=page,
        cycles=cycles,
        name=fund,
        plain=plain,
    )
    _ended(count)


def _ended(count: int) -> None:
    say(f"ended after {count:,} decision{'' if count == 1 else 's'}")


def approve(
    dir: Annotated[Path, typer.Argument(metavar="DIR", help="The fund's folder.")],
    order: Annotated[str, typer.Option(help="Hash of the order, or its beginning.")] = "",
    answer: Annotated[Literal["yes", "no"] | None, typer.Option(help="Your answer; else it is asked for.")] = None,
    by: Annotated[str, typer.Option(help="Your name: it stands on the log.")] = "",
    evidence: Annotated[str, typer.Option(help="Why a veto is overridden.")] = "",
    as_json: Json = False,
) -> None:
    """Show the orders that wait for a person, and answer one. Silence is a no."""
    from agentfund.approvals.asking import Line
    from agentfund.live.words import meant

    line = Line.of(dir)
    waiting = line.waiting()
    if as_json and not order:
        print_json(waiting)
        return
    if not order:
        for one in waiting:
            _show(one)
        if not waiting:
            print_line("no order waits")
            return
        if len(waiting) > 1:
            print_line("answer one with --order and the beginning of its hash")
            return
    by_hash = {str(one["hash"]): one for one in waiting}
    name = meant(order, by_hash) if order else next(iter(by_hash))
    found = by_hash[name]
    if order and answer is None:
        _show(found)
    chosen = answer or typer.prompt("Send exactly this order? yes or no", err=True)
    who = by or typer.prompt("Your name", err=True)
    why = evidence
    if found["overrides veto"] and chosen == "yes" and not why:
        why = typer.prompt("Gate agents vetoed it. Why are they wrong?", err=True)
    told = line.answer(name, chosen == "yes", who, why)
    if as_json:
        print_json({"hash": name, "result": told})
        return
    print_line(told)


def _show(one: Mapping[str, Any]) -> None:
    width = max(map(len, one))
    for what, value in one.items():
        if what != "overrides veto" or value:
            told = " ".join(str(value).split())  # a line break of an agent's would look like a line of ours
            print_line(f"{what:<{width}}  {told}")
    print_line("")


def promote(
    db: Annotated[str, typer.Argument(help="The fund's log: a file, the folder that holds it, or a URL.", metavar="DB")],
    to: Annotated[Literal["advisory", "supervised", "autonomous"], typer.Option(help="What it may do from now on.")],
    by: By,
    reason: Why,
    fund: Name = "fund",
) -> None:
    """Let a fund do more by itself, one step at a time, or less; it acts on it when it is started next."""
    from agentfund.live.words import promoted

    event = promoted(db, fund, to, by, reason)
    print_line(f"the fund {fund} was {event.before} and is {event.mode} when it starts next")


def resolve(
    db: Annotated[str, typer.Argument(help="The fund's log: a file, the folder that holds it, or a URL.", metavar="DB")],
    order: Annotated[str, typer.Argument(help="Id of the order, or its beginning.", metavar="ORDER")],
    status: Annotated[Literal["rejected", "cancelled"], typer.Option("--as", help="What became of it, by the broker's word.")],
    by: By,
    reason: Why,
    fund: Name = "fund",
) -> None:
    """Settle an order whose fate is unknown, after you have seen at the broker that nothing of it can trade any more.

    A fund that runs has to be stopped first. What of the order has filled comes from the broker, never from here.
    """
    from agentfund.live.words import resolved

    print_line(resolved(db, fund, order, status, by, reason))


def adopt(
    db: Annotated[str, typer.Argument(help="The fund's log: a file, the folder that holds it, or a URL.", metavar="DB")],
    broker: Annotated[str, typer.Option(metavar="NAME", help="alpaca, ccxt:EXCHANGE, or file.py:name.")],
    by: By,
    reason: Why,
    real: Annotated[bool, typer.Option("--real", help="Real money, not the broker's paper account or sandbox.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    fund: Name = "fund",
) -> None:
    """Take over what the broker holds where the log holds something else: after a deposit, or what somebody did by hand.

    A fund that runs has to be stopped first. It shows the difference before it writes anything.
    """
    from agentfund.live.words import adopted

    def agree(difference: str) -> bool:
        print_line(difference)
        return yes or typer.confirm("Write this on the log?", err=True)

    print_line(adopted(db, fund, broker, by, reason, real=real, agree=agree))


def execution(
    broker: Annotated[str, typer.Option(metavar="NAME", help="alpaca, ccxt:EXCHANGE, or file.py:name.")],
    bus: Annotated[str, typer.Option(metavar="URL", envvar="AGENTFUND_BUS", help="The fund's log: a file or a URL.")],
    watch: Annotated[Path | None, typer.Option(help="The watchdog's folder.")] = None,
    unwatched: Annotated[bool, typer.Option("--unwatched", help="Go without a watchdog.")] = False,
    real: Annotated[bool, typer.Option("--real", help="Real money, not the broker's paper account or sandbox.")] = False,
    symbols: Symbols = "",
    listen: Annotated[str, typer.Option(help="unix:/path, or 127.0.0.1:port.")] = "127.0.0.1:0",
    token: Annotated[Path, typer.Option(help="File of the token; made where there is none.")] = Path("execution.token"),
    limit: Limit = None,
    hours: Calendar = "",
    keep: Annotated[bool, typer.Option("--keep", help="Keep positions at level 4; else they are closed.")] = False,
    fund: Name = "fund",
) -> None:
    """Hold a broker's keys in a process of its own, and send only what the log, the gate and the watchdog allow."""
    from agentfund.live.words import executed

    executed(
        broker,
        bus,
        watch=watch,
        unwatched=unwatched,
        real=real,
        symbols=symbols,
        listen=listen,
        token=token,
        limits=limit or (),
        hours=hours,
        keep=keep,
        fund=fund,
    )
