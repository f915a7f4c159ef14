"""A broker in memory that keeps an order of frames and nothing else, and lines to it with the faults of networks."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator
from typing import Any

from agentfund.buses.mirrored import MirroredBus
from agentfund.buses.ordered import Frame
from agentfund.errors import BusUnavailable
from agentfund.messages import Durability


class Broker:
    """An ordered sequence of frames, for all loops and threads that use it."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.read = 0
        self.followers = 0
        self._cuts = 0
        self._bells: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def append(self, data: bytes) -> int:
        """Append a frame; return its place."""
        self.frames.append(data)
        place = len(self.frames) - 1
        self._ring()
        return place

    def cut(self) -> None:
        """End all that is followed."""
        self._cuts += 1
        self._ring()

    async def follow(self, after: int) -> AsyncGenerator[Frame, None]:
        """Give all frames beyond a place, then those that come."""
        bell = (asyncio.get_running_loop(), asyncio.Event())
        self._bells.add(bell)
        self.followers += 1
        cuts = self._cuts
        try:
            while True:
                bell[1].clear()
                while after + 1 < len(self.frames):
                    after += 1
                    self.read += 1
                    yield Frame(after, self.frames[after])
                if self._cuts != cuts:
                    raise BusUnavailable("the follower was cut")
                await bell[1].wait()
        finally:
            self.followers -= 1
            self._bells.discard(bell)

    def parts(self) -> list[str]:
        """Return the kinds of all parts of all frames, in their order."""
        heads = [json.loads(frame.partition(b"\n")[0]) for frame in self.frames]
        return [part[0] for head in heads for part in head.get("parts", [["piece"]])]

    def _ring(self) -> None:
        for loop, bell in tuple(self._bells):
            if not loop.is_closed():
                loop.call_soon_threadsafe(bell.set)


class Line:
    """One bus's line to the broker.

    Args:
        broker: where it leads.
        level: what the broker promises.
    """

    home = "list://frames"

    def __init__(self, broker: Broker, level: Durability = "process") -> None:
        self.broker = broker
        self.level = level

    async def connect(self) -> Durability:
        return self.level

    async def append(self, data: bytes) -> int | None:
        await asyncio.sleep(0)
        return self.broker.append(data)

    async def end(self) -> int:
        return len(self.broker.frames) - 1

    def follow(self, after: int) -> AsyncGenerator[Frame, None]:
        return self.broker.follow(after)

    async def close(self) -> None:
        return


class FaultyLine(Line):
    """A line on which everything goes wrong that can: frames and acknowledgements are lost, doubled, late, out of order.

    Args:
        broker: where it leads.
        dice: what goes wrong.
    """

    def __init__(self, broker: Broker, dice: random.Random) -> None:
        super().__init__(broker)
        self.dice = dice
        self.calm = False

    async def append(self, data: bytes) -> int | None:
        if self.calm:
            return self.broker.append(data)
        await asyncio.sleep(self.dice.choice((0, 0, 0.0005, 0.002)))
        fault = self.dice.randrange(16)
        if fault == 0:
            raise BusUnavailable("the frame was lost")
        if fault == 1:  # it comes when its writer has given it up
            asyncio.get_running_loop().call_later(0.01, self.broker.append, data)
            raise BusUnavailable("the frame is late")
        place = self.broker.append(data)
        if fault == 2:
            raise BusUnavailable("the acknowledgement was lost")
        if fault == 3:
            return self.broker.append(data)
        if fault == 4:
            self.broker.append(data)
        if fault == 5:
            asyncio.get_running_loop().call_later(0.005, self.broker.append, data)
        if fault == 6:
            self.broker.cut()
        return None if fault == 7 else place


class Rigged(random.Random):
    """Dice that always show the same."""

    def __init__(self, shown: int) -> None:
        super().__init__(0)
        self.shown = shown

    def randrange(self, *_: object) -> int:
        return self.shown


LOST_ACKNOWLEDGEMENT, LATE = Rigged(2), Rigged(1)


def tables(bus: MirroredBus) -> dict[str, Any]:
    """Return all that a bus's mirror holds."""
    mirror = bus._mirror
    assert mirror is not None
    names = ("messages", "groups", "pending", "dead_letters", "parked", "pieces")
    held = {name: mirror.rows(f"SELECT * FROM {name} ORDER BY 1, 2") for name in names}
    return {**held, "place": mirror.place, "log": mirror.log, "numbers": mirror._numbers}
