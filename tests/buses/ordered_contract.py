"""The suite that says whether something is an ordered log of frames, and the smallest thing that is one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from typing import TypeVar, cast

import pytest
import pytest_asyncio

from agentfund.buses.frames import LARGEST
from agentfund.buses.ordered import Frame, Ordered
from agentfund.errors import BusUnavailable
from agentfund.messages import Durability

PATIENCE_S = 40.0
T = TypeVar("T")


def following(log: Ordered, after: int = -1) -> aclosing[AsyncGenerator[Frame, None]]:
    """Follow until the end of a `with` block."""
    return aclosing(cast("AsyncGenerator[Frame, None]", log.follow(after)))


async def take(frames: AsyncIterator[Frame], number: int) -> list[Frame]:
    """Take so many frames; fails when they do not come."""
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(frames) for _ in range(number)]


async def insist(work: Callable[[], Awaitable[T]]) -> T:
    """Do it until the broker serves."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(BusUnavailable):
                return await work()
            await asyncio.sleep(0.05)


async def first(log: Ordered, number: int) -> list[Frame]:
    """Return the first frames of a log."""
    async with following(log) as frames:
        return await take(frames, number)


@pytest.mark.asyncio
class OrderedContract:
    """Subclass it in a test module, name the class `Test...`, and give it `make` and `gone`."""

    def make(self) -> Ordered:
        """Return a log that is empty at the beginning of the test; asked again, another object for the same log."""
        raise NotImplementedError

    def gone(self) -> AbstractAsyncContextManager[None]:
        """Keep the broker away from all its clients until the end of the `with` block; it loses nothing."""
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def ordered(self) -> AsyncIterator[Ordered]:
        """Give an empty log."""
        ordered = self.make()
        await ordered.connect()
        yield ordered
        await ordered.close()

    async def test_frames_come_in_the_order_in_which_they_were_appended(self, ordered: Ordered) -> None:
        """Their places grow, and where `append` tells one it is the frame's."""
        told = [await ordered.append(b"%d" % number) for number in range(20)]
        frames = await first(ordered, 20)
        assert [frame.data for frame in frames] == [b"%d" % number for number in range(20)]
        places = [frame.place for frame in frames]
        assert places == sorted(set(places))
        assert told in (places, [None] * 20)

    async def test_the_end_of_an_empty_log_is_before_its_beginning(self, ordered: Ordered) -> None:
        """However often one asks; and to ask adds nothing that a reader would see."""
        assert [await ordered.end() for _ in range(3)] == [-1, -1, -1]
        await ordered.append(b"first")
        (frame,) = await first(ordered, 1)
        assert frame.data == b"first"
        assert [await ordered.end() for _ in range(3)] == [frame.place] * 3
        assert await asyncio.gather(*(ordered.end() for _ in range(5))) == [frame.place] * 5

    async def test_the_end_is_known_to_who_comes_later(self, ordered: Ordered) -> None:
        """Another object finds the end, also where its like was asked for many times since the last frame."""
        await ordered.append(b"a")
        await ordered.append(b"b")
        last = (await first(ordered, 2))[-1].place
        for _ in range(100):
            await ordered.end()
        other = self.make()
        await other.connect()
        assert await other.end() == last
        await other.close()

    async def test_what_was_appended_lies_before_the_end_at_once(self, ordered: Ordered) -> None:
        """Asked right after an append, by whoever, the end is not before that frame."""
        ends: dict[bytes, int] = {}

        async def append(log: Ordered, asked: Ordered, name: str) -> None:
            for number in range(15):
                data = f"{name}{number}".encode()
                await log.append(data)
                ends[data] = await asked.end()

        other = self.make()
        await other.connect()
        await asyncio.gather(
            *(append(*pair, name) for pair, name in zip([(ordered, other), (other, ordered)] * 2, "abcd", strict=True))
        )
        places = {frame.data: frame.place for frame in await first(ordered, 60)}
        await other.close()
        assert [data for data, end in ends.items() if end < places[data]] == []
        assert max(ends.values()) == max(places.values()) == await ordered.end()

    async def test_followers_skip_nothing_while_eight_append(self, ordered: Ordered) -> None:
        """Two followers see the same, all of it, and each writer's frames in the writer's order."""
        logs = [ordered, *(self.make() for _ in range(3))]
        for log in logs:
            await log.connect()

        async def append(writer: int) -> None:
            for number in range(25):
                await logs[writer % 4].append(b"%d %d" % (writer, number))

        async with following(logs[1]) as one, following(logs[2]) as two:
            seen = [asyncio.ensure_future(take(frames, 200)) for frames in (one, two)]
            await asyncio.gather(*map(append, range(8)))
            left, right = await asyncio.gather(*seen)
        for log in logs[1:]:
            await log.close()
        assert left == right
        for writer in range(8):
            mine = [frame.data for frame in left if frame.data.startswith(b"%d " % writer)]
            assert mine == [b"%d %d" % (writer, number) for number in range(25)]

    async def test_a_follower_goes_on_from_any_place(self, ordered: Ordered) -> None:
        """`after` is exclusive, also where many frames lie beyond it."""
        await asyncio.gather(*(ordered.append(b"%d" % number) for number in range(300)))
        frames = await first(ordered, 300)
        for start in (0, 7, 150, 298):
            async with following(ordered, frames[start].place) as rest:
                assert await take(rest, 299 - start) == frames[start + 1 :]

    async def test_a_follower_that_waits_gets_what_comes_later(self, ordered: Ordered) -> None:
        """From the end of the log, and of an empty one."""
        async with following(ordered) as frames:
            waiting = asyncio.ensure_future(take(frames, 1))
            await asyncio.sleep(0.02)
            await ordered.append(b"one")
            (one,) = await waiting
        async with following(ordered, one.place) as frames:
            waiting = asyncio.ensure_future(take(frames, 1))
            await asyncio.sleep(0.02)
            await ordered.append(b"two")
            assert [frame.data for frame in await waiting] == [b"two"]

    async def test_bytes_come_back_as_they_were(self, ordered: Ordered) -> None:
        """Every value of a byte, no bytes at all, and as many as are ever appended at once."""
        written = [bytes(range(256)), b"", b"\0", b"\n", b"\xff\xfe", random.Random(1).randbytes(LARGEST + 200), b"last"]
        for data in written:
            await ordered.append(data)
        assert [frame.data for frame in await first(ordered, len(written))] == written

    async def test_a_cancelled_append_harms_nobody(self, ordered: Ordered) -> None:
        """Its frame is there or it is not; others go on."""
        for number in range(20):
            task = asyncio.ensure_future(ordered.append(b"cancelled"))
            await asyncio.sleep(0.0002 * (number % 5))
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await ordered.append(b"%d" % number)
        seen: list[bytes] = []
        async with following(ordered) as frames:
            async with asyncio.timeout(PATIENCE_S):
                while not seen or seen[-1] != b"19":
                    seen.append((await anext(frames)).data)
        assert [data for data in seen if data != b"cancelled"] == [b"%d" % number for number in range(20)]
        assert seen.count(b"cancelled") <= 20

    async def test_one_object_serves_two_event_loops(self, ordered: Ordered) -> None:
        """At once and one after another, each with connections of its own."""

        async def elsewhere() -> list[Frame]:
            await ordered.connect()
            for number in range(10):
                await ordered.append(b"elsewhere %d" % number)
            frames = await first(ordered, 10)
            await ordered.close()
            return frames

        there = asyncio.ensure_future(asyncio.to_thread(asyncio.run, elsewhere()))
        for number in range(10):
            await ordered.append(b"here %d" % number)
        await there
        frames = await first(ordered, 20)
        assert (await asyncio.to_thread(asyncio.run, elsewhere())) == frames[:10]
        await ordered.append(b"last")
        assert {frame.data for frame in await first(ordered, 31)} >= {b"here 0", b"elsewhere 9", b"last"}

    async def test_what_was_appended_outlives_its_object(self, ordered: Ordered) -> None:
        """Closing twice is harmless, and leaves no task behind."""
        await ordered.append(b"kept")
        before = asyncio.all_tasks()
        other = self.make()
        assert await other.connect() == await ordered.connect()
        await other.append(b"by another")
        assert [frame.data for frame in await first(other, 2)] == [b"kept", b"by another"]
        await other.close()
        await other.close()
        async with asyncio.timeout(PATIENCE_S):
            while asyncio.all_tasks() - before:
                await asyncio.sleep(0.01)

    async def test_the_way_back_after_the_broker_was_gone(self, ordered: Ordered) -> None:
        """While it is gone nobody knows what became of an append; afterwards all goes on by itself, with no gap."""
        await ordered.append(b"before")
        reader = self.make()  # it only asks for the end
        await reader.end()
        async with following(ordered) as frames:
            (before,) = await take(frames, 1)
            waiting = asyncio.ensure_future(take(frames, 1))
            async with self.gone():
                with pytest.raises(BusUnavailable, match="reached"):
                    await ordered.append(b"unknown")
                for log in (ordered, reader):
                    with pytest.raises(BusUnavailable, match="reached"):
                        await log.end()
            after = [b"after %d" % number for number in range(5)]
            await insist(lambda: ordered.append(b"probe"))
            for data in after:
                await ordered.append(data)
            seen = await waiting
            async with asyncio.timeout(PATIENCE_S):
                while seen[-1].data != after[-1]:
                    seen.append(await anext(frames))
        assert [frame.data for frame in seen if frame.data not in (b"unknown", b"probe")] == after
        assert await first(ordered, len(seen) + 1) == [before, *seen]
        assert await insist(reader.end) == await ordered.end()
        await reader.close()


class Shelf:
    """What a broker keeps: a list, and whether anybody can get at it."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.open = True


class ShelfLog:
    """The smallest `Ordered`: a list in memory, which survives nothing."""

    home = "the shelf"

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def connect(self) -> Durability:
        return "none"

    async def append(self, data: bytes) -> int | None:
        frames = await self._reach()
        frames.append(data)
        return len(frames) - 1

    async def end(self) -> int:
        return len(await self._reach()) - 1

    async def follow(self, after: int) -> AsyncIterator[Frame]:
        while True:
            frames = self._shelf.frames if self._shelf.open else []
            while after + 1 < len(frames):
                after += 1
                yield Frame(after, frames[after])
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        return

    async def _reach(self) -> list[bytes]:
        await asyncio.sleep(0)
        if not self._shelf.open:
            raise BusUnavailable("the shelf cannot be reached")
        return self._shelf.frames


@asynccontextmanager
async def shut(shelf: Shelf) -> AsyncIterator[None]:
    """Shut a shelf for the length of the `with` block."""
    shelf.open = False
    yield
    shelf.open = True
