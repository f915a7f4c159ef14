"""Who is asked at a bar: agents that act rarely cost nothing in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from agentfund.core.agent import Agent
from agentfund.messages import Stance
from agentfund.trading import Proposal, Verdict, View

if TYPE_CHECKING:
    from agentfund.core.context import State
    from agentfund.core.pipeline import Pipeline
    from agentfund.core.safety import SafetyWrapper
    from agentfund.market import Market
    from agentfund.messages import Opinion
    from agentfund.trading import Portfolio

Due = Callable[["Market", int, "Portfolio"], bool]


def rare(agent: Agent[Any]) -> bool:
    """Whether there are bars at which an agent is not asked."""
    return agent.every != 1 or type(agent).due is not Agent.due


class Waking:
    """Finds the agents that are asked at a bar.

    An agent that is not due keeps its last opinion in force for those that read it, unless that is a proposal or a
    judgement of one: these count at the bar at which they were given and at no other.

    Args:
        pipeline: the agents.
        due: for agents by name, whether they are due, in place of their own word.
    """

    def __init__(self, pipeline: Pipeline, due: Mapping[str, Due]) -> None:
        self._plan: list[tuple[SafetyWrapper[Any], Due | None, tuple[tuple[str, ...], ...]]] = []
        for agent in pipeline.before:
            own: Due | None = agent.agent.due if rare(agent.agent) else None
            self._plan.append((agent, due.get(agent.name, own), pipeline.needs(agent)))
        self._keeping = {a.name for a in pipeline.before if not issubclass(a.output, (Proposal, Verdict, View))}

    @property
    def needed(self) -> bool:
        """Whether any agent acts rarely."""
        return any(due is not None for _, due, _ in self._plan)

    def kept(self, state: State) -> dict[str, Opinion]:
        """Return the opinions that stay in force while their agents are not asked, by name."""
        return {name: opinion for name, opinion in state.opinions.items() if name in self._keeping}

    def awake(self, market: Market, cycle: int, state: State) -> list[SafetyWrapper[Any]]:
        """Return whom to ask: those that are due, and whose inputs somebody gives now or has given."""
        asked: list[SafetyWrapper[Any]] = []
        names: set[str] = set()
        for agent, due, needs in self._plan:
            if due is not None and not self._asked_for(agent.name, due, market, cycle, state):
                continue
            if all(any(giver in names or self._holds(giver, state) for giver in givers) for givers in needs):
                asked.append(agent)
                names.add(agent.name)
        return asked

    def _asked_for(self, name: str, due: Due, market: Market, cycle: int, state: State) -> bool:
        """Whether it is due. One that failed the last time is asked again, and so is one that cannot say whether it is due."""
        last = state.opinions.get(name) if name in self._keeping else None
        if last is not None and last.stance is Stance.UNAVAILABLE:
            return True
        try:
            return due(market, cycle, state.portfolio)
        except Exception:
            return True

    def _holds(self, name: str, state: State) -> bool:
        opinion = state.opinions.get(name) if name in self._keeping else None
        return opinion is not None and opinion.stance is not Stance.ABSTAINS
