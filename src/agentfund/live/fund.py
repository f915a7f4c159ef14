"""A fund as the commands `paper` and `live` make it: its folder, its agents, its feed, its broker, and who may stop it."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentfund.brokers.paper import PaperBroker
from agentfund.buses.urls import open_bus, without_password
from agentfund.core.limits import Limits
from agentfund.core.orchestrator import Orchestrator
from agentfund.core.past import PastView
from agentfund.core.permission import UNWATCHED
from agentfund.core.views import see
from agentfund.errors import ConfigError
from agentfund.live.opening import open_broker, open_feed, open_hours
from agentfund.live.program import run
from agentfund.live.words import permission_of
from agentfund.market import decimal
from agentfund.outputs import LOG
from agentfund.runs import agents_of, asked, say_unusable
from agentfund.settings import read_settings
from agentfund.terminal import say
from agentfund.trading import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentfund.approvals.board import Board
    from agentfund.live.opening import Opened
    from agentfund.protocols import Broker, Bus, Clock, Permission

LEASE = timedelta(seconds=30)
WATCH = "watch"
"""The watchdog's folder within the fund's."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What both commands are asked for; see their options."""

    feed: str
    symbols: str
    folder: Path
    data: Path | None
    speed: float
    bar_minutes: float
    back: int
    mode: str | None
    agents: str
    llm: str
    budget_usd: str
    budget_usd_per_day: str
    wait_s: float

    @property
    def names(self) -> list[str]:
        """The symbols."""
        return [name.strip() for name in self.symbols.split(",") if name.strip()]

    def opened(self) -> Opened:
        """Open the feed."""
        more: dict[str, Any] = {"bar_minutes": self.bar_minutes, "back": self.back, "data": self.data, "speed": self.speed}
        return open_feed(self.feed, self.names, **more)


def run_paper(
    asked_for: Asked,
    *,
    cash: float,
    limits: Sequence[str],
    shadow: str,
    page: int,
    cycles: int | None,
    name: str,
    plain: bool,
) -> int:
    """Run a fund on a paper broker; return how many decisions it made.

    Raises:
        ConfigError: something that was asked for does not work.
    """
    held = read_settings(Limits, limits, "limit")
    watch = _folder(asked_for.folder) / WATCH
    permission = permission_of(watch, False, name, held) if (watch / "watchdog.pub").exists() else None
    said = asked_for if asked_for.mode else replace(asked_for, mode=str(Mode.AUTONOMOUS))
    bus = str(asked_for.folder / LOG)
    opened = asked_for.opened()
    broker = PaperBroker(decimal(cash))
    return asyncio.run(_run(said, opened, broker, bus, held, permission, "", shadow, page, cycles, name, plain))


def run_live(
    asked_for: Asked,
    *,
    broker: str,
    execution: str,
    token: Path | None,
    real: bool,
    unwatched: bool,
    hours: str,
    bus: str,
    limits: Sequence[str],
    shadow: str,
    page: int,
    cycles: int | None,
    name: str,
    plain: bool,
) -> int:
    """Run a fund on a real broker; return how many decisions it made.

    Raises:
        ConfigError: something that was asked for does not work.
    """
    from agentfund.execution.remote import RemoteExecution
    from agentfund.serving import token_in

    if bool(broker) is bool(execution):
        raise ConfigError("give either --broker, whose keys this process then knows, or --execution with --token")
    if execution and token is None:
        raise ConfigError("--execution needs --token: the file that agentfund execution has made")
    held = read_settings(Limits, limits, "limit")
    permission = permission_of(_folder(asked_for.folder) / WATCH, unwatched, name, held)
    opened = asked_for.opened()
    to: Broker
    if execution:
        assert token is not None
        to = RemoteExecution(execution, token_in(token))
    else:
        to = open_broker(broker, asked_for.names, real=real)
        if real:
            say("not for live: the broker's keys are in the process of the agents; agentfund execution keeps them apart")
    if not hours and held.require_hours:
        say("no --hours: nothing will add risk, for nobody knows when the market is open (24/7 for crypto)")
    log = bus or str(asked_for.folder / LOG)
    return asyncio.run(_run(asked_for, opened, to, log, held, permission, hours, shadow, page, cycles, name, plain))


async def _run(
    asked_for: Asked,
    opened: Opened,
    broker: Broker,
    address: str,
    limits: Limits,
    permission: Permission | None,
    calendar: str,
    shadow: str,
    page: int,
    cycles: int | None,
    name: str,
    plain: bool,
) -> int:
    llms = asked(asked_for.llm, asked_for.budget_usd, asked_for.budget_usd_per_day, None, "", to_record=False)
    say_unusable(llms)
    bus = open_bus(address)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(bus.close)
        allowed = await _allowed(bus, name)
        mode = Mode(asked_for.mode or allowed)
        modes = list(Mode)
        if not isinstance(broker, PaperBroker) and modes.index(mode) > modes.index(allowed):  # a new log allows advice only
            raise ConfigError(
                f"the fund {name!r} is {allowed} by its log, and {mode} is more: let it run so, and then promote it"
                f" (agentfund promote {without_password(address)}"
                f" --to {modes[modes.index(allowed) + 1]} --by NAME --reason WHY)"
            )
        approver: Board | None = None
        if mode is Mode.SUPERVISED:
            approver = await _page(stack, asked_for.folder, page, name, opened.clock)
        fund = Orchestrator(
            agents_of(asked_for.agents, llms.llm, opened.feed),
            bus=bus,
            mode=mode,
            limits=limits,
            approver=approver,
            approval_timeout=timedelta(seconds=asked_for.wait_s),
            permission=permission,
            hours=open_hours(calendar, opened.clock),
            clock=opened.clock,
            lease=LEASE if opened.real else None,  # of a recording's time seconds may pass in a moment
            name=name,
        )
        feed = opened.feed
        if shadow:
            from agentfund.live.shadow import beside

            # Routes, breakers and a budget of its own: it must not spend what the incumbent has.
            own = asked(asked_for.llm, asked_for.budget_usd, asked_for.budget_usd_per_day, None, "", to_record=False)
            feed = await stack.enter_async_context(beside(fund, feed, agents_of(shadow, own.llm, feed), asked_for.folder))
        if loosened := limits.loosened():
            say("looser than usual: " + "; ".join(loosened))
        watched = "no watchdog" if permission is None or permission is UNWATCHED else "under a watchdog"
        where = "a paper broker in this process" if isinstance(broker, PaperBroker) else repr(broker)
        say(f"{name}: {mode}, {watched}; orders go to {where}; the log is {without_password(address)}; Ctrl-C ends it")
        return await run(fund, feed, broker, folder=asked_for.folder / WATCH, table=False if plain else None, cycles=cycles)


async def _allowed(bus: Bus, name: str) -> Mode:
    """Return what the log allows the fund, advisory where it is new."""
    return Mode((await see(bus, name, PastView())).value.state.mode or Mode.ADVISORY)


async def _page(stack: AsyncExitStack, folder: Path, port: int, name: str, clock: Clock) -> Board:
    """Serve the page on which a person approves, and say where it is."""
    from agentfund.approvals.asking import ADDRESS, TOKEN
    from agentfund.approvals.board import Board
    from agentfund.approvals.page import application
    from agentfund.serving import served, token_in

    token = token_in(folder / TOKEN, make=True)
    code = secrets.token_urlsafe(16)  # of this process alone: an address in a log opens nothing later
    board = Board(clock)
    app = application(board, token, fund=name, code=code, clock=clock)
    address, _ = await stack.enter_async_context(served(app, f"127.0.0.1:{port}"))
    (folder / ADDRESS).write_text(address)
    stack.callback((folder / ADDRESS).unlink, missing_ok=True)
    say(f"orders wait for a person at http://{address}/enter?code={code} or: agentfund approve {folder}")
    return board


def _folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made: {error.strerror}; give another --dir") from error
    return folder
