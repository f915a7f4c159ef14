"""The suite must tell right from wrong: three broken buses, and which of its tests find them out."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from agentfund.buses import MemoryBus
from agentfund.messages import Message
from agentfund.testing.bus import BusContract, faults, message


class Forgetful(MemoryBus):
    """Reads from an offset as if it were inclusive of what it should skip, and loses the row after it."""

    async def read(
        self, stream: str | None = None, *, after: int = 0, since: datetime | None = None
    ) -> AsyncGenerator[Message, None]:
        async for one in super().read(stream, after=after, since=since):
            if after == 0 or one.offset != after + 1:
                yield one


class Doubling(MemoryBus):
    """Keeps a retried message twice, as a log without unique ids does."""

    async def publish(self, messages: Sequence[Message], *, sync: bool = True) -> int:
        self._offsets.clear()
        return await super().publish(messages, sync=sync)


class Halving(MemoryBus):
    """Writes a batch one by one, so that a failure leaves half of it."""

    async def publish(self, messages: Sequence[Message], *, sync: bool = True) -> int:
        last = len(self._stamps)
        for one in messages:
            last = await super().publish([one], sync=sync)
        return last


async def failures(kind: type[MemoryBus], folder: Path) -> set[str]:
    """Run the suite against a bus and return the names of the tests that fail."""

    class Suite(BusContract):
        def make_bus(self, folder: Path) -> MemoryBus:
            return kind()

    failed = set()
    for name, test in inspect.getmembers(Suite(), inspect.iscoroutinefunction):
        if name.startswith("test_"):
            bus = kind()
            more: dict[str, Any] = {"tmp_path": folder} if "tmp_path" in inspect.signature(test).parameters else {}
            try:
                await test(bus=bus, **more)
            except (Exception, pytest.fail.Exception):
                failed.add(name)
            except pytest.skip.Exception:
                pass
            await bus.close()
    return failed


async def test_the_suite_passes_a_bus_that_works(tmp_path: Path) -> None:
    """No false alarm."""
    assert await failures(MemoryBus, tmp_path) == set()


@pytest.mark.parametrize(
    ("kind", "found_by"),
    [
        (Forgetful, "test_replay_from_any_offset_is_exact"),
        (Doubling, "test_a_message_is_kept_once_by_its_id"),
        (Halving, "test_a_batch_is_all_or_nothing"),
    ],
)
async def test_the_suite_finds_a_broken_bus_out(kind: type[MemoryBus], found_by: str, tmp_path: Path) -> None:
    """Each fault fails the test that is there for it."""
    assert found_by in await failures(kind, tmp_path)


def test_the_checker_names_what_was_lost_doubled_reordered_and_invented() -> None:
    """One sentence for each fault, none for other orders between keys."""
    a, b, c = (message(number) for number in (1, 2, 3))
    other = message(1, key="other")
    assert faults([a, b, other], [other, a, b]) == []
    assert faults([a, b], [a]) == ["w-k-2 was lost"]
    assert faults([a], [a, a]) == ["w-k-1 came 2 times"]
    assert faults([a, b], [b, a]) == ["w-k-1 came after a later message of key k"]
    assert faults([a], [a, c])[0] == "w-k-3 was never published"
