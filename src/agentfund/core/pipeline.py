"""A pipeline is a list of agents; what they read and give makes the graph, and a list that cannot work is refused."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agentfund.core.agent import Agent
from agentfund.core.ledger import record
from agentfund.core.router import Router
from agentfund.core.safety import BOUNDS, Judged, Rates, SafetyLimits, SafetyWrapper
from agentfund.errors import LLMUnavailable, PipelineError
from agentfund.messages import Opinion, Stance
from agentfund.prompt import mentions_untrusted
from agentfund.trading import Decision, Proposal, Verdict, View

if TYPE_CHECKING:
    from agentfund.core.budget import Budget
    from agentfund.core.context import Snapshot
    from agentfund.protocols import Clock

OnOpinion = Callable[[SafetyWrapper[Any], Judged], Awaitable[None]]
Ask = Callable[[SafetyWrapper[Any], "Snapshot"], "Judged | Awaitable[Judged]"]


class Pipeline:
    """Agents in their order, each in its safety wrapper, with the graph that their inputs and outputs make.

    Args:
        agents: the list; an agent comes after those that it reads.
        limits: what each agent may do at most.
        clock: measures how long an agent takes.

    Raises:
        PipelineError: the list cannot work; says which agent and why.
    """

    def __init__(self, agents: Sequence[Agent[Any]], limits: SafetyLimits, clock: Clock) -> None:
        self.rates = Rates(limits)
        self.agents = tuple(
            SafetyWrapper(a.agent, a.limits, rates=self.rates, clock=clock)  # its own limits, but the fund's counters
            if isinstance(a, SafetyWrapper)
            else SafetyWrapper(_an_agent(a), limits, rates=self.rates, clock=clock)
            for a in agents
        )
        self.before = tuple(a for a in self.agents if Decision not in a.reads)
        self.after = tuple(a for a in self.agents if Decision in a.reads)
        self.proposers = tuple(a for a in self.before if issubclass(a.output, Proposal))
        self.gates = tuple(a for a in self.before if issubclass(a.output, (Verdict, View)))
        self._shown: dict[str, tuple[str, ...]] = {}
        self._needs: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {}
        self._check()

    @property
    def outputs(self) -> dict[str, type[BaseModel]]:
        """Output types by name."""
        return {agent.output.__name__: agent.output for agent in self.agents}

    @property
    def routers(self) -> tuple[Router, ...]:
        """The routers that the agents ask, each once."""
        return tuple({id(agent.llm): agent.llm for agent in self.agents if isinstance(agent.llm, Router)}.values())

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The budgets of the routers that the agents ask, each once."""
        return tuple({id(budget): budget for router in self.routers for budget in router.budgets()}.values())

    def givers(self, agent: SafetyWrapper[Any]) -> set[str]:
        """Return the names of the agents on whose opinions an agent waits."""
        return {name for _, names in self._needs[agent.name] for name in names}

    def needs(self, agent: SafetyWrapper[Any]) -> tuple[tuple[str, ...], ...]:
        """Return for each input of an agent the names of those that give it."""
        return tuple(names for _, names in self._needs[agent.name])

    def _check(self) -> None:
        if not self.agents:
            raise PipelineError("a fund needs at least one agent")
        seen: list[SafetyWrapper[Any]] = []
        for agent in self.agents:
            if any(agent.name == other.name for other in seen):
                raise PipelineError(f"two agents are called {agent.name!r}: give one of them name=...")
            if not inspect.isclass(getattr(agent, "output", None)):
                raise PipelineError(
                    f"{agent.name} has no output type: write class {type(agent.agent).__name__}(Agent[Proposal])"
                )
            if isinstance(agent.agent.every, bool) or not isinstance(agent.agent.every, int) or agent.agent.every < 1:
                raise PipelineError(f"{agent.name}: every is a number of bars, at least 1, not {agent.agent.every!r}")
            if not agent.output.model_config.get("frozen"):
                kind = agent.output.__name__
                raise PipelineError(f"{agent.name} gives a {kind} that can be changed afterwards: derive it from Record")
            if agent.llm is not None and type(agent.agent).run is Agent.run and not agent.agent.role:
                raise PipelineError(
                    f"{agent.name} asks a language model and has neither instructions nor a docstring: say what to do"
                )
            if agent.answers_by == "rules" and not agent.has_rule:
                raise PipelineError(f"{agent.name} has no rule and was given no LLM: pass one, or define rule(self, context)")
            needs = []
            for wanted in (*agent.reads, *agent.when):
                givers = tuple(other.name for other in seen if issubclass(other.output, wanted))
                if wanted is Decision:
                    continue
                if not givers:
                    raise PipelineError(
                        f"{agent.name} reads {wanted.__name__}, which no agent before it gives{_later(wanted, self.agents)}"
                    )
                needs.append((wanted.__name__, givers))
            self._needs[agent.name] = tuple(needs)
            self._shown[agent.name] = tuple(o.name for o in seen if agent.reads and issubclass(o.output, agent.reads))
            self._check_taint(agent, [o.output for o in seen if o.name in self._shown[agent.name]])
            seen.append(agent)
        for proposer in self.proposers:
            later = self.agents[self.agents.index(proposer) + 1 :]
            if proposer.agent.needs_gate and not any(gate in later for gate in self.gates):
                raise PipelineError(
                    f"{proposer.name} gives a {proposer.output.__name__} and no gate comes after it:"
                    " add an agent that gives a Verdict (RiskGate) or a View (DoubleChecker)"
                )

    def _check_taint(self, agent: SafetyWrapper[Any], read: Sequence[type[BaseModel]]) -> None:
        tainted = [kind.__name__ for kind in (*agent.reads, *read) if mentions_untrusted(kind)]
        if type(agent.agent).untrusted is not Agent.untrusted:
            tainted.append("its own untrusted()")
        if not tainted:
            return
        if issubclass(agent.output, Proposal):
            raise PipelineError(
                f"{agent.name} reads untrusted text ({tainted[0]}) and gives a {agent.output.__name__}:"
                " let an agent in between turn the text into numbers and enums"
            )
        if agent.output.model_config.get("extra") == "allow":
            raise PipelineError(
                f"{agent.name} reads untrusted text ({tainted[0]}), so {agent.output.__name__} must take no fields but its own:"
                ' derive it from Record without extra="allow"'
            )
        for name, info in agent.output.model_fields.items():
            if not _closed(name, info.annotation, info):
                raise PipelineError(
                    f"{agent.name} reads untrusted text ({tainted[0]}), so {agent.output.__name__}.{name} must be closed:"
                    " a bool, an Enum, a Literal, or a number with ge= and le="
                )

    async def consult(
        self,
        agents: Sequence[SafetyWrapper[Any]],
        snapshot: Snapshot,
        opinions: dict[str, Opinion],
        on_opinion: OnOpinion,
        *,
        ask: Ask = SafetyWrapper.opine,
        in_order: bool = False,
    ) -> None:
        """Ask agents as soon as their inputs are there, those that wait concurrently; put opinions into `opinions`.

        An agent that has an opinion in it already (read back from the log) is not asked again. One whose input is
        unavailable is unavailable; one whose input nobody gave is not asked.

        Args:
            agents: whom to ask, in the order of the pipeline.
            snapshot: the moment.
            opinions: what is known already; new opinions are put there.
            on_opinion: told each new opinion with its calls.
            ask: how an agent is asked.
            in_order: tell opinions in the order of the agents, whoever answers first; else as they come.
        """
        untold = deque(agents)
        held: dict[str, Judged] = {}
        arrived: dict[str, Judged] = {}

        async def tell(agent: SafetyWrapper[Any] | None, judged: Judged | None) -> None:
            if agent is not None and judged is not None:
                if not in_order:
                    await on_opinion(agent, judged)
                    return
                held[agent.name] = judged
            while held and untold[0].name not in unresolved:
                first = untold.popleft()
                if first.name in held:
                    await on_opinion(first, held.pop(first.name))

        left = [agent for agent in agents if agent.name not in opinions]
        unresolved = {agent.name for agent in left}
        waiting: dict[str, Awaitable[Judged]] = {}
        tasks: dict[str, asyncio.Task[Judged]] = {}
        by_name = {agent.name: agent for agent in agents}
        try:
            while left or waiting or tasks:
                progress = False
                for agent in tuple(left):
                    ready = self._ready(agent, opinions, unresolved)
                    if ready is None:
                        continue
                    left.remove(agent)
                    progress = True
                    if ready is False:
                        unresolved.discard(agent.name)
                    elif isinstance(ready, Opinion):
                        opinions[agent.name] = ready
                        unresolved.discard(agent.name)
                        await tell(agent, (ready, ()))
                    else:
                        shown = {name: opinions[name] for name in self._shown[agent.name] if name in opinions}
                        judged = ask(agent, snapshot.seen_by(agent.reads, shown, snapshot.decision, agent.sees_portfolio))
                        if isinstance(judged, tuple):
                            opinions[agent.name] = judged[0]
                            unresolved.discard(agent.name)
                            await tell(agent, judged)
                        else:
                            waiting[agent.name] = judged
                if progress:
                    continue
                if len(waiting) == 1 and not tasks:  # nothing to run beside it, so no task is needed
                    name, judged = waiting.popitem()
                    done = {name: await judged}
                else:
                    tasks.update({name: asyncio.ensure_future(waiting.pop(name)) for name in tuple(waiting)})
                    await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
                    done = {name: tasks.pop(name).result() for name in tuple(tasks) if tasks[name].done()}
                arrived.update(done)
                for name in done:
                    result = arrived.pop(name)
                    opinions[name] = result[0]
                    unresolved.discard(name)
                    await tell(by_name[name], result)
            await tell(None, None)
        finally:
            for task in tasks.values():
                task.cancel()
            if tasks:
                await asyncio.gather(*tasks.values(), return_exceptions=True)
            # Where all went well nothing is left here. What was answered before something else failed was paid for.
            ended = {name: task for name, task in tasks.items() if not task.cancelled() and task.exception() is None}
            for name, answered in {**held, **arrived, **{name: task.result() for name, task in ended.items()}}.items():
                await _saved(by_name[name], answered, on_opinion)
            for judged in waiting.values():
                judged.close()  # type: ignore[attr-defined]  # a coroutine that was never started

    def _ready(self, agent: SafetyWrapper[Any], opinions: Mapping[str, Opinion], unresolved: set[str]) -> bool | Opinion | None:
        """Return None: not yet; True: ask; False: nothing to ask about; an opinion: unavailable because an input is."""
        needs = self._needs[agent.name]
        for _, givers in needs:
            if not unresolved.isdisjoint(givers):
                return None
        asked = True
        for kind, givers in needs:
            given = False
            for giver in givers:
                opinion = opinions.get(giver)
                if opinion is None:
                    continue
                if opinion.stance is Stance.UNAVAILABLE:
                    why = f"{kind} is unavailable because {giver} is"
                    output = agent.output.__name__
                    return Opinion(agent.name, output, Stance.UNAVAILABLE, reason=why, answered_by=agent.answers_by)
                given = given or opinion.stance is Stance.VALUE
            asked = asked and given
        return asked


async def _saved(agent: SafetyWrapper[Any], judged: Judged, on_opinion: OnOpinion) -> None:
    """Tell an opinion although the cycle fails, so that it is not asked again; at least its calls."""
    try:
        await on_opinion(agent, judged)
    except LLMUnavailable:
        pass  # it is the next one that nobody answered, and its calls are known
    except Exception:
        for call in judged[1]:
            record(call)


def _an_agent(thing: Any) -> Agent[Any]:
    if isinstance(thing, Agent):
        return thing
    if inspect.isclass(thing) and issubclass(thing, Agent):
        raise PipelineError(f"{thing.__name__} is a class: write {thing.__name__}()")
    raise PipelineError(f"{thing!r} is not an agent: derive from Agent, or put @agent on the function")


def _later(kind: type[BaseModel], agents: Sequence[SafetyWrapper[Any]]) -> str:
    later = [agent.name for agent in agents if issubclass(agent.output, kind)]
    return f"; {later[0]} gives it, so put it earlier in the list" if later else ""


def _closed(name: str, annotation: Any, info: FieldInfo) -> bool:
    if get_origin(annotation) is Literal:
        return True
    parts = get_args(annotation)
    if parts:
        return all(part in (type(None), Ellipsis) or _closed(name, part, info) for part in parts)
    if not inspect.isclass(annotation):
        return False
    if issubclass(annotation, (bool, Enum)):
        return True
    if issubclass(annotation, (int, float)):
        limits = {type(rule).__name__ for rule in info.metadata}
        return name in BOUNDS or (bool(limits & {"Ge", "Gt"}) and bool(limits & {"Le", "Lt"}))
    if issubclass(annotation, BaseModel):
        return annotation.model_config.get("extra") != "allow" and all(
            _closed(n, i.annotation, i) for n, i in annotation.model_fields.items()
        )
    return False
