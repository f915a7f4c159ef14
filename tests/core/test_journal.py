"""The journal tells the log in plain English."""

from __future__ import annotations

from agentfund import Direction, Proposal, Router, Snapshot, Verdict, agent, journal
from agentfund.errors import BadCredentials, RateLimited
from agentfund.llms import ScriptedLLM
from agentfund.specialists import RegimeClassifier
from tests.market import bars, blind, broker, buyer, fund, no, wave, yes


async def told(*agents: object, **options: object) -> str:
    """Return the journal of a short run."""
    one = fund(*agents, **options)  # type: ignore[arg-type]
    async for _ in one.run(bars(wave(30)), broker()):
        pass
    return journal([message async for message in one.bus.read()])


async def test_every_decision_is_told_with_who_said_what() -> None:
    """F21: ready for a post-mortem."""
    text = await told()
    assert "# Journal of fund" in text
    assert "## 2024-01-02 15:45 UTC · SIM long at " in text
    assert "- **buyer**: direction long, thesis it is the fifth bar" in text
    assert "- **yes**: approves, why not." in text
    assert "bought " in text
    assert text.endswith("\n")


async def test_a_veto_is_told_with_its_reason() -> None:
    """F18, in words."""
    text = await told(buyer, yes, no)
    assert "Decided by **no**: not today." in text
    assert "- **no**: **vetoes**, not today." in text


async def test_a_clamp_and_a_failure_are_told() -> None:
    """What the safety wrapper did is no secret."""

    @agent(name="greedy")
    def greedy(context: Snapshot) -> Proposal:
        """Ask for too much."""
        return Proposal(direction=Direction.LONG, position_scale=50)

    @agent(reads=(Proposal,), name="broken")
    def broken(context: Snapshot) -> Verdict:
        """Fail."""
        raise RuntimeError("no data")

    text = await told(greedy, yes, blind, broken)
    assert "position_scale was moved from 50 to its bound 2" in text
    assert "- **broken** **is unavailable**: RuntimeError: no data." in text


async def test_a_route_that_stops_answering_is_told() -> None:
    """When it rests, for how long, and when it is off until somebody acts."""
    route = ScriptedLLM([RateLimited("429", retry_after=60), BadCredentials("401")], name="claude")
    text = await told(RegimeClassifier(Router([route], retries=0, cooldown_s=1)), buyer, yes)
    assert "UTC: the route claude rests for 60 seconds.*" in text
    text = await told(RegimeClassifier(ScriptedLLM([BadCredentials("401")], name="codex")), buyer, yes)
    assert "UTC: the route codex is switched off until an operator enables it.*" in text
