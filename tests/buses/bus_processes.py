"""Consumers in processes of their own, one of which is killed, for any bus that has an address."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection

import agentfund.buses
from agentfund.messages import Message
from agentfund.protocols import Bus
from agentfund.testing.bus import faults, message

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["__main__", __name__])
LEASE = timedelta(seconds=1)
PATIENCE_S = 60.0
KEYS = 4


def made(kind: str, url: str, name: str) -> Bus:
    """Return a bus of a kind, such as "RabbitBus"."""
    bus: Bus = getattr(agentfund.buses, kind)(url, name=name, lease=LEASE)
    return bus


def consume(worked: Connection, kind: str, url: str, name: str) -> None:
    """Work on messages for ever: say what was done, then acknowledge it."""

    async def main() -> None:
        async for delivery in made(kind, url, name).consume("g"):
            worked.send((time.monotonic(), delivery.message))
            await asyncio.sleep(0.002)
            await delivery.ack()

    asyncio.run(main())


async def outlive_a_consumer(kind: str, url: str, name: str, number: int = 120) -> None:
    """Two processes share the work and one is killed: nothing is lost, each key is in order, what it held may come twice."""
    written = [message(i, key=f"k{i % KEYS}") for i in range(number)]
    bus = made(kind, url, name)
    await bus.publish(written[: number // 2])
    ways = [PROCESSES.Pipe(duplex=False) for _ in range(2)]
    workers = [PROCESSES.Process(target=consume, args=(theirs, kind, url, name), daemon=True) for _, theirs in ways]
    for worker in workers:
        worker.start()
    for _, theirs in ways:
        theirs.close()
    pipes = [mine for mine, _ in ways]
    seen: list[tuple[float, Message]] = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            while any(worker.is_alive() for worker in workers) and len({one.id for _, one in seen}) < number:
                for pipe in pipes:
                    with suppress(EOFError):
                        while pipe.poll():
                            seen.append(pipe.recv())
                if len(seen) > 20 and workers[0].is_alive():
                    workers[0].kill()
                    workers[0].join()
                    await bus.publish(written[number // 2 :])
                await asyncio.sleep(0.01)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
        for pipe in pipes:
            pipe.close()
        await bus.close()
    done = [one for _, one in sorted(seen, key=lambda each: each[0])]  # two pipes are not read in the order of the work
    twice = len(done) - len({one.id for one in done})
    assert twice <= 1
    once = list({one.id: one for one in done}.values())
    assert faults(written, once) == []
