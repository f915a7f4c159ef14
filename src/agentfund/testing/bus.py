"""The suite that says whether a bus keeps its contract.

Needs pytest and pytest-asyncio::

    class TestMyBus(BusContract):
        def make_bus(self, folder: Path) -> Bus:
            return MyBus(folder / "log")
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, cast

import pytest
import pytest_asyncio

from agentfund.errors import BusError
from agentfund.messages import Message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
    from pathlib import Path

    from agentfund.protocols import Bus, Delivery

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
PATIENCE_S = 10.0


class DeadLetters(Protocol):
    """What a bus offers beyond `Bus` to those who look after its consumers."""

    async def dead_letters(self, group: str) -> Sequence[tuple[Message, str]]:
        """Return what this group gave up on, oldest first, each with the reason."""
        ...


def message(number: int, *, key: str = "k", stream: str = "fund", writer: str = "w") -> Message:
    """Return the message that these arguments name: the same arguments give an equal message."""
    return Message(
        id=f"{writer}-{key}-{number}",
        stream=stream,
        key=key,
        type="Noted",
        payload={"number": number, "text": 'ünï 😀 "quoted" \\ \n', "nested": {"list": [1, 2.5, None, True]}},
        producer=writer,
        time=NOON + timedelta(seconds=number, microseconds=1),
        cycle=number,
        cause=f"cause-{number}",
        appended=NOON + timedelta(days=1, seconds=number),
        token=number % 3,
    )


def faults(published: Iterable[Message], seen: Iterable[Message]) -> list[str]:
    """Return what went wrong between writing and seeing, one sentence each; an empty list is good.

    Args:
        published: what was written, for each key in the order of writing.
        seen: what a reader or a consumer group got, in the order in which it did.
    """
    wrong = []
    place: dict[str, int] = {}
    for number, one in enumerate(published):
        place.setdefault(one.id, number)
    seen = list(seen)
    counts = Counter(one.id for one in seen)
    wrong += [f"{name} was lost" for name in place if name not in counts]
    wrong += [f"{name} came {times} times" for name, times in counts.items() if times > 1]
    wrong += [f"{name} was never published" for name in counts if name not in place]
    newest: dict[str, int] = {}
    for one in seen:
        number = place.get(one.id, -1)
        if number < newest.get(one.key, -1):
            wrong.append(f"{one.id} came after a later message of key {one.key}")
        newest[one.key] = max(number, newest.get(one.key, -1))
    return wrong


async def log(bus: Bus, stream: str | None = None, **how: Any) -> list[Message]:
    """Return what a reading of the bus gives."""
    return [one async for one in bus.read(stream, **how)]


async def take(deliveries: AsyncIterator[Delivery], number: int, *, ack: bool = True) -> list[Delivery]:
    """Take so many deliveries, and answer for them; fails when they do not come."""
    taken = []
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(number):
            taken.append(await anext(deliveries))
            if ack:
                await taken[-1].ack()
    return taken


def consuming(bus: Bus, group: str, stream: str | None = None) -> aclosing[AsyncGenerator[Delivery, None]]:
    """Consume until the end of a `with` block: there the consumer vanishes."""
    return aclosing(cast("AsyncGenerator[Delivery, None]", bus.consume(group, stream)))


@pytest.mark.asyncio
class BusContract:
    """Subclass it in a test module, name the class `Test...`, and give it `make_bus`."""

    def make_bus(self, folder: Path) -> Bus:
        """Return a bus that keeps its log in this folder; asked again, it finds the log of before."""
        raise NotImplementedError("override make_bus(self, folder) and return your bus")

    @pytest_asyncio.fixture
    async def bus(self, tmp_path: Path) -> AsyncIterator[Bus]:
        """Give an empty bus."""
        bus = self.make_bus(tmp_path)
        yield bus
        await bus.close()

    async def test_messages_come_back_as_they_were(self, bus: Bus) -> None:
        """Every field is equal, and offsets count from 1."""
        written = [message(number) for number in range(5)]
        await bus.publish(written)
        assert await log(bus) == [one.at(number) for number, one in enumerate(written, 1)]

    async def test_times_are_aware_and_appended_is_filled_in(self, bus: Bus) -> None:
        """Where the writer gave no append time, the bus does."""
        await bus.publish([replace(message(1), appended=None)])
        (one,) = await log(bus)
        assert one.appended is not None
        assert one.appended.utcoffset() == one.time.utcoffset() == timedelta(0)

    async def test_a_message_is_kept_once_by_its_id(self, bus: Bus) -> None:
        """A retry after a lost acknowledgement changes nothing, within a batch and across."""
        await bus.publish([message(1), message(1), message(2)])
        await bus.publish([message(2), message(3)])
        assert [one.cycle for one in await log(bus)] == [1, 2, 3]

    async def test_publish_returns_the_offset_of_the_last(self, bus: Bus) -> None:
        """Also of one that was there before, and for an empty batch the end of the log."""
        assert await bus.publish([]) == 0
        assert await bus.publish([message(1), message(2)]) == 2
        assert await bus.publish([message(3)], sync=False) == 3
        assert await bus.publish([message(1)]) == 1
        assert await bus.publish([]) == 3

    async def test_a_batch_is_all_or_nothing(self, bus: Bus) -> None:
        """One impossible message, and none of its batch is in the log; the bus goes on."""
        naive = replace(message(2), time=NOON.replace(tzinfo=None))
        with pytest.raises(BusError):
            await bus.publish([message(1), naive, message(3)])
        await bus.publish([message(4)])
        assert [one.cycle for one in await log(bus)] == [4]

    async def test_a_cancelled_publish_leaves_no_half_batch(self, bus: Bus) -> None:
        """Whether it came too late or in time, the bus works on and publishing again is harmless."""
        batch = [message(number) for number in range(10)]
        for _ in range(5):
            task = asyncio.ensure_future(bus.publish(batch))
            await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            assert len(await log(bus)) in (0, 10)
        await bus.publish(batch)
        assert faults(batch, await log(bus)) == []

    async def test_order_is_kept_within_a_key_under_many_writers(self, bus: Bus) -> None:
        """Eight writers at once, each with its key: nothing lost, doubled or reordered."""
        written = [[message(number, key=f"k{writer}") for number in range(30)] for writer in range(8)]

        async def write(batch: list[Message]) -> None:
            for start in range(0, 30, 3):
                await bus.publish(batch[start : start + 3])

        await asyncio.gather(*map(write, written))
        seen = await log(bus)
        assert faults((one for batch in written for one in batch), seen) == []
        assert [one.offset for one in seen] == sorted({one.offset for one in seen})

    async def test_replay_from_any_offset_is_exact(self, bus: Bus) -> None:
        """`after` is exclusive, and beyond the end there is nothing."""
        await bus.publish([message(number) for number in range(20)])
        whole = await log(bus)
        for start in (0, 1, 7, 19, 20, 21):
            assert await log(bus, after=start) == whole[start:]

    async def test_replay_from_a_time_is_exact(self, bus: Bus) -> None:
        """`since` is inclusive, by event time, also where event times do not come in order."""
        numbers = [5, 1, 9, 3, 7, 5, 0, 8]
        await bus.publish([message(number, writer=f"w{place}") for place, number in enumerate(numbers)])
        seen = await log(bus, since=message(5).time)
        assert [one.cycle for one in seen] == [5, 9, 7, 5, 8]
        later = await log(bus, since=message(5).time + timedelta(microseconds=1))
        assert [one.cycle for one in later] == [9, 7, 8]

    async def test_streams_are_kept_apart(self, bus: Bus) -> None:
        """A reader of one stream sees it alone, at its places in the log."""
        await bus.publish([message(number, stream=f"s{number % 2}") for number in range(6)])
        assert [(one.offset, one.cycle) for one in await log(bus, "s1")] == [(2, 1), (4, 3), (6, 5)]
        assert [one.cycle for one in await log(bus, "s0", after=1)] == [2, 4]
        assert await log(bus, "s2") == []

    async def test_the_newest_message_is_found_without_reading(self, bus: Bus) -> None:
        """Of the whole log, of a stream, and none where there is none."""
        assert await bus.last() is None
        await bus.publish([message(number, stream=f"s{number % 2}") for number in range(1, 4)])
        newest = await bus.last()
        assert newest == message(3, stream="s1").at(3)
        assert await bus.last("s1") == newest
        assert await bus.last("s0") == message(2, stream="s0").at(2)
        assert await bus.last("s2") is None

    async def test_a_reader_that_follows_skips_nothing(self, bus: Bus) -> None:
        """Reading on from the last offset while four writers write gives every message once."""
        written = [[message(number, key=f"k{writer}") for number in range(50)] for writer in range(4)]

        async def write(batch: list[Message]) -> None:
            for one in batch:
                await bus.publish([one], sync=False)

        async def follow() -> list[Message]:
            seen: list[Message] = []
            async with asyncio.timeout(PATIENCE_S):
                while len(seen) < 200:
                    seen += await log(bus, after=seen[-1].offset if seen else 0)
                    await asyncio.sleep(0.001)
            return seen

        following = asyncio.ensure_future(follow())
        await asyncio.gather(*map(write, written))
        seen = await following
        assert faults((one for batch in written for one in batch), seen) == []

    async def test_each_group_gets_every_message(self, bus: Bus) -> None:
        """Two groups are independent, and a group of one stream gets that alone."""
        written = [message(number, stream=f"s{number % 2}") for number in range(10)]
        await bus.publish(written)
        for group, stream, expected in (("a", None, written), ("b", None, written), ("a", "s1", written[1::2])):
            async with consuming(bus, group, stream) as deliveries:
                seen = [delivery.message for delivery in await take(deliveries, len(expected))]
            assert faults(expected, seen) == []

    async def test_a_waiting_consumer_gets_what_comes_later(self, bus: Bus) -> None:
        """A consumer of an empty log waits and is told."""
        async with consuming(bus, "g") as deliveries:
            waiting = asyncio.ensure_future(take(deliveries, 1))
            await asyncio.sleep(0.02)
            await bus.publish([message(1)])
            assert [delivery.message.cycle for delivery in await waiting] == [1]

    async def test_consumers_of_a_group_share_the_work_and_keep_the_order(self, bus: Bus) -> None:
        """Three consumers, five keys: each message once, in order within its key."""
        written = [message(number, key=f"k{number % 5}") for number in range(60)]
        seen: list[Message] = []
        everything = asyncio.Event()

        async def work(worker: int) -> None:
            async with consuming(bus, "g") as deliveries:
                async for delivery in deliveries:
                    await asyncio.sleep(0.0005 * worker)
                    seen.append(delivery.message)
                    await delivery.ack()
                    if len(seen) >= len(written):
                        everything.set()

        workers = [asyncio.ensure_future(work(worker)) for worker in range(3)]
        await bus.publish(written)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await everything.wait()
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        assert faults(written, seen) == []

    async def test_a_key_waits_for_its_message_in_work_and_others_do_not(self, bus: Bus) -> None:
        """While one consumer works on a key, another gets other keys only; after the ack the key goes on."""
        await bus.publish([message(1, key="a"), message(2, key="a"), message(3, key="b")])
        async with consuming(bus, "g") as one, consuming(bus, "g") as two:
            (first,) = await take(one, 1, ack=False)
            (other,) = await take(two, 1)
            assert (first.message.cycle, other.message.cycle) == (1, 3)
            await first.ack()
            (second,) = await take(two, 1)
            assert second.message.cycle == 2

    async def test_what_a_vanished_consumer_held_is_handed_over_again(self, bus: Bus) -> None:
        """A consumer that goes without an answer loses nothing, and what it answered for does not come again."""
        written = [message(number) for number in range(4)]
        await bus.publish(written)
        async with consuming(bus, "g") as deliveries:
            await take(deliveries, 2)
            (held,) = await take(deliveries, 1, ack=False)
        async with consuming(bus, "g") as deliveries:
            again = await take(deliveries, 2)
        assert [held.message, again[0].message, again[1].message] == [written[2].at(3), written[2].at(3), written[3].at(4)]
        assert [held.attempt, again[0].attempt, again[1].attempt] == [1, 2, 1]

    async def test_a_late_ack_of_a_message_that_another_has_is_refused(self, bus: Bus) -> None:
        """Who lost its message is told so, and cannot answer for the one who has it now."""
        await bus.publish([message(1), message(2)])
        async with consuming(bus, "g") as deliveries:
            (late,) = await take(deliveries, 1, ack=False)
        async with consuming(bus, "g") as deliveries:
            (now,) = await take(deliveries, 1, ack=False)
            with pytest.raises(BusError, match="another consumer"):
                await late.ack()
            await late.nack("too late as well")
            await now.ack()
            (after,) = await take(deliveries, 1)
        assert (now.message.cycle, after.message.cycle) == (1, 2)

    async def test_a_failed_message_comes_again_and_then_becomes_a_dead_letter(self, bus: Bus) -> None:
        """It comes again before its successors; after too many tries it is put aside with the reason."""
        await bus.publish([message(1), message(2)])
        attempts = []
        async with consuming(bus, "g") as deliveries:
            async with asyncio.timeout(PATIENCE_S):
                async for delivery in deliveries:
                    if delivery.message.cycle == 2:
                        await delivery.ack()
                        break
                    attempts.append(delivery.attempt)
                    await delivery.nack(f"failed {delivery.attempt}")
        assert attempts == list(range(1, len(attempts) + 1))
        assert len(attempts) > 1
        letters = cast("DeadLetters", bus)
        assert await letters.dead_letters("g") == [(message(1).at(1), f"failed {len(attempts)}")]
        assert await letters.dead_letters("another") == []

    async def test_what_waits_for_a_group_can_be_counted(self, bus: Bus) -> None:
        """What it has not answered for, of one stream or of all; also before it ever came."""
        if not hasattr(bus, "backlog"):
            pytest.skip("this bus does not count what waits")
        await bus.publish([message(number, stream=f"s{number % 2}", key=f"k{number}") for number in range(6)])
        assert (await bus.backlog("g"), await bus.backlog("g", "s1")) == (6, 3)
        async with consuming(bus, "g", "s1") as deliveries:
            await take(deliveries, 1)
            (held,) = await take(deliveries, 1, ack=False)
            assert await bus.backlog("g", "s1") == 2
            await held.ack()
        assert (await bus.backlog("g"), await bus.backlog("g", "s1")) == (6, 1)

    async def test_a_log_outlives_its_bus(self, bus: Bus, tmp_path: Path) -> None:
        """Opened again, the log and the places of its groups are as they were."""
        if bus.durability == "none":
            pytest.skip("this bus promises no durability")
        written = [message(number) for number in range(6)]
        await bus.publish(written)
        async with consuming(bus, "g") as deliveries:
            await take(deliveries, 4)
        await bus.close()
        again = self.make_bus(tmp_path)
        try:
            assert await log(again) == [one.at(number) for number, one in enumerate(written, 1)]
            async with consuming(again, "g") as deliveries:
                assert [delivery.message.cycle for delivery in await take(deliveries, 2)] == [4, 5]
        finally:
            await again.close()
