"""The heartbeat that a guard inside the terminal watches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agentfund.protocols import Clock

PERIOD_S = 1.0
_log = logging.getLogger("agentfund")


class Pulse:
    """Writes the time every second, as long as the fund's event loop runs and the terminal answers.

    Args:
        write: takes the text, seconds since 1970 UTC; it should replace a file in one step.
        well: says whether the terminal answers.
        clock: where the time comes from.
    """

    def __init__(self, write: Callable[[str], object] | None, well: Callable[[], bool], clock: Clock) -> None:
        self._write, self._well, self._clock = write, well, clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, where it has not begun."""
        if self._write is not None and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._beat(self._write), name="metatrader-pulse")

    async def stop(self) -> None:
        """End; the guard notices in a few seconds."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    async def _beat(self, write: Callable[[str], object]) -> None:
        while True:
            if self._well():
                try:
                    await asyncio.to_thread(write, f"{int(self._clock.now().timestamp())}\n")
                except Exception as error:  # the guard acts on what it does not see; the fund goes on
                    _log.warning("the heartbeat was not written: %s", error)
            await self._clock.sleep(PERIOD_S)
