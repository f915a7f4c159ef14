"""A log as the command line reads it: one fund's messages out of a file or a broker, to the end or up to a moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agentfund.buses.sqlite import SqliteBus
from agentfund.buses.urls import open_bus, without_password
from agentfund.errors import BusError, ConfigError
from agentfund.messages import Ended, Led, Message, Started
from agentfund.outputs import LOG

if TYPE_CHECKING:
    from agentfund.core.context import State
    from agentfund.protocols import Bus

_PAGE = 512


def log_at(where: str | Path) -> str | Path:
    """Return the log at a place: a URL as it is, the file that it names, or the file in the folder that it names.

    Raises:
        ConfigError: there is no such file.
    """
    if isinstance(where, str) and len(urlsplit(where).scheme) > 1:  # one letter is a drive
        return where
    path = Path(where)
    log = path / LOG if path.is_dir() else path
    if not log.exists():
        raise ConfigError(
            f"there is no log at {log}; `agentfund backtest` and `agentfund demo` leave {LOG} in their --out folder"
        )
    return log


def opened(log: str | Path) -> Bus:
    """Return a log to read; whatever it survives, reading it is as good."""
    return SqliteBus(log, read_only=True) if isinstance(log, Path) else open_bus(log, demand="none")


def messages(where: str | Path, fund: str = "") -> Generator[Message, None, None]:
    """Give one fund's messages, oldest first; memory stays flat however long the log is.

    Raises:
        ConfigError: there is no log, no fund in it, or several and none was chosen.
        BusError: it cannot be read, or a message in it does not fit its type.
    """
    log = log_at(where)
    home = without_password(str(log))
    funds = dict.fromkeys(message.stream for message in _all(log, None) if message.type == Started.__name__)
    if not funds:
        raise ConfigError(f"{home} holds no run of a fund yet")
    if fund and fund not in funds:
        raise ConfigError(f"{home} holds no fund {fund!r}; it holds {', '.join(funds)}")
    if not fund and len(funds) > 1:
        raise ConfigError(f"{home} holds several funds: choose one with --fund {' or --fund '.join(funds)}")
    with closing(_all(log, fund or next(iter(funds)))) as told:
        for message in told:
            try:
                _ = message.event
            except ValueError as error:
                first = str(error).partition("\n")[0]
                raise BusError(
                    f"{home}: message {message.offset} is no {message.type} ({first}); restore the log from a backup"
                ) from None
            yield message


def until(
    told: Generator[Message, None, None], name: str | Path, cycle: int | None, moment: datetime | None
) -> Iterator[Message]:
    """Give the messages up to a cycle or a moment, both included.

    Raises:
        ConfigError: the moment lies before the first cycle.
    """
    begun = False
    opening: list[Message] = []
    with closing(told):
        for message in told:
            late = (cycle is not None and message.cycle > cycle) or (moment is not None and message.time > moment)
            if late and message.type != Led.__name__:  # a leader's clock is not the market's
                if moment is not None and not begun:
                    home = without_password(str(name))
                    raise ConfigError(
                        f"{moment.isoformat()} is before the first message of a cycle in {home}, which is at"
                        f" {message.time.isoformat()}; give a later --at, or --at cycle:0 for the fund before it saw anything"
                    )
                break
            opening.append(message)
            if message.cycle > 0:
                begun = True
                yield from opening
                opening = []
    yield from opening


def earlier(log: Path) -> str:
    """Return what a log that is about to be written holds already, in words; empty where it holds nothing."""
    newest = None
    for newest in _all(log, None):  # noqa: B007 - the last one is wanted
        pass
    if newest is None or newest.cycle == 0:
        return ""
    if newest.type == Ended.__name__:
        return "the log holds the whole run already; only its report is made again"
    return f"carrying on after bar {newest.cycle:,}, the newest on the log"


def state_as_json(state: State) -> dict[str, Any]:
    """Return the fund's state as JSON values: exact amounts are `Decimal`, fractions are floats."""
    portfolio = state.portfolio
    return {
        "run": state.run,
        "cycle": state.cycle,
        "time": state.time,
        "observed": state.observed,
        "ended": state.ended,
        "equity": state.equity,
        "peak_equity": state.peak_equity,
        "drawdown": state.drawdown,
        "day_return": state.day_return,
        "cash": portfolio.cash,
        "positions": {symbol: asdict(position) for symbol, position in portfolio.positions.items()},
        "realized": portfolio.realized,
        "fees": portfolio.fees,
        "round_trips": portfolio.trips,
        "win_rate": portfolio.win_rate,
        "prices": dict(state.prices),
        "orders": [asdict(order) for order in state.orders.values()],
        "opinions": {agent: asdict(opinion) for agent, opinion in state.opinions.items()},
        "last_decision": state.last_decision.model_dump(mode="json") if state.last_decision else None,
        "llm_cost_usd": state.billed_usd,
    }


def _all(log: str | Path, stream: str | None) -> Generator[Message, None, None]:
    bus = opened(log)
    with asyncio.Runner() as runner:
        try:
            source = bus.read(stream)
            while page := runner.run(_page(source)):
                yield from page
        finally:
            runner.run(bus.close())


async def _page(source: AsyncIterator[Message]) -> list[Message]:
    page: list[Message] = []
    async for message in source:
        page.append(message)
        if len(page) == _PAGE:
            break
    return page
