"""Real processes, killed and frozen: a fund, an execution, a log in a file, an exchange that keeps its own books."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from agentfund import MemoryBus
from agentfund.buses.sqlite import SqliteBus
from agentfund.errors import BrokerUnavailable, OrderRejected
from agentfund.messages import Filled, Intended, Message
from agentfund.testing.chaos.checks import faults
from agentfund.testing.chaos.exchange import Exchange
from agentfund.testing.chaos.parts import FUND
from agentfund.trading import Account, Level, OrderStatus
from tests.core.test_hostile import Real
from tests.core.test_keeping import Word
from tests.execution import crash_parts
from tests.execution.test_execution import execution, log, order

BAR_S = 0.1
PATIENCE_S = 60.0
JOURNAL = [(kind, after) for kind in ("Sending", "Sent") for after in (False, True)]
HARMS = ("journal", "kill execution", "kill fund", "freeze execution", "freeze fund")


class Drill:
    """A fund and an execution at an exchange, and what is done to them.

    Args:
        folder: for the log and the socket.
        seed: which harms.
        careless: whether the execution's broker says that it does not dedupe ids.
    """

    def __init__(self, folder: Path, seed: int, *, careless: bool = False) -> None:
        self.exchange = Exchange(seed, BAR_S)
        self.log = folder / "fund.db"
        self.done: Counter[str] = Counter()
        self._address = f"unix:{folder / 'execution'}"
        self._careless = careless
        self._random = random.Random(seed)
        self._port = 0
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([crash_parts.__name__])
        self._living: dict[str, BaseProcess] = {}

    async def run(self, rounds: int) -> None:
        """Harm them so many times, and wait until log and exchange agree."""
        server = await asyncio.start_server(self.exchange.serve, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        market = asyncio.ensure_future(self.exchange.run())
        try:
            self._start("execution")
            self._start("fund")
            await self._dealt(2)
            for number in range(rounds):
                await self._harm(HARMS[number % len(HARMS)], number)
                await self._dealt(1)
            self.exchange.closed = True
            await self._agree()
        finally:
            for process in self._living.values():
                self._kill(process)
            market.cancel()
            with suppress(asyncio.CancelledError):
                await market
            server.close()

    def _start(self, who: str, deadly: tuple[str, bool, int] | None = None) -> None:
        if (before := self._living.get(who)) is not None:
            self._kill(before)
        if who == "fund":
            process = self._context.Process(target=crash_parts.fund, args=(self.log, self._port, self._address))
        else:
            given = (self.log, self._port, self._address, deadly, self._careless)
            process = self._context.Process(target=crash_parts.execution, args=given)
        process.start()
        self._living[who] = process

    def _kill(self, process: BaseProcess) -> None:
        process.kill()
        process.join()

    async def _harm(self, harm: str, number: int) -> None:
        what, _, who = harm.partition(" ")
        self.done[harm] += 1
        chance = self._random
        if what == "journal":
            kind, after = JOURNAL[number // len(HARMS) % len(JOURNAL)]
            self._start("execution", (kind, after, chance.randint(1, 2)))
            await self._until(lambda: not self._living["execution"].is_alive(), f"nothing was written as {kind}")
            self._start("execution")
            return
        await asyncio.sleep(chance.uniform(0, 3 * BAR_S))
        if what == "kill":
            self._kill(self._living[who])
            await asyncio.sleep(chance.uniform(0, 2 * BAR_S))
            self._start(who)
        else:
            pid = self._living[who].pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(chance.uniform(0, 6 * BAR_S))
            os.kill(pid, signal.SIGCONT)

    async def _until(self, so: Callable[[], bool], why: str) -> None:
        loop = asyncio.get_running_loop()
        ends = loop.time() + PATIENCE_S
        while not so():
            assert loop.time() < ends, why
            await asyncio.sleep(0.02)

    async def _dealt(self, more: int) -> None:
        """Wait until the exchange has dealt some orders more."""
        wanted = len(self.exchange.states) + more
        await self._until(lambda: len(self.exchange.states) >= wanted, f"the fund does not trade any more after {self.done}")

    async def _agree(self) -> None:
        loop = asyncio.get_running_loop()
        ends = loop.time() + PATIENCE_S
        while (wrong := await self.wrong()) and loop.time() < ends:
            await asyncio.sleep(4 * BAR_S)
        assert not wrong, wrong

    async def wrong(self) -> list[str]:
        """Return how log and exchange differ, and what was sent twice."""
        bus = SqliteBus(self.log, read_only=True)
        messages = [message async for message in bus.read()]
        await bus.close()
        arrivals = Counter(one["id"] for one in self.exchange.arrivals)
        twice = [f"order {name} reached the exchange {times} times" for name, times in arrivals.items() if times > 1]
        held = {symbol: position.quantity for symbol, position in self.exchange.book.positions.items()}
        told = [one for one in self.exchange.arrivals if one["id"] in self.exchange.states]
        sending = Counter(message.payload["order"] for message in messages if message.type == "Sending")
        unwritten = [f"order {name} was sent, and it is not written down" for name in arrivals if sending[name] != 1]
        known = faults(messages, told, self.exchange.fills, Account(self.exchange.book.cash, held), FUND)
        return [*twice, *unwritten, *known]


async def test_each_order_reaches_the_exchange_once_whoever_is_killed_or_frozen(tmp_path: Path) -> None:
    """Twenty rounds: before and after each write to the journal, at any moment, and frozen; nothing is invented."""
    drill = Drill(tmp_path, 1)
    await drill.run(20)
    assert drill.done == dict.fromkeys(HARMS, 4)
    assert len(drill.exchange.states) > 20


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("seed", range(10))
async def test_a_thousand_rounds(tmp_path: Path, seed: int) -> None:
    """Ten drills of a hundred rounds."""
    await Drill(tmp_path, 100 + seed).run(100)


async def test_a_drill_finds_what_was_sent_twice_or_never_written(tmp_path: Path) -> None:
    """The checks above can fail."""
    drill = Drill(tmp_path, 2)
    await drill.run(0)
    drill.exchange.arrivals.append(drill.exchange.arrivals[0])
    drill.exchange.fills.append(drill.exchange.fills[0])
    wrong = "\n".join(await drill.wrong())
    assert "reached the exchange 2 times" in wrong
    assert "was dealt 2 times" in wrong
    drill.exchange.arrivals.append({"id": "invented", "token": 0, "took_ns": 0, "again": False})
    assert "order invented was sent, and it is not written down" in "\n".join(await drill.wrong())


# -- at one write, in one process ------------------------------------------------------------------------------------


class Slow(MemoryBus):
    """A log that takes long over one kind of message; something else happens meanwhile."""

    def __init__(self, kind: str, meanwhile: Callable[[], Any]) -> None:
        super().__init__()
        self._kind = kind
        self._meanwhile = meanwhile

    async def publish(self, messages: Any, *, sync: bool = True) -> int:
        """Write, and let something happen."""
        last = await super().publish(messages, sync=sync)
        if any(message.type == self._kind for message in messages):
            self._meanwhile()
        return last


async def test_a_halt_while_the_sending_is_written_down_keeps_the_order_back() -> None:
    """Level, lease and gate are looked at once more behind the write, and what was kept back is never sent."""
    word, to = Word(), Real()
    bus = Slow("Sending", lambda: word.say(Level.HALT))
    await log(bus, order())
    one = execution(to, bus, word)
    with pytest.raises(OrderRejected) as refusal:
        await one.submit(order())
    assert refusal.value.code == "halted"
    word.say(Level.NORMAL)
    for again in (one, execution(to, bus, word)):
        with pytest.raises(OrderRejected):
            await again.submit(order())
        with pytest.raises(OrderRejected):
            await again.cancel("entry")
    assert to.sent == []


async def test_an_order_that_was_called_never_sent_is_never_sent() -> None:
    """Its request may still be on its way when the fund asks what has become of it."""
    bus, to = MemoryBus(), Real()
    await log(bus, order())
    one = execution(to, bus)
    with pytest.raises(OrderRejected, match="never sent"):
        await one.cancel("entry")
    for late in (one, execution(to, bus)):
        with pytest.raises(OrderRejected, match="never sent"):
            await late.submit(order())
    assert to.sent == []


async def test_an_order_that_has_ended_on_the_log_is_not_sent() -> None:
    """The fund has called it rejected: it would be a position that nobody expects."""
    from agentfund.messages import Answered
    from tests.market import START

    bus, to = MemoryBus(), Real()
    await log(bus, order())
    ended = Answered("entry", OrderStatus.REJECTED, "not sent")
    await bus.publish([Message.of(ended, id="e", stream="fund", producer="orchestrator", time=START, cycle=1)])
    with pytest.raises(OrderRejected) as refusal:
        await execution(to, bus).submit(order())
    assert refusal.value.code == "ended"
    assert to.sent == []


class Yielding(MemoryBus):
    """A log whose reader waits between messages, as one over a network does."""

    async def read(self, *arguments: Any, **options: Any) -> Any:
        """Give messages one by one."""
        async for message in super().read(*arguments, **options):
            await asyncio.sleep(0)
            yield message


async def test_a_halt_and_an_order_at_once_read_the_log_once() -> None:
    """A message that was folded twice would bring an order back that has ended."""
    bus, to = Yielding(), Real()
    await log(bus, *(order(f"o{number}") for number in range(5)))
    one = execution(to, bus)
    past, *others = await asyncio.gather(*(one._caught_up() for _ in range(4)))
    assert all(other is past for other in others)
    assert one._seen is not None
    assert one._seen.read == len([m async for m in bus.read("fund")])


async def test_an_entry_that_cannot_be_taken_back_keeps_no_position_open() -> None:
    """At level 4 the position is closed although the broker refuses to cancel."""

    class Stubborn(Real):
        async def cancel(self, order_id: str) -> Any:
            raise BrokerUnavailable("no cancels today")

    bus, to, word = MemoryBus(), Stubborn(), Word()
    to.slow = True
    await log(bus, order(), order("second", quantity=order().quantity / 2))
    one = execution(to, bus, word)
    await one.submit(order())
    to.deal(to.sent[0], order().quantity)
    await one.submit(order("second", quantity=order().quantity / 2))
    keeping = asyncio.ensure_future(one.keep())
    to.slow = False
    word.say(Level.KILL)
    async with asyncio.timeout(20):
        while to.book.positions:
            await asyncio.sleep(0)
    keeping.cancel()
    assert to.states["second"].status is OrderStatus.WORKING
    assert sum(isinstance(m.event, Intended | Filled) for m in [m async for m in bus.read("fund")]) == 3
