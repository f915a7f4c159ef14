"""How a run begins: all that its result depends on, in words that a log keeps and a restart is held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentfund.errors import ConfigError
from agentfund.market import CENT, decimal
from agentfund.messages import Started, stable_id
from agentfund.version import __version__

if TYPE_CHECKING:
    from agentfund.core.router import Router
    from agentfund.core.session import Session
    from agentfund.trading import Account

MOST_CASH = 10**15


def describe(session: Session, account: Account | None) -> Started:
    """Return how this run begins: all that its result depends on; `account` is a real broker's, None of a paper one."""
    told = session.fund.describe()
    paper = session.dealing.paper
    cash = paper.cash if paper is not None else account.cash if account is not None else decimal(0)
    if paper is not None and not 0 < cash < MOST_CASH:
        raise ConfigError(f"cash must be above zero and below {MOST_CASH:,}, so that it is exact to the cent; it is {cash}")
    cash = cash.quantize(CENT)
    broker: dict[str, Any] = {"class": type(session.dealing.broker).__name__, "simulated": paper is not None}
    if paper is not None:
        broker["costs"] = str(paper.costs)
        broker["settings"] = {k: str(v) for k, v in getattr(paper, "settings", {}).items()}
    feed = {
        "class": type(session.feed).__name__,
        "fingerprint": session.feed.fingerprint,
        "symbols": [instrument.symbol for instrument in session.feed.instruments],
        "increments": [[str(i.tick_size), str(i.lot_size), i.currency] for i in session.feed.instruments],
        "source": getattr(session.feed, "source", ""),
    }
    told["settings"] |= session.additions
    mode = session.mode if session.history else ""  # live it changes by promotion, and the run is the same
    digest = stable_id(told, broker, feed, mode, session.fund.name, cash if paper is not None else "")
    # A real broker must never be sent an id that another run of the same fund has used.
    run = digest if paper is not None else stable_id(digest, session.clock.now())
    agents = tuple(told["agents"])
    return Started(run, session.fund.name, session.mode, agents, told["settings"], feed, broker, cash, __version__, digest)


def additions(routers: Sequence[Router], insisted: frozenset[str] | None) -> dict[str, dict[str, str]]:
    """Return the routes that are not asked about the past, and those that are although, each with what it adds."""
    if insisted is None:
        return {}
    found: dict[str, dict[str, str]] = {"not_asked": {}, "insisted": {}}
    for router in routers:
        added = router.additions()
        found["insisted"] |= {name: what for name, what in added.items() if name in insisted}
        refused = {name: what for name, what in added.items() if name not in insisted}
        found["not_asked"] |= refused
        if refused and {llm.name for llm in router.routes} <= set(refused):
            names = ", ".join(refused)
            raise ConfigError(
                f"{names} would put {next(iter(refused.values()))} into every prompt, so a backtest on real data would not be"
                f" honest: add a route that does not, such as Anthropic(), or say Backtest(..., insist={sorted(refused)!r})"
            )
    return {name: what for name, what in found.items() if what}


def difference(old: Mapping[str, Any], new: Mapping[str, Any], stream: str) -> str:
    """Return in words how a run differs from the one that the log holds."""
    changed = [name for name in old if name not in ("run", "version", "digest") and old[name] != new[name]]
    return (
        f"the log's stream {stream!r} holds another run: {', '.join(changed)} changed since."
        " Choose another file or another name for the fund; a log is never overwritten"
    )
