"""What a consumer says about its message counts once, and only when it was written down."""

from __future__ import annotations

import pytest

from agentfund.buses.delivery import Delivery
from agentfund.errors import BusUnavailable
from agentfund.testing.bus import message


async def test_the_first_answer_counts_and_later_ones_change_nothing() -> None:
    """A nack in an error handler, after the ack, does not bring the message back."""
    answers: list[str | None] = []

    async def answer(_: Delivery, reason: str | None) -> None:
        answers.append(reason)

    delivery = Delivery(message(1), 1, answer)
    await delivery.ack()
    await delivery.nack("too late")
    await delivery.ack()
    assert answers == [None]
    assert delivery.settled


async def test_an_answer_that_could_not_be_written_may_be_given_again() -> None:
    """A full disk refused the ack; once there is room, it counts."""
    full = [True, False]

    async def answer(_: Delivery, reason: str | None) -> None:
        if full.pop(0):
            raise BusUnavailable("the disk is full")

    delivery = Delivery(message(1), 1, answer)
    with pytest.raises(BusUnavailable):
        await delivery.ack()
    assert not delivery.settled
    await delivery.ack()
    assert delivery.settled
