"""The scenes of one fund as a worker follows them on the log."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from agentfund.workers.scenes import understand
from agentfund.workers.words import SHOWN, scenes

if TYPE_CHECKING:
    from agentfund.market import Market
    from agentfund.protocols import Bus

_log = logging.getLogger("agentfund")
_KEPT = 16


class Theatre:
    """Gives the market of a scene, reading no more of the log than is new.

    Args:
        bus: the log.
        fund: whose scenes.
    """

    def __init__(self, bus: Bus, fund: str) -> None:
        self._bus = bus
        self._stream = scenes(fund)
        self._seen: OrderedDict[str, tuple[int, Market]] = OrderedDict()  # by id: several runs may show on one stream
        self._lock = asyncio.Lock()

    async def at(self, scene: str, offset: int, base: int) -> Market:
        """Return the market of a scene.

        Args:
            scene: its id.
            offset: its place in the log.
            base: place of a scene up to it that tells all bars, and to which it is chained.

        Raises:
            KeyError: there is no such scene, or one that it is chained to is missing.
            BusUnavailable: the log cannot be read now.
        """
        async with self._lock:  # several agents ask for the same scene
            newest = max((place for place, _ in self._seen.values() if base <= place < offset), default=0)
            for start in dict.fromkeys((newest or base - 1, base - 1)):
                if scene not in self._seen:
                    await self._follow(start, offset)
            if scene not in self._seen:
                raise KeyError(f"the log has no scene {scene} that follows from the one at {base}")
            return self._seen[scene][1]

    async def _follow(self, start: int, offset: int) -> None:
        async for message in self._bus.read(self._stream, after=start):
            before = message.payload.get("after") if message.type == SHOWN else None
            if before == "" or before in self._seen:
                try:
                    market = understand(message.payload, self._seen[before][1] if before else None)
                except Exception as error:  # whatever stands in it; who asks about it is told that it is missing
                    _log.warning("%s, message %s: %s: %s", self._stream, message.offset, type(error).__name__, error)
                    continue
                self._seen[message.id] = message.offset, market
                while len(self._seen) > _KEPT:
                    self._seen.popitem(last=False)
            if message.offset >= offset:
                break
