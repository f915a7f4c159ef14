"""A log on a RabbitMQ stream."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from agentfund.buses.mirrored import MirroredBus
from agentfund.buses.rabbitmq_stream import RabbitStream
from agentfund.errors import BusError

if TYPE_CHECKING:
    from pathlib import Path

    from agentfund.messages import Durability
    from agentfund.protocols import Clock


class RabbitBus(MirroredBus):
    """A log on a RabbitMQ stream; see `MirroredBus` for what every process keeps of it.

    Args:
        url: `amqp://user:password@host:5672/vhost`, or `amqps:`; `?cafile=...` where the server's certificate has an
            authority of its own.
        name: the queue; different names are different logs.
        mirror: a file of this process alone for what it has read; None for a temporary one.
        clock: stamps `Message.appended` where the writer left it None, and times leases.
        max_attempts: how often a message is handed over before it becomes a dead letter.
        lease: how long a consumer may work on a message before it is taken for dead; longer than the longest work.
        timeout: how long to wait for the server.
        demand: what published messages must survive: "process" at most.

    Raises:
        BusError: the address or the name is none, or more is demanded than a stream gives.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "agentfund",
        mirror: str | Path | None = None,
        clock: Clock | None = None,
        max_attempts: int = 5,
        lease: timedelta = timedelta(seconds=30),
        timeout: timedelta = timedelta(seconds=5),
        demand: Durability = "process",
    ) -> None:
        stream = RabbitStream(url, name=name, timeout=timeout)
        if demand == "power":
            raise BusError(
                f"{stream.home}: RabbitMQ confirms what a stream gets before it syncs, so 'power' cannot be had: ask for "
                "demand='process', or take PostgreSQL, Redis with appendfsync always, or NATS that syncs always"
            )
        super().__init__(
            stream, mirror=mirror, clock=clock, max_attempts=max_attempts, lease=lease, timeout=timeout, demand=demand
        )
        self._stream = stream

    async def describe(self) -> str:
        """Return in two sentences what was found: server, version, and what makes a message durable."""
        await self._link()
        return await self._stream.describe()
