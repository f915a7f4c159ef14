"""A run is found on a log of any kind, and what no rerun can write is told apart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from agentfund import MemoryBus, Message, Router, SqliteBus
from agentfund.errors import BusError, ConfigError
from agentfund.llms import ScriptedLLM
from agentfund.messages import Call, Called, Opined, Tripped
from agentfund.replays.recorded import Recorded
from tests.replays.making import Gate, Mood, Watcher, crew, market, messages_of, recorded, run


async def test_a_run_is_found_on_any_log(tmp_path: Path) -> None:
    """In memory, in a file, and in a list of messages."""
    feed = market(60)
    memory, file = MemoryBus(), SqliteBus(tmp_path / "fund.db")
    await run(crew(), feed, memory)
    await run(crew(), feed, file)
    found = [await Recorded.read(log) for log in (memory, file, await messages_of(memory))]
    await file.close()
    assert len({(one.started.run, one.messages, one.cycles, one.ended, one.numbered) for one in found}) == 1
    assert (found[0].cycles, found[0].ended, found[0].live, found[0].left_out) == (60, True, False, {})


async def test_a_log_without_a_run_is_refused() -> None:
    """As is one that holds no run of the fund that was asked for."""
    with pytest.raises(ConfigError, match="holds no run"):
        await Recorded.read(MemoryBus())
    with pytest.raises(ConfigError, match="'other'"):
        await Recorded.read(await run(crew(), market(20)), "other")


async def test_one_of_several_funds_has_to_be_chosen() -> None:
    """Their messages lie between each other's, so offsets have gaps."""
    bus = MemoryBus()
    await run(crew(), market(20), bus, name="one")
    await run(crew(), market(20), bus, name="two")
    with pytest.raises(ConfigError, match="'one', 'two'"):
        await Recorded.read(bus)
    two = await Recorded.read(bus, "two")
    assert two.started.fund == "two"
    assert not two.numbered


async def test_calls_that_led_to_no_opinion_are_told_apart() -> None:
    """A rerun cannot make them again; those behind opinions are part of the run."""
    llm = Router([ScriptedLLM([Mood(good=True)] * 20, price_usd="0.01")])
    messages = await messages_of(await run(crew(Watcher(llm)), market(20)))
    at = next(number for number, message in enumerate(messages) if message.type == "Called")
    lost = Message.of(
        Called(Call("watcher", "x", "x", "Cancelled")), id="lost", stream="fund", producer="p", time=messages[at].time, cycle=3
    )
    tripped = replace(
        lost, id="tripped", type="Tripped", payload={"route": "x", "state": "open", "retry_after": 1.0}, _event=None
    )
    found = await Recorded.read([*messages[:at], lost, tripped, *messages[at:]])
    assert found.left_out == {"calls that led to no opinion": 1, Tripped.__name__: 1}
    assert found.callers == {"watcher"}
    assert not (await Recorded.read(messages)).left_out


async def test_what_a_former_leader_wrote_is_not_part_of_the_run() -> None:
    """The fold passes over it, and so does a rerun."""
    messages = await messages_of(await run(crew(), market(20)))
    led = {"holder": "two", "token": 2, "until": "2024-01-01T00:00:00Z"}
    lead = replace(messages[0], id="led", type="Led", payload=led, token=2, _event=None)
    stale = replace(messages[5], id="stale", token=1)
    found = await Recorded.read([lead, *(replace(message, token=2) for message in messages), stale])
    assert [message.id async for message in found.stream()] == ["led", *(message.id for message in messages)]


async def test_a_broken_message_is_named() -> None:
    """With its place in the log."""
    messages = await messages_of(await run(crew(Gate()), market(20)))
    at = next(number for number, message in enumerate(messages) if message.type == Opined.__name__)
    broken = replace(messages[at], payload={"opinion": 3}, _event=None)
    found = await Recorded.read([*messages[:at], *messages[at + 1 :]])
    with pytest.raises(BusError, match=f"message {messages[at].offset} is no Opined"):
        [message async for message in replace(found, log=_Log([broken])).stream()]


class _Log:
    """A log of messages that nobody has looked at."""

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages

    async def read(self, stream: str | None = None, *, after: int = 0, since: datetime | None = None) -> AsyncIterator[Message]:
        for message in self.messages:
            yield message


async def test_the_run_says_what_it_is() -> None:
    """For people."""
    found, _ = await recorded(20)
    assert repr(found).startswith("<Recorded 'fund': run ")
