"""What an operator does to a fund's log, and the execution as a process."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from agentfund.approvals.board import LEAST_HASH
from agentfund.buses.urls import open_bus
from agentfund.clock import SystemClock
from agentfund.core.limits import Limits
from agentfund.core.past import PastView
from agentfund.core.permission import UNWATCHED
from agentfund.core.views import see
from agentfund.errors import ConfigError
from agentfund.logs import log_at
from agentfund.messages import Adopted, Answered, Message, Promoted, stable_id
from agentfund.terminal import print_line, say
from agentfund.trading import OrderStatus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from pathlib import Path

    from agentfund.protocols import Bus, Permission

Item = TypeVar("Item")
LEAST_REASON = 10


def promoted(db: str, fund: str, to: str, by: str, reason: str) -> Promoted:
    """Promote a fund on the log at an address; see `agentfund.approvals.promotion.promote`."""
    from agentfund.approvals.promotion import promote

    return _on(db, lambda bus: promote(bus, fund, to, by=by, reason=reason))


def meant(given: str, names: Iterable[str]) -> str:
    """Return which order is meant by its name, or by the beginning of it.

    Args:
        given: what a person has typed.
        names: ids or hashes of the orders that there are.

    Raises:
        ConfigError: it is too short, none of them begins so, or more than one does.
    """
    known = list(names)
    if given in known:
        return given
    if len(given) < LEAST_HASH:
        raise ConfigError(f"{given!r}: give at least {LEAST_HASH} characters, or the whole, so that no other order is meant")
    found = [name for name in known if name.startswith(given)]
    if len(found) > 1:
        raise ConfigError(f"{given!r} fits {len(found)} orders, give more of it: {', '.join(found)}")
    if not found:
        raise ConfigError(f"no order begins with {given!r}; there is {', '.join(known) or 'none'}")
    return found[0]


def resolved(db: str, fund: str, order: str, status: str, by: str, reason: str) -> str:
    """Settle an order whose fate is unknown by a person's word; return what was written, in a sentence.

    Raises:
        ConfigError: no order is meant or more than one, its fate is known, or nobody says why.
    """
    if not by.strip() or len(reason.strip()) < LEAST_REASON:
        raise ConfigError(f"settling an order needs a name, and a reason of at least {LEAST_REASON} characters")

    async def write(bus: Bus) -> str:
        state = (await see(bus, fund, PastView())).value.state
        found = state.orders[meant(order, state.orders)]
        if found.status is not OrderStatus.UNKNOWN:
            raise ConfigError(f"order {found.order.id} is {found.status}: only one whose fate is unknown can be settled")
        now = SystemClock().now()
        if state.leads_until is not None and state.leads_until > now:
            raise ConfigError(f"{state.leader} runs the fund {fund!r}: stop it first")
        name = found.order.id
        event = Answered(name, OrderStatus(status), f"{by.strip()} settled it: {reason.strip()}", found.told)
        message = Message.of(
            event,
            id=stable_id("resolved", state.run, name, now),
            stream=fund,
            producer="operator",
            time=now,
            cycle=state.cycle,
            appended=now,
        )
        await bus.publish([message])
        return f"order {name} is {status}, by {by.strip()}"

    return _on(db, write)


def adopted(db: str, fund: str, broker: str, by: str, reason: str, *, real: bool, agree: Callable[[str], bool]) -> str:
    """Write what a broker holds on the log in place of what the log holds; return what was done, in a sentence.

    Raises:
        ConfigError: the fund runs, its broker holds what its feed has not, orders are open, or nobody says why.
        BrokerUnavailable: the broker does not tell its account.
    """
    from agentfund.live.opening import open_broker

    if not by.strip() or len(reason.strip()) < LEAST_REASON:
        raise ConfigError(f"taking over needs a name, and a reason of at least {LEAST_REASON} characters")

    async def write(bus: Bus) -> str:
        past = (await see(bus, fund, PastView())).value
        state, now = past.state, SystemClock().now()
        if past.started is None:
            raise ConfigError(f"the log has no fund {fund!r}")
        if state.leads_until is not None and state.leads_until > now:
            raise ConfigError(f"{state.leader} runs the fund {fund!r}: stop it first")
        if state.orders:
            raise ConfigError(f"orders are open: {', '.join(state.orders)}. Let them end, or settle them: agentfund resolve")
        symbols = list(past.started.feed["symbols"])
        to = open_broker(broker, symbols, real=real)
        try:
            account = await to.account()
        finally:
            if (close := getattr(to, "close", None)) is not None:
                await close()
        held = {symbol: quantity for symbol, quantity in account.positions.items() if quantity}
        if others := sorted(held.keys() - set(symbols)):
            raise ConfigError(f"the broker holds {', '.join(others)}, which the fund's feed has not: close or move it")
        if unpriced := sorted(held.keys() - state.prices.keys()):
            raise ConfigError(f"the log has no price of {', '.join(unpriced)}: let the fund see a bar of it first")
        mine = {symbol: position.quantity for symbol, position in state.portfolio.positions.items()}
        ours = f"the log holds {mine or 'nothing'} and {state.portfolio.cash} in cash"
        told = f"{ours}, the broker {held or 'nothing'} and {account.cash}"
        if mine == held and account.cash == state.portfolio.cash:
            return f"{told}: there is nothing to take over"
        if not agree(told):
            return "nothing was written"
        event = Adopted(account.cash, held, by.strip(), reason.strip())
        message = Message.of(
            event,
            id=stable_id("adopted", state.run, now),
            stream=fund,
            producer="operator",
            time=now,
            cycle=state.cycle,
            appended=now,
        )
        await bus.publish([message])
        return f"the fund {fund} holds what its broker holds, by {by.strip()}"

    return _on(db, write)


def executed(
    broker: str,
    bus: str,
    *,
    watch: Path | None,
    unwatched: bool,
    real: bool,
    symbols: str,
    listen: str,
    token: Path,
    limits: Sequence[str],
    hours: str,
    keep: bool,
    fund: str,
) -> None:
    """Serve an execution until the process is told to end (Ctrl-C or SIGTERM).

    Raises:
        ConfigError: the broker, the address, the token or the watchdog's folder cannot be used.
    """
    from agentfund.execution.execution import Execution
    from agentfund.execution.server import serve
    from agentfund.live.opening import open_broker, open_hours
    from agentfund.serving import token_in
    from agentfund.settings import read_settings

    held = read_settings(Limits, limits, "limit")
    permission = permission_of(watch, unwatched, fund, held)
    names = [name.strip() for name in symbols.split(",") if name.strip()]
    secret = token_in(token, make=True)

    async def run() -> None:
        log = open_bus(bus)
        one = Execution(
            open_broker(broker, names, real=real),
            bus=log,
            fund=fund,
            limits=held,
            permission=permission,
            hours=open_hours(hours, SystemClock()),
            on_kill="keep" if keep else "close",
        )
        loop, serving = asyncio.get_running_loop(), asyncio.ensure_future(serve(one, listen, secret, _ready(fund, token)))
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):
                loop.add_signal_handler(number, serving.cancel)
        try:
            with suppress(asyncio.CancelledError):
                await serving
        finally:
            await log.close()

    asyncio.run(run())
    say("the execution has ended; orders and stops stay at the broker")


def _ready(fund: str, token: Path) -> Callable[[str], object]:
    def tell(address: str) -> None:
        print_line(f"the execution of {fund} listens at {address}; its token is in {token}")
        sys.stdout.flush()  # whoever started it waits for this line

    return tell


def permission_of(watch: Path | None, unwatched: bool, fund: str, limits: Limits) -> Permission:
    """Return who says what a fund may do: its watchdog, or nobody where that is asked for.

    Raises:
        ConfigError: neither is there.
    """
    if unwatched:
        return UNWATCHED
    if watch is None or not (watch / "watchdog.pub").exists():
        where = watch or "FOLDER"
        raise ConfigError(
            f"there is no watchdog in {where}: make its keys with agentfund watchdog --dir {where} --init, and start it;"
            " or go without one: --unwatched"
        )
    from agentfund.watchdog import LeaseFile

    return LeaseFile(watch, fund=fund, config=limits.digest)


def _on(db: str, act: Callable[[Bus], Awaitable[Item]]) -> Item:
    async def run() -> Item:
        bus = open_bus(str(log_at(db)))
        try:
            return await act(bus)
        finally:
            await bus.close()

    return asyncio.run(run())
