"""`agentfund watchdog`, `halt`, `lift` and `status`. What is heavy is imported inside a command."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentfund.plain import plain

if TYPE_CHECKING:
    from agentfund.secrets import Secret
    from agentfund.watchdog.chain import Cause

PASSPHRASE = "AGENTFUND_OPERATOR_PASSPHRASE"  # noqa: S105 - the name of a variable

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The watchdog's folder of the fund.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; all else goes to stderr.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help=f"File with the operator's passphrase; else {PASSPHRASE}, else it is asked for.")
]


def add(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(epilog="Example: agentfund watchdog --dir fund-watch --broker alpaca --bus fund.db")(watchdog)
    app.command(epilog='Example: agentfund halt fund-watch --reason "prices look wrong"')(halt)
    app.command(epilog="Example: agentfund lift fund-watch --bus fund.db")(lift)
    app.command(epilog="Example: agentfund status fund-watch")(status)


def watchdog(
    dir: Annotated[Path, typer.Option(help="The watchdog's folder, one for each fund.")],
    init: Annotated[bool, typer.Option("--init", help="Make the folder with its keys, and end.")] = False,
    broker: Annotated[
        str, typer.Option(metavar="NAME", help="Session whose word counts: an entry point, file.py:make or module:make.")
    ] = "",
    bus: Annotated[str, typer.Option(metavar="DB", envvar="AGENTFUND_BUS", help="The fund's log: a file or a URL.")] = "",
    fund: Annotated[str, typer.Option(help="Name of the fund; its first heartbeat says it otherwise.")] = "",
    config: Annotated[str, typer.Option(metavar="DIGEST", help="Digest of its limits; else that of the first heartbeat.")] = "",
    cap: Annotated[list[str] | None, typer.Option(metavar="CAP", help="A file of caps, or name=value.")] = None,
    period: Annotated[float, typer.Option(min=0.01, max=5, help="Seconds from check to check.")] = 0.25,
    poll: Annotated[float, typer.Option(min=0.05, max=60, help="Seconds from question to question to the broker.")] = 0.5,
    ttl: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds that a lease lasts.")] = 2.0,
    hands: Annotated[
        str, typer.Option(metavar="NAME", help="Session that may cancel what a halted fund leaves, named in the same way.")
    ] = "",
    close: Annotated[bool, typer.Option("--close", help="Those hands close positions at level 4.")] = False,
    passphrase_file: PassphraseFile = None,
    without_passphrase: Annotated[bool, typer.Option("--without-passphrase", help="Leave the operator's key open.")] = False,
) -> None:
    """Watch a fund, and give it leave to trade for two seconds at a time.

    It knows no agent and no language model. Run it as a user of its own, with broker keys that cannot trade.
    """
    if init:
        from agentfund.watchdog.state import make_folder

        passphrase = (
            None if without_passphrase else _passphrase(passphrase_file, "Passphrase for the operator's key", twice=True)
        )
        folder = make_folder(str(dir), passphrase=passphrase, fund=fund, config=config)
        _print(f"{folder.path} is ready. Move operator.key to where only the operator can read it, and keep a copy.")
        _print(f"The watchdog's public key: {folder.public('watchdog')}")
        return
    from agentfund.watchdog.serving import serve

    serve(
        dir,
        broker=broker,
        bus=bus,
        caps=cap or (),
        fund=fund,
        config=config,
        period_s=period,
        poll_s=poll,
        ttl_s=ttl,
        hands=hands,
        close=close,
        tell=_say,
    )


def halt(
    dir: Folder,
    reason: Annotated[str, typer.Option(help="What happened, in one sentence.")],
    level: Annotated[int, typer.Option(min=1, max=4, help="1 caution, 2 reduce only, 3 halt, 4 kill.")] = 3,
    by: Annotated[str, typer.Option(help="Who asks; else the user and the process.")] = "",
) -> None:
    """Stop a fund. Anybody may, agents too; only an operator lifts it."""
    from agentfund.trading import Level
    from agentfund.watchdog.halts import Halts

    cause = Halts(dir).halt(reason, level=Level(level), by=by)
    _print(f"latched at level {int(cause.level)}: {cause.id}")


def lift(
    dir: Folder,
    cause: Annotated[str, typer.Option(help="Id of the cause; else it is asked for.")] = "",
    reason: Annotated[str, typer.Option(help="Why the fund may trade again; else it is asked for.")] = "",
    key: Annotated[Path | None, typer.Option(help="The operator's key, where it is not kept in the folder.")] = None,
    passphrase_file: PassphraseFile = None,
    bus: Annotated[
        str, typer.Option(metavar="DB", envvar="AGENTFUND_BUS", help="The fund's log, to show what led to the halt.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Lift one cause of a halt, after showing what led to it. It takes the operator's key; other causes stay."""
    from agentfund.errors import ConfigError
    from agentfund.watchdog.halts import Halts
    from agentfund.watchdog.standing import standing

    halts = Halts(dir)
    chain = halts.read()
    before = standing(dir)
    if not chain.open:
        raise ConfigError("nothing is latched; what holds the fund, if anything does, `agentfund status` tells")
    _say(f"Level {before['level']}, {before['means']}")
    for one in chain.open.values():
        _show(one, bus or "", before["fund"])
    chosen = cause or _ask("Type the id of the cause to lift")
    if chosen.strip() not in chain.open:
        raise ConfigError(f"no cause {chosen.strip()!r} is latched: {', '.join(chain.open)}")
    why = reason or _ask("Why may the fund trade again")
    if not why.strip():
        raise ConfigError("a lift needs a reason: say why the fund may trade again")
    passphrase = (
        _passphrase(passphrase_file, "The operator's passphrase") if halts.folder.operators_key_is_sealed(key) else None
    )
    halts.lift(chosen.strip(), why, halts.folder.operators_key(passphrase, key))
    left = halts.read()
    if as_json:
        told = {"lifted": chosen.strip(), "level": int(left.level), "causes": [one.to_json() for one in left.open.values()]}
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return
    _print(f"lifted {chosen.strip()}; latched now: {', '.join(left.open) or 'nothing'}")


def status(dir: Folder, as_json: Json = False) -> None:
    """Say how a fund stands: level, lease, heartbeat, causes, findings. It works when everything is dead."""
    from agentfund.watchdog.standing import standing

    told = standing(dir)
    if as_json:
        sys.stdout.write(json.dumps(told, indent=2, allow_nan=False) + "\n")
        return
    _print(f"{told['fund'] or 'no fund yet'}: level {told['level']}, {told['means']}")
    if told["reason"]:
        _print(f"  {told['reason']}")
    lease = f"valid for {told['lease_left_s']} s" if told["lease"] else "none: nothing may add risk"
    beat = told["heartbeat"]
    rows: list[tuple[str, object]] = [
        ("lease", lease),
        ("withheld because", told["withheld"]),
        ("watchdog", told["watchdog"]),
        ("record of halts", told["record"]),
        ("state", told["state"]),
        ("heartbeat", "none" if beat is None else f"{beat['stage']}, {_age(beat['age_s'])}, process {beat['pid']}"),
        ("equity", told["equity"]),
        ("peak", told["peak"]),
        ("day began at", told["day_equity"]),
        ("limits", told["config"]),
        ("caps", told["caps"]),
        ("looked last", told["looked"]),
    ]
    _table(("", ""), [row for row in rows if row[1] not in ("", None)])
    _table(
        ("cause", "level", "code", "since", "by", "reason"),
        [(c["id"], c["level"], c["code"], c["time"][:19], c["by"], c["reason"]) for c in told["causes"]],
    )
    found = [(f["code"], f["level"], f["reason"]) for f in told["findings"]]
    _table(("finding", "level", "what was seen"), found + [(f["code"], "pending", f["reason"]) for f in told["pending"]])


def _show(cause: Cause, bus: str, fund: str) -> None:
    """Tell what led to a halt: from the fund's log where it can be read, else from the record."""
    _say(f"\n{cause.id}  level {int(cause.level)}  {cause.code}  {cause.time:%Y-%m-%d %H:%M:%S} UTC  by {cause.by}")
    _say(f"  {cause.reason}")
    if cause.entry:
        _say(f"  what the fund did last: {cause.entry} (message {cause.message} at {cause.offset})")
    if cause.offset and bus:
        import asyncio

        from agentfund.errors import AgentFundError

        try:
            for line in asyncio.run(_entry(bus, fund, cause)):
                _say(f"  | {line}")
        except (AgentFundError, OSError, ValueError) as error:
            _say(f"  (the fund's log cannot be read: {error})")


async def _entry(bus: str, fund: str, cause: Cause) -> list[str]:
    """Return the journal of the cycle behind a cause."""
    from agentfund.core.journal import lines
    from agentfund.watchdog.serving import _opener

    log = _opener(bus)()
    try:
        near = [
            message async for message in log.read(fund, after=max(0, cause.offset - 200)) if message.offset <= cause.offset + 50
        ]
    finally:
        await log.close()
    cycle = next((message.cycle for message in near if message.offset == cause.offset), None)
    return list(lines(message for message in near if message.cycle == cycle))


def _passphrase(file: Path | None, question: str, *, twice: bool = False) -> Secret:
    from agentfund.secrets import Secret

    if file is not None:
        return Secret(file.read_text(encoding="utf-8"))
    if told := os.environ.get(PASSPHRASE, ""):
        return Secret(told)
    return Secret(typer.prompt(question, hide_input=True, confirmation_prompt=twice, err=True))


def _ask(question: str) -> str:
    answer: str = typer.prompt(question, default="", show_default=False, err=True)
    return answer


def _age(seconds: float | None) -> str:
    return "from before the machine was started" if seconds is None else f"{seconds} s ago"


def _print(text: str) -> None:
    sys.stdout.write(plain(text) + "\n")


def _say(text: str) -> None:
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()  # whoever started it may wait for a line


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(head))
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(str(cell))) for cell in row))
    if table.row_count:
        console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
        console.print(table)
        console.print()
