"""The parts of the fund that is harmed, each run in a process of its own."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from agentfund.core.agent import agent
from agentfund.core.gate import Limits
from agentfund.core.limits import OFF
from agentfund.core.orchestrator import Orchestrator
from agentfund.core.permission import UNWATCHED
from agentfund.core.safety import SafetyLimits
from agentfund.testing.chaos.line import ExchangeBroker, ExchangeFeed
from agentfund.trading import Direction, Proposal, Verdict
from agentfund.workers import Worker, Workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentfund.core.agent import Agent
    from agentfund.protocols import Bus

FUND = "chaos"
LEASE = timedelta(seconds=2)
ANSWER_S = 1.0

# A fund that trades at every bar: what the default limits are for is not what is tried here.
LIMITS = Limits(
    max_quote_age_s=5.0,
    max_orders_per_hour=10**9,
    duplicate_window_s=0.001,
    max_decision_age_s=5.0,
    max_daily_loss_pct=99.0,
    max_drawdown_pct=99.0,
    max_intraday_drawdown_pct=99.0,
    max_orders_per_second=10**9,
    max_orders_per_minute=10**9,
    max_orders_per_day=10**9,
    max_agent_orders_per_second=10**9,
    max_agent_orders_per_minute=10**9,
    max_agent_orders_per_hour=10**9,
    max_agent_orders_per_day=10**9,
    max_volume_pct=OFF,
    require_hours=False,
    require_quote=False,
)
SAFETY = SafetyLimits(
    time_limit_s=ANSWER_S, agent_consultations_per_hour=10**9, fund_consultations_per_hour=10**9, adjustment_pause_s=0.001
)


@agent(name="flipper")
def flipper(context: Any) -> Proposal:
    """Want what is not held: every bar is an order."""
    held = context.portfolio.quantity(context.bars.symbol)
    return Proposal(direction=Direction.FLAT if held else Direction.LONG, stop_pct=5.0, target_pct=10.0)


@agent(reads=(Proposal,), name="judge")
def judge(context: Any) -> Verdict:
    """Approve."""
    return Verdict(approved=True, reason="it is a drill")


def agents() -> list[Agent[Any]]:
    """Return the fund's agents."""
    return [flipper, judge]


def make_fund(bus: Bus, *, remote: bool = True) -> Orchestrator:
    """Return the fund, its agents in workers or in its own process."""
    return Orchestrator(
        agents(),
        bus=bus,
        name=FUND,
        mode="autonomous",
        limits=LIMITS,
        permission=UNWATCHED,
        reconcile=timedelta(seconds=1),
        settle=timedelta(0),
        safety=SAFETY,
        broker_timeout=timedelta(seconds=ANSWER_S),
        lease=LEASE,
        standby=True,
        workers=Workers(grace=timedelta(seconds=ANSWER_S)) if remote else None,
    )


async def run_fund(bus: Bus, port: int) -> None:
    """Run the fund on the exchange for ever."""
    async for _ in make_fund(bus).run(ExchangeFeed(port), ExchangeBroker(port)):
        pass


async def run_worker(bus: Bus, names: Sequence[str] = ()) -> None:
    """Host the fund's agents, or those that are named, for ever."""
    hosted = [one for one in agents() if not names or one.name in names]
    await Worker(hosted, bus=bus, limits=SAFETY).run()
