"""What a worker tells Prometheus: how much waits, how long questions waited, how long answers took. Extra `metrics`."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from agentfund.errors import BusError, ConfigError, MissingExtra
from agentfund.workers.words import asks, group

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LOOK_S = 2.0
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@runtime_checkable
class Countable(Protocol):
    """A bus that can tell how much waits for a group of consumers."""

    async def backlog(self, group: str, stream: str | None = None) -> int:
        """Return how many messages of a stream, or of all, a group has not answered for."""
        ...


class Meter:
    """Counts a worker's answers.

    Args:
        bus: the log, asked now and then how much waits; a bus that cannot tell leaves that out.
        agents: names of the agents that are hosted.

    Raises:
        MissingExtra: prometheus-client is not installed.
    """

    def __init__(self, bus: object, agents: Sequence[str]) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError:
            raise MissingExtra("prometheus-client", "metrics") from None
        self._bus = bus
        self._agents = tuple(agents)
        self._start: Any = prometheus.start_http_server
        self._registry = prometheus.CollectorRegistry()
        more: dict[str, Any] = {"registry": self._registry}
        self._waiting = prometheus.Gauge("agentfund_questions_waiting", "Questions not answered yet", ["agent"], **more)
        self._waited = prometheus.Histogram(
            "agentfund_question_wait_seconds", "From question to its worker", ["agent"], buckets=_SECONDS, **more
        )
        self._took = prometheus.Histogram("agentfund_answer_seconds", "Work on an answer", ["agent"], buckets=_SECONDS, **more)
        self._answers = prometheus.Counter("agentfund_answers_total", "Answers by stance", ["agent", "stance"], **more)

    def answered(self, agent: str, stance: str, waited_s: float, took_s: float) -> None:
        """Count an answer."""
        self._waited.labels(agent).observe(max(waited_s, 0.0))
        self._took.labels(agent).observe(took_s)
        self._answers.labels(agent, stance).inc()

    async def look(self) -> None:
        """Look for ever at how much waits."""
        while isinstance(self._bus, Countable):
            for agent in self._agents:
                with suppress(BusError):  # the next look may find it there again
                    self._waiting.labels(agent).set(await self._bus.backlog(group(agent), asks(agent)))
            await asyncio.sleep(_LOOK_S)

    @contextmanager
    def served(self, port: int, address: str = "0.0.0.0") -> Iterator[None]:  # noqa: S104 - a pod is asked from outside
        """Serve the figures at a port, as long as the block lasts.

        Raises:
            ConfigError: the port cannot be used.
        """
        try:
            server, thread = self._start(port, addr=address, registry=self._registry)
        except OSError as error:
            raise ConfigError(f"metrics cannot be served at port {port}: {error.strerror or error}; choose another") from None
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
