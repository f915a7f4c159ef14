"""A log on a Kafka topic."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from agentfund.buses.kafka_topic import KafkaTopic
from agentfund.buses.mirrored import MirroredBus
from agentfund.errors import BusError

if TYPE_CHECKING:
    from pathlib import Path

    from agentfund.messages import Durability
    from agentfund.protocols import Clock


class KafkaBus(MirroredBus):
    """A log on a Kafka topic of one partition; see `MirroredBus` for what every process keeps of it.

    Args:
        url: `kafka://host:port,host:port`, see `KafkaTopic` for logins and TLS.
        name: the topic; different names are different logs.
        mirror: a file of this process alone for what it has read; None for a temporary one.
        clock: stamps `Message.appended` where the writer left it None, and times leases.
        max_attempts: how often a message is handed over before it becomes a dead letter.
        lease: how long a consumer may work on a message before it is taken for dead; longer than the longest work.
        timeout: how long to wait for the brokers.
        demand: what published messages must survive: "process" at most.

    Raises:
        BusError: the address or the name is none, or more is demanded than Kafka gives.
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
        topic = KafkaTopic(url, name=name, timeout=timeout)
        if demand == "power":
            raise BusError(
                f"{topic.home}: Kafka acknowledges before it syncs, so 'power' cannot be had: spread replicas over machines "
                "and ask for demand='process', or take PostgreSQL, Redis with appendfsync always, or NATS that syncs always"
            )
        super().__init__(
            topic, mirror=mirror, clock=clock, max_attempts=max_attempts, lease=lease, timeout=timeout, demand=demand
        )
        self._topic = topic

    async def describe(self) -> str:
        """Return in a sentence what was found: where the log is and what makes it durable."""
        await self._link()
        return await self._topic.describe()
