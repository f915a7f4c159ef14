"""What `agentfund watchdog` does: caps from files and words, a broker session by its name, and a process that ends cleanly."""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentfund.buses.urls import open_bus
from agentfund.errors import AgentFundError, BrokerUnavailable, ConfigError
from agentfund.loading import named, thing
from agentfund.protocols import Watched
from agentfund.secrets import scrub
from agentfund.settings import read_settings
from agentfund.watchdog.caps import Caps
from agentfund.watchdog.hands import Handed, Hands
from agentfund.watchdog.looking import Apart
from agentfund.watchdog.reading import LogBook, LogReader
from agentfund.watchdog.watch import Watchdog

if TYPE_CHECKING:
    from agentfund.protocols import Bus
    from agentfund.trading import Book, Order, OrderState

GROUP = "agentfund.brokers"
_KINDS: dict[str, type] = {field.name: type(field.default) for field in fields(Caps)}
_PATIENCE_S = 60.0


def serve(
    path: Path,
    *,
    broker: str,
    bus: str,
    caps: Sequence[str],
    fund: str,
    config: str,
    period_s: float,
    poll_s: float,
    ttl_s: float,
    hands: str,
    close: bool,
    tell: Callable[[str], object],
) -> None:
    """Watch a fund until SIGTERM or SIGINT.

    Args:
        path: the watchdog's folder.
        broker: what makes the broker session that looks: an entry point, `file.py:make` or `module:make`, a function without
            arguments; empty for the log's own word (paper trading).
        bus: address of the fund's log; empty where none is watched.
        caps: files and `name=value`; what comes later wins.
        fund: name of the fund.
        config: digest of its limits.
        period_s: seconds from round to round.
        poll_s: seconds from question to question to the broker.
        ttl_s: seconds that a lease lasts.
        hands: what makes a session that may cancel and close, named in the same way; empty for none.
        close: whether it closes positions at level 4.
        tell: told one line once it watches.

    Raises:
        ConfigError: something is not there, or cannot be used.
        BusError: the address is none.
    """
    if not broker and not bus:
        raise ConfigError("give --broker, whose word counts, or --bus, for paper trading: the log's word stands in for it")
    held = read_settings(Caps, caps, "cap")
    log: LogReader | None = None

    def name() -> str:
        return fund or watchdog.fund

    if bus:
        log = LogReader(_opener(bus), name)
    session: Watched = _looking(broker) if broker else LogBook(_opener(bus), name)
    acting = Hands(_Acting(hands), close=close) if hands else None
    watchdog = Watchdog(
        path,
        broker=session,
        log=log,
        caps=held,
        fund=fund,
        config=config,
        period_s=period_s,
        poll_s=poll_s,
        ttl_s=ttl_s,
        hands=acting,
    )
    whose = f"broker {broker}" if broker else "the log's own word, for paper trading"
    tell(f"watchdog: {watchdog.fund or 'the first fund that beats'} in {path}, by {whose}; caps {held.digest}; Ctrl-C ends it")
    asyncio.run(_until_told(watchdog))


async def _until_told(watchdog: Watchdog) -> None:
    loop, watching = asyncio.get_running_loop(), asyncio.ensure_future(watchdog.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # not on every system; Ctrl-C is a KeyboardInterrupt there
            loop.add_signal_handler(number, watching.cancel)
    with suppress(asyncio.CancelledError):
        await watching


class _Once:
    """Makes a session, once, and says what is wrong with it.

    Args:
        name: what makes it, as the command line names it.
        kind: what it has to be.
        lacks: what is said of one that is not.
    """

    def __init__(self, name: str, kind: type, lacks: str) -> None:
        self.made: Any = None
        self._name, self._kind, self._lacks = name, kind, lacks
        self._make = session_maker(name)

    def __call__(self) -> Any:
        if self.made is None:
            try:
                made = self._make()
            except AgentFundError:
                raise
            except Exception as error:
                raise ConfigError(f"{self._name} cannot be run: {scrub(f'{type(error).__name__}: {error}')[:500]}") from error
            if not isinstance(made, self._kind):
                if inspect.iscoroutine(made):
                    made.close()
                raise ConfigError(f"{self._name} gives a {type(made).__name__}, {self._lacks}")
            self.made = made
        return self.made

    def begin(self, apart: Apart) -> None:
        """Make it in its thread before anything is watched; a broker that does not answer may answer later.

        Raises:
            ConfigError: it cannot be made, or is not what it has to be.
        """

        async def make() -> None:
            with suppress(BrokerUnavailable):
                self()

        async def made() -> None:
            await asyncio.wait_for(apart.call(make), _PATIENCE_S)

        try:
            asyncio.run(made())
        except TimeoutError:
            raise ConfigError(f"{self._name} did not give a session within {_PATIENCE_S:g} s") from None


def _looking(name: str) -> Apart:
    once = _Once(name, Watched, "which has no book(): the watchdog cannot look at it")
    apart = Apart(once, pace_of(name))
    once.begin(apart)
    apart.pace_s = float(getattr(once.made, "pace_s", apart.pace_s))
    return apart


class _Acting:
    """A session that acts, in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._session = _Once(name, Handed, "which cannot cancel and submit: --hands needs a session that can")
        self._apart = Apart(self._session)
        self._session.begin(self._apart)

    @property
    def dedupes_ids(self) -> bool:
        return bool(getattr(self._session.made, "dedupes_ids", False))

    async def book(self) -> Book:
        return await self._apart.call(lambda: self._session().book())

    async def cancel(self, order_id: str) -> OrderState:
        return await self._apart.call(lambda: self._session().cancel(order_id))

    async def submit(self, order: Order) -> OrderState:
        return await self._apart.call(lambda: self._session().submit(order))


def _opener(address: str) -> Callable[[], Bus]:
    def opened() -> Bus:
        scheme = address.partition(":")[0] if "://" in address else "sqlite" if not address.startswith("memory") else "memory"
        return open_bus(address, read_only=True) if scheme == "sqlite" else open_bus(address)

    return opened


def session_maker(name: str) -> Callable[[], Any]:
    """Return what makes a session: an entry point, or a function of somebody's own.

    Args:
        name: an entry point, `file.py:make` or `module:make`.

    Raises:
        ConfigError: there is none, it needs arguments, or it has no `book()`.
    """
    if named(name):
        return _own(name)
    found = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if name not in found:
        there = ", ".join(sorted(found))
        raise ConfigError(
            f"there is no broker {name!r} among the entry points of {GROUP}: there is {there};"
            " a function of your own is named file.py:make or module:make"
        )
    kind = found[name].load()
    if not callable(getattr(kind, "book", None)):
        raise ConfigError(
            f"the broker {name!r} has no book(): the watchdog cannot look at it; for paper trading leave --broker out"
        )

    def make() -> Any:
        return kind() if isinstance(kind, type) else kind

    if isinstance(kind, type):
        _without_arguments(kind, name)
    return make


def _own(name: str) -> Callable[[], Any]:
    found = thing(name)
    if not callable(found):
        raise ConfigError(
            f"{name} is a {type(found).__name__} and cannot be called: give a function, def make(): return a session"
        )
    _without_arguments(found, name)
    make: Callable[[], Any] = found
    return make


def _without_arguments(kind: Callable[..., Any], name: str) -> None:
    try:
        inspect.signature(kind).bind()
    except TypeError as error:
        raise ConfigError(
            f"{name} needs arguments ({error}): write a function without any that makes the session, and give file.py:make"
        ) from None
    except ValueError:  # it does not say
        return


def pace_of(name: str) -> float:
    """Return how many seconds a broker wants between two questions, 0 where it does not say."""
    found = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    return float(getattr(found[name].load(), "pace_s", 0.0)) if name in found else 0.0
