"""From one mode to the next."""

from __future__ import annotations

import pytest

from agentfund import Approval, ApprovalRequest, MemoryBus, Mode
from agentfund.approvals.promotion import promote
from agentfund.core.past import PastView
from agentfund.core.views import see
from agentfund.errors import ConfigError
from agentfund.messages import Promoted
from tests.core.test_hostile import Real
from tests.core.test_hostile import live as flows
from tests.market import buyer, fund, yes

WHY = "ten days on paper without a surprise"


async def begun(bus: MemoryBus, mode: str = "advisory") -> None:
    """Leave a fund on a log."""
    clock, feed = flows(3)
    async for _ in fund(buyer, yes, bus=bus, clock=clock, mode=mode, **_approver(mode)).run(feed, Real()):
        pass


def _approver(mode: str) -> dict[str, object]:
    def no(request: ApprovalRequest) -> Approval:
        return Approval(False, request.order_hash, "Ada")

    return {"approver": no} if mode == "supervised" else {}


async def test_a_fund_is_promoted_one_step_at_a_time_by_somebody_who_says_why() -> None:
    """Advisory to supervised to autonomous, each step on the log with its name and reason."""
    bus = MemoryBus()
    with pytest.raises(ConfigError, match="run it first"):
        await promote(bus, "fund", "supervised", by="Ada", reason=WHY)
    await begun(bus)
    with pytest.raises(ConfigError, match="supervised first"):
        await promote(bus, "fund", "autonomous", by="Ada", reason=WHY)
    with pytest.raises(ConfigError, match="reason"):
        await promote(bus, "fund", "supervised", by="Ada", reason="why not")
    with pytest.raises(ConfigError, match="already"):
        await promote(bus, "fund", "advisory", by="Ada", reason=WHY)
    assert await promote(bus, "fund", "supervised", by="Ada", reason=WHY) == Promoted("supervised", "advisory", "Ada", WHY)
    await promote(bus, "fund", "autonomous", by="Ada", reason=WHY)
    assert (await see(bus, "fund", PastView())).value.state.mode == Mode.AUTONOMOUS
    await promote(bus, "fund", "advisory", by="Bob", reason="it does what it should not")
    assert (await see(bus, "fund", PastView())).value.state.mode == Mode.ADVISORY


async def test_a_fund_that_nobody_promoted_does_not_start_with_more() -> None:
    """The log says what it may do; a restart with less is a word on the log, one with more is refused."""
    bus = MemoryBus()
    await begun(bus)
    with pytest.raises(ConfigError, match="promote"):
        await begun(bus, "supervised")
    await promote(bus, "fund", "supervised", by="Ada", reason=WHY)
    await begun(bus, "supervised")
    await begun(bus, "advisory")
    with pytest.raises(ConfigError, match="promote"):
        await begun(bus, "supervised")
    events = [message.event async for message in bus.read("fund")]
    assert [(e.before, e.mode) for e in events if isinstance(e, Promoted)] == [
        ("advisory", "supervised"),
        ("supervised", "advisory"),
    ]
