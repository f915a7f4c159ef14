"""The scenes of one fund as a worker follows them on the log."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

from agentfund.workers.scenes import understand
from agentfund.workers.words import SHOWN, scenes

if TYPE_CHECKING:
    from agentfund.market import Market
    from agentfund.protocols import Bus

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
        self._seen: OrderedDict[int, tuple[str, Market]] = OrderedDict()
        self._lock = asyncio.Lock()

    async def at(self, offset: int, base: int) -> Market:
        """Return the market of the scene at an offset.

        Args:
            offset: its place in the log.
            base: place of a scene up to it that tells all bars.

        Raises:
            KeyError: no scene lies there, or one that it is chained to is missing.
            BusUnavailable: the log cannot be read now.
        """
        async with self._lock:  # several agents ask for the same scene
            if offset in self._seen:
                return self._seen[offset][1]
            start = max((known for known in self._seen if base <= known < offset), default=0)
            name, market = self._seen[start] if start else ("", None)
            async for message in self._bus.read(self._stream, after=start or base - 1):
                if message.type == SHOWN and message.payload["after"] in ("", name):  # others are of another run
                    market = understand(message.payload, market if message.payload["after"] else None)
                    name = message.id
                    self._seen[message.offset] = name, market
                    while len(self._seen) > _KEPT:
                        self._seen.popitem(last=False)
                if message.offset >= offset:
                    break
            if offset not in self._seen:
                raise KeyError(f"the log has no scene at {offset} that follows from the one at {base}")
            return self._seen[offset][1]
