"""A fund on live data until it is told to end: what it shows meanwhile, and what it says at the end."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import deque
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

from agentfund.core.session import closing
from agentfund.live.board import left, line, sections
from agentfund.terminal import print_line, say, tables
from agentfund.watchdog.heart import Heart

if TYPE_CHECKING:
    from pathlib import Path

    from agentfund.core.orchestrator import Orchestrator
    from agentfund.core.session import Session
    from agentfund.protocols import Broker, Feed
    from agentfund.trading import Decision

REFRESH_S = 0.5
KEPT = 20


async def run(
    fund: Orchestrator, feed: Feed, broker: Broker, *, folder: Path, table: bool | None = None, cycles: int | None = None
) -> int:
    """Run a fund until its feed ends, or the process is told to end (Ctrl-C or SIGTERM).

    Stops and targets stay where they are. What is left is said at the end.

    Args:
        fund: the fund.
        feed: live data.
        broker: where orders go.
        folder: where its watchdog looks for its heartbeat.
        table: whether to show tables that change in place; where stdout is a terminal by default.
        cycles: after how many cycles to end by itself.

    Returns:
        How many decisions were made.
    """
    session = fund.session(feed, broker)
    decisions: deque[Decision] = deque(maxlen=KEPT)
    count = 0
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # not on every system; Ctrl-C is a KeyboardInterrupt there
            loop.add_signal_handler(number, told.set)
    shows = sys.stdout.isatty() if table is None else table
    try:
        async with AsyncExitStack() as stack:
            if folder.is_dir():  # where nobody watches nobody listens
                stack.push_async_callback(_end, asyncio.ensure_future(Heart(folder).keep(lambda: session.pulse)))
            if shows:
                stack.push_async_callback(_end, asyncio.ensure_future(_show(session, decisions)))
            steps = await stack.enter_async_context(closing(session.steps()))
            ended = asyncio.ensure_future(told.wait())
            stack.push_async_callback(_end, ended)
            while cycles is None or session.cycle < cycles:
                step = asyncio.ensure_future(_next(steps))
                await asyncio.wait({step, ended}, return_when=asyncio.FIRST_COMPLETED)
                if not step.done():
                    while session.pulse.stage == "ordering" and not step.done():  # an order under way gets its answer
                        await asyncio.wait({step}, timeout=0.05)
                    step.cancel()
                    await asyncio.gather(step, return_exceptions=True)
                    break
                more, decision = step.result()
                if not more:
                    break
                if decision is not None:
                    count += 1
                    decisions.append(decision)
                    if not shows:
                        print_line(line(decision))
                        sys.stdout.flush()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
        for sentence in left(session):
            say(sentence)
        close = getattr(broker, "close", None)
        if close is not None:
            await close()
    return count


async def _next(steps: Any) -> tuple[bool, Decision | None]:
    try:
        return True, await anext(steps)
    except StopAsyncIteration:
        return False, None


async def _end(task: asyncio.Future[Any]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _show(session: Session, decisions: deque[Decision]) -> None:
    with tables() as show:
        while True:
            show(sections(session, tuple(decisions)))
            await asyncio.sleep(REFRESH_S)
