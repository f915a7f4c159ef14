"""What a broker of messages has to offer so that a log can be kept on it: an ordered, durable sequence of frames.

NATS JetStream, RabbitMQ streams and Kafka keep an order and nothing else: no ids that are remembered for good, no places of
our own, no order within a key once consumers share the work. What is missing is the same for all of them, so it is made in
one place, `agentfund.buses.mirrored`, of this protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentfund.messages import Durability


class Frame(NamedTuple):
    """What was appended at once.

    Attributes:
        place: the broker's own place, which only grows; places may be left out.
        data: the bytes.
    """

    place: int
    data: bytes


class Ordered(Protocol):
    """An ordered sequence of frames on a broker. Made cheaply; connects at first use, in the running event loop.

    Raises `BusUnavailable` where the broker cannot be reached in time, and then the frame is there or it is not: nobody
    knows. A frame may come to lie there twice, when an append was tried again after its acknowledgement was lost.
    """

    @property
    def home(self) -> str:
        """Names the log in errors, without any password."""
        ...

    async def connect(self) -> Durability:
        """Make what is not there yet; return what a frame survives once `append` returns, as the broker says of itself.

        Raises:
            BusError: what is there under this name is no log of agentfund, or not durable; says why.
        """
        ...

    async def append(self, data: bytes) -> int | None:
        """Append one frame, durable when it returns; return its place, None where the broker does not tell it."""
        ...

    async def end(self) -> int:
        """Return the place of the last frame that is durable now, -1 where there is none."""
        ...

    def follow(self, after: int) -> AsyncIterator[Frame]:
        """Give all frames beyond a place, in order and without a gap, then those that come; reconnects by itself."""
        ...

    async def close(self) -> None:
        """Let go of the running loop's connection."""
        ...
