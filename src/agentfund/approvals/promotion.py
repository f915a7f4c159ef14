"""From one mode to the next: an explicit act of a person, on the fund's log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentfund.clock import SystemClock
from agentfund.core.past import PastView
from agentfund.core.views import see
from agentfund.errors import ConfigError
from agentfund.messages import Message, Promoted, stable_id
from agentfund.trading import Mode

if TYPE_CHECKING:
    from agentfund.protocols import Bus, Clock

LEAST_REASON = 10
"""Characters of a reason."""


async def promote(bus: Bus, fund: str, to: str, *, by: str, reason: str, clock: Clock | None = None) -> Promoted:
    """Let a fund do more by itself, by one step, or less, by any number of them; the next start of the fund acts on it.

    Args:
        bus: the fund's log.
        fund: its name.
        to: advisory, supervised or autonomous.
        by: who says so.
        reason: why.
        clock: where the time comes from.

    Raises:
        ConfigError: the log has no such fund, the step is too long, or nobody says why.
        BusUnavailable: the log cannot be read or written.
    """
    modes = list(Mode)
    if to not in modes:
        raise ConfigError(f"{to!r} is no mode: there is {', '.join(modes)}")
    if not by.strip() or len(reason.strip()) < LEAST_REASON:
        raise ConfigError(f"a promotion needs a name, and a reason of at least {LEAST_REASON} characters")
    past = (await see(bus, fund, PastView())).value
    if past.started is None:
        raise ConfigError(f"the log has no fund {fund!r}: run it first, in advisory mode")
    before = Mode(past.state.mode)
    step = modes.index(Mode(to)) - modes.index(before)
    if step == 0:
        raise ConfigError(f"the fund {fund!r} is {before} already")
    if step > 1:
        raise ConfigError(f"from {before} a fund is promoted to {modes[modes.index(before) + 1]} first, not to {to}")
    now = (clock or SystemClock()).now()
    event = Promoted(to, before, by.strip(), reason.strip())
    message = Message.of(
        event,
        id=stable_id("promoted", past.state.run, now, to),
        stream=fund,
        producer="operator",
        time=now,
        cycle=past.state.cycle,
        appended=now,
    )
    await bus.publish([message])
    return event
