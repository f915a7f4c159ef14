"""What `agentfund rerun` does: the run out of the log, the same bars, agents and limits as the options say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from agentfund.backtest.audits.command import load, ran
from agentfund.buses.memory import MemoryBus
from agentfund.core.agent import Agent
from agentfund.core.consensus import Consensus
from agentfund.core.gate import Limits
from agentfund.core.orchestrator import Orchestrator
from agentfund.core.sizing import Sizing
from agentfund.errors import ConfigError
from agentfund.replays.counterfactual import Counterfactual, counterfactual
from agentfund.replays.exact import Exact, exact
from agentfund.replays.recorded import Recorded
from agentfund.replays.roles import cast
from agentfund.replays.settings import settings_of
from agentfund.specialists.desk import desk
from agentfund.strategies import Strategy

if TYPE_CHECKING:
    from pathlib import Path

    from agentfund.feeds.history import Bars
    from agentfund.protocols import LLM, Bus
    from agentfund.replays.answers import Ask
    from agentfund.replays.stage import Moment, Progress

_PARTS = {"limits": Limits, "sizing": Sizing, "consensus": Consensus}
_SWITCHES = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


def rerun(
    bus: Bus,
    fund: str,
    feed: Bars,
    *,
    agents: str,
    limits: Sequence[str],
    changed: Sequence[str],
    unchanged: Sequence[str],
    ask: Ask,
    window: tuple[Moment, Moment],
    llm: LLM | None = None,
    html: Path | None = None,
    progress: Progress | None = None,
) -> Exact | Counterfactual:
    """Rerun what is on a log: exactly where nothing is changed, else as it would have been.

    Args:
        bus: the log; it is closed.
        fund: the fund's name, where the log holds several.
        feed: a file of bars; where it holds more than the run saw, the rest is left out.
        agents: who plays, as for a backtest; empty for the agents of the log, none of which counts as changed.
        limits: settings that are changed, `name=value`.
        changed: names of agents that are asked whatever their descriptions say.
        unchanged: names of agents that are not asked, whatever they say.
        ask: whether other agents are asked too where what they look at changed.
        window: first and last cycle.
        llm: the language models that agents are given.
        html: where a page with both runs goes.
        progress: called with (cycles done, cycles in all) now and then.

    Raises:
        ConfigError: the options do not fit together, or do not fit the log.
    """

    async def run() -> Exact | Counterfactual:
        try:
            recorded = await Recorded.read(bus, fund)
            bars = cut(feed, recorded)
            players = _agents(agents or "desk", llm, bars)
            names = [player.name for player in players]
            known = [str(card["name"]) for card in recorded.started.agents]
            if not agents and names != known:
                raise ConfigError(
                    f"the log is of {', '.join(known)}, not of the desk: say with --agents where they are, such as --agents sma"
                )
            routes = {str(card["answers_by"]) for card in recorded.started.agents} - {"rules", "function"}
            if not (agents or limits or changed) and routes and llm is None:
                raise ConfigError(
                    f"the run's agents answer by {', '.join(sorted(routes))}: give the --llm of the run; nobody is asked"
                )
            if not (limits or changed) and (not agents or _are_those(players, recorded)):
                if html is not None:
                    raise ConfigError("--html shows what was changed, and nothing is: give --agents, --limits or --changed")
                return await exact(recorded, players, bars, window=window, progress=progress)
            same = list(unchanged) if agents else [name for name in names if name not in changed]
            found = await counterfactual(
                recorded,
                players,
                bars,
                **settings(limits, recorded),
                changed=changed,
                unchanged=same,
                ask=ask,
                window=window,
                progress=progress,
            )
            if html is not None:
                _write(html, found.html())
            return found
        finally:
            await bus.close()

    return asyncio.run(run())


def cut(feed: Bars, recorded: Recorded) -> Bars:
    """Return the part of a feed that a recorded run saw, where that is a part; else the feed."""
    told = recorded.started.feed.get("fingerprint")
    if recorded.live or feed.fingerprint == told:
        return feed
    with suppress(ValueError):  # there is no such part; what differs is said later
        part = feed.between(recorded.begun, recorded.last)
        if part.fingerprint == told:
            return part
    return feed


def settings(given: Sequence[str], recorded: Recorded) -> dict[str, Any]:
    """Return limits, sizing and consensus that differ from the recorded ones as `name=value` says.

    `name` is a limit, or `sizing.` or `consensus.` and a name.

    Raises:
        ConfigError: there is no such setting, or the value does not fit.
    """
    found: dict[str, Any] = settings_of(recorded.started)._asdict()
    touched: dict[str, Any] = {}
    for one in given:
        path, equals, text = one.partition("=")
        what, dot, name = path.strip().rpartition(".")
        part = what if dot else "limits"
        if not equals or part not in _PARTS or name not in {field.name for field in fields(_PARTS[part])}:
            there = ", ".join(field.name for field in fields(Limits))
            raise ConfigError(
                f"--limits {one}: write NAME=VALUE, where NAME is one of {there}, or sizing.NAME or consensus.NAME"
            )
        touched[part] = replace(
            touched.get(part, found[part]), **{name: _value(one, asdict(_PARTS[part]())[name], text.strip())}
        )
    return touched


def _value(given: str, usual: Any, text: str) -> Any:
    if isinstance(usual, frozenset):
        return frozenset(part.strip() for part in text.split(",") if part.strip())
    if isinstance(usual, bool):
        if text.lower() not in _SWITCHES:
            raise ConfigError(f"--limits {given}: write on or off")
        return _SWITCHES[text.lower()]
    kinds: tuple[Callable[[str], int | float], ...] = (int, float)
    for kind in kinds:  # as Python reads it, so that it is the same as in Limits(...)
        with suppress(ValueError):
            return kind(text)
    raise ConfigError(f"--limits {given}: {text!r} is no number")


def names(text: str) -> tuple[str, ...]:
    """Return names with commas between them."""
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _write(path: Path, page: str) -> None:
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}; give another --html") from None


def _are_those(players: Sequence[Agent[Any]], recorded: Recorded) -> bool:
    """Whether agents are those of the recorded run, by their descriptions."""
    described = Orchestrator(players, bus=MemoryBus()).describe()["agents"]
    compared = cast(recorded.started.agents, described)
    return not (compared.changed or compared.removed or compared.notes)


def _agents(what: str, llm: LLM | None, feed: Bars) -> list[Agent[Any]]:
    if what == "desk":
        return desk(llm)
    made = ran(load(what), f"--agents {what}")(feed)
    if isinstance(made, Strategy):
        return [made] if llm is None else desk(llm, strategist=made)
    if isinstance(made, Agent):
        return [made]
    if isinstance(made, (list, tuple)) and all(isinstance(each, Agent) for each in made):
        return list(made)
    raise ConfigError(f"--agents {what} gives {type(made).__name__}; it must give a strategy, or a list of agents")
