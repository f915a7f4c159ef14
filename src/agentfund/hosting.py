"""A worker for the command line: its agents, its language models, its log, and an end that leaves nothing half done."""

from __future__ import annotations

import asyncio
import signal
from contextlib import nullcontext, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from agentfund.buses.urls import open_bus, without_password
from agentfund.core.agent import Agent
from agentfund.core.safety import SafetyLimits
from agentfund.errors import BusError, ConfigError
from agentfund.terminal import say
from agentfund.workers import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentfund.protocols import LLM, Bus
    from agentfund.workers.metrics import Meter

DESK = "desk"
"""Where agents are looked for when nothing else is said."""

SLACK_S = 3.0
"""How much longer a question is held for this process than an agent may work on it."""


def chosen(names: str, of: str, llm: LLM | None) -> list[Agent[Any]]:
    """Return the agents that --agents names, out of those that --of gives.

    Args:
        names: names of agents, comma between them; all means every one.
        of: `desk`, `module:name` or `file.py:name` of a list of agents, or of a function that takes the language model (None
            where none was given) and returns one.
        llm: the language model.

    Raises:
        ConfigError: there are no such agents.
    """
    found = _crew(of, llm)
    by_name = {agent.name: agent for agent in found}
    if names == "all":
        return found
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in by_name]:
        raise ConfigError(f"--agents {unknown[0]}: {of} has no such agent; it has {', '.join(by_name)}")
    if not wanted:
        raise ConfigError(f"--agents names nobody: give all, or some of {', '.join(by_name)}")
    return [by_name[name] for name in dict.fromkeys(wanted)]


def _crew(of: str, llm: LLM | None) -> list[Agent[Any]]:
    from agentfund.specialists.desk import desk

    if of == DESK:
        return desk(llm)
    from agentfund.backtest.audits.command import load, ran

    made = ran(load(of), f"--of {of}")(llm)
    crew = list(made) if isinstance(made, (list, tuple)) else [made]
    if not crew or not all(isinstance(agent, Agent) for agent in crew):
        raise ConfigError(f"--of {of} gives {type(made).__name__}; it must give a list of agents")
    return crew


def host(
    agents: Sequence[Agent[Any]], address: str, *, concurrency: int, time_limit_s: float, metrics_port: int | None = None
) -> int:
    """Host agents until the process is told to end (Ctrl-C or SIGTERM); return how many questions were answered.

    What it works on when it is told to end is handed back at once, for another worker.

    Raises:
        BusError: the log cannot be used.
        ConfigError: an agent cannot be hosted, or the port of the metrics is taken.
        MissingExtra: metrics are wanted, and their package is not installed.
    """
    from agentfund.workers.metrics import Meter

    limits = SafetyLimits(time_limit_s=time_limit_s)
    lease = timedelta(seconds=time_limit_s + SLACK_S)
    bus = open_bus(address, lease=lease)
    meter = Meter(bus, [agent.name for agent in agents]) if metrics_port is not None else None
    worker = Worker(agents, bus=bus, limits=limits, concurrency=concurrency, meter=meter)
    with meter.served(metrics_port) if meter is not None and metrics_port is not None else nullcontext():
        asyncio.run(_until_told(worker, bus, address, meter))
    return worker.answered


async def _until_told(worker: Worker, bus: Bus, address: str, meter: Meter | None) -> None:
    loop, working = asyncio.get_running_loop(), asyncio.ensure_future(worker.run())
    looking = asyncio.ensure_future(meter.look()) if meter is not None else None
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # not on every system; Ctrl-C is a KeyboardInterrupt there
            loop.add_signal_handler(number, working.cancel)
    try:
        await bus.last()  # so that an address that does not work is told now, not at the first question
        say(f"worker: {', '.join(worker.agents)} wait for questions on {without_password(address)}; Ctrl-C ends it")
        with suppress(asyncio.CancelledError):
            await working
    finally:
        for task in (working, looking):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError, BusError):
                    await task
        await bus.close()
