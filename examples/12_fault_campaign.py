"""A fund of one's own through a hundred schedules of faults: crashes, lost answers, late fills, a log that fails."""

from datetime import timedelta

from agentfund import Agent, Direction, Limits, Orchestrator, Proposal, Router, Snapshot, Unwatched, Verdict, agent
from agentfund.testing import Ports, campaign


@agent
def momentum(context: Snapshot) -> Proposal | None:
    close = context.bars.close
    if context.portfolio.positions or len(close) < 3 or close[-1] < close[-2]:
        return None
    return Proposal(direction=Direction.LONG, thesis="it rose", stop_pct=1, target_pct=1)


class Doubter(Agent[Verdict]):
    instructions = "Find a reason against the proposal, or approve it."
    reads = (Proposal,)


def fund(ports: Ports) -> Orchestrator:
    """Build the fund on the ports of the simulation: its log, its clock, its language models."""
    llm = Router([ports.llm(lambda prompt: Verdict(approved=True, reason="none"))], budget_usd_per_day=1)
    return Orchestrator(
        [momentum, Doubter(llm)],
        bus=ports.bus,
        clock=ports.clock,
        mode="autonomous",
        lease=timedelta(minutes=3),
        # The simulated broker counts as a real one, in a market that has bars alone and no watchdog.
        limits=Limits(require_hours=False, require_quote=False, max_volume_pct=1e12),
        permission=Unwatched(),
    )


if __name__ == "__main__":
    # What is left out meets errors that are known: tests/testing/test_simulator_campaign.py waits for their end.
    print(campaign(fund, schedules=100))
