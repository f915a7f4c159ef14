"""An agent: one concern, a typed output, and either a role card for a language model or a function of what it reads."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import CodeType, UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar, Union, get_args, get_origin, overload
from weakref import WeakValueDictionary

from pydantic import BaseModel

from agentfund.core.router import Router
from agentfund.errors import ConfigError, PipelineError
from agentfund.messages import stable_id
from agentfund.prompt import Prompt, Task, Tier, Untrusted

if TYPE_CHECKING:
    from agentfund.core.context import Snapshot
    from agentfund.market import Market
    from agentfund.protocols import LLM
    from agentfund.trading import Portfolio

Output = TypeVar("Output", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Abstain:
    """What an agent returns instead of a value when it has nothing to say, and why."""

    reason: str


Given: TypeAlias = Output | Abstain | None


class Agent(Generic[Output]):
    """One concern of a fund: `class Momentum(Agent[Proposal])`.

    With a language model it is a role card: `instructions`, what it `reads`, and the output type say all. Without one it
    answers by its `rule`, or does whatever its own `run` does. Both kinds stand side by side in one pipeline.

    Args:
        llm: the language model, route or router to ask; without one the rule answers.
        name: its name in the log; the class name in snake case by default.

    Attributes:
        instructions: the role card's text; stable, never made of anything from outside; the docstring where there is none.
        reads: output types of agents before it, or `Decision`. It sees these and no others, and runs when all are there.
        when: types that must be there for it to run although it does not see them (a blind second opinion).
        veto: a gate's no stands by itself and is not outvoted.
        needs_gate: whether what it proposes must be judged by a gate agent; plain rules need none, the limits judge them.
        sees_portfolio: whether it is shown cash, positions and drawdown. One that is not judges the market alone, and can
            be asked about many bars of a backtest at once.
        every: it is asked at every so many bars: 1 for each.
        task: kind of work, by which a router chooses.
        tier: class of language model that the role wants.
        max_output_tokens: most tokens of an answer.
    """

    instructions: ClassVar[str] = ""
    reads: ClassVar[tuple[type[BaseModel], ...]] = ()
    when: ClassVar[tuple[type[BaseModel], ...]] = ()
    veto: ClassVar[bool] = False
    needs_gate: ClassVar[bool] = True
    sees_portfolio: ClassVar[bool] = True
    every: int = 1
    task: ClassVar[Task] = "reasoning"
    tier: ClassVar[Tier] = "middle"
    max_output_tokens: ClassVar[int] = 2048
    output: type[Output]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for base in getattr(cls, "__orig_bases__", ()):
            given = get_args(base)
            if inspect.isclass(get_origin(base)) and issubclass(get_origin(base), Agent) and inspect.isclass(given[0]):
                cls.output = given[0]  # type: ignore[assignment]  # what the type argument says

    def __init__(self, llm: LLM | None = None, *, name: str | None = None) -> None:
        self.llm = None if llm is None else routed(llm)
        for kinds in (self.reads, self.when):
            if not isinstance(kinds, tuple) or not all(inspect.isclass(kind) for kind in kinds):
                raise PipelineError(f"{type(self).__name__}: reads and when are tuples of types: reads = (Proposal,)")
        self.name = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self.answers_by}>"

    @property
    def role(self) -> str:
        """What a language model is told of its role: the instructions, else the class's docstring."""
        return self.instructions.strip() or inspect.cleandoc(vars(type(self)).get("__doc__") or "")

    @property
    def has_rule(self) -> bool:
        """Whether it can answer without a language model."""
        return type(self).rule is not Agent.rule

    @property
    def answers_by(self) -> str:
        """`function`, `rules`, or the name of the route it asks."""
        if type(self).run is not Agent.run:
            return "function"
        return self.llm.label if self.llm else "rules"

    @property
    def digest(self) -> str:
        """A hash of its code and its plain settings: an agent that was changed has another."""
        code = [code_digest(getattr(type(self), name)) for name in ("run", "rule", "inputs", "untrusted", "prompt")]
        plain = {k: v for k, v in sorted(vars(self).items()) if isinstance(v, (bool, int, float, str))}
        return stable_id(code, plain, code_digest(vars(self).get("function")))[:16]

    def run(self, context: Snapshot) -> Given[Output] | Awaitable[Given[Output]]:
        """Give the opinion: a value, `Abstain(reason)` or None. May be `async def`; an error makes it unavailable."""
        if self.llm is None:
            return self.rule(context)
        return self._ask(self.llm, context)

    def due(self, market: Market, cycle: int, portfolio: Portfolio) -> bool:
        """Return whether it is asked at this bar. Override it for a schedule or a condition, and keep it cheap.

        Args:
            market: the market now.
            cycle: number of the bar, from 1.
            portfolio: cash and positions.
        """
        return cycle % self.every == 0

    def rule(self, context: Snapshot) -> Given[Output]:
        """Answer by plain code; the rule twin of a role card."""
        raise PipelineError(f"{self.name} has no rule and was given no LLM: pass one, or define rule(self, context)")

    def inputs(self, context: Snapshot) -> Mapping[str, Any]:
        """Return what a language model is shown: JSON values, numbers first. Override it to show more or less."""
        return context.as_inputs()

    def untrusted(self, context: Snapshot) -> Mapping[str, Untrusted]:
        """Return text from outside that a language model is shown, by slot name: what stands in the values that it reads."""
        return context.untrusted()

    def prompt(self, context: Snapshot) -> Prompt:
        """Return the question that a language model is asked."""
        return Prompt(
            agent=self.name,
            instructions=self.role,
            inputs=self.inputs(context),
            output=self.output,
            untrusted=self.untrusted(context),
            task=self.task,
            tier=self.tier,
            max_output_tokens=self.max_output_tokens,
            rule=(lambda: self.rule(context)) if self.has_rule else None,
        )

    async def _ask(self, llm: LLM, context: Snapshot) -> Given[Output]:
        prompt = self.prompt(context)
        completion = await llm.complete(prompt)
        answer = completion.answer or prompt.parse(completion.text)
        if answer.value is None:
            return Abstain(answer.abstain or "")
        value: Output = answer.value
        return value


def code_digest(function: Any) -> str:
    """Return what a function does, as text that is the same in every process."""
    code = getattr(function, "__code__", function)
    if not isinstance(code, CodeType):
        return ""
    constants = [
        code_digest(one) if isinstance(one, CodeType) else repr(sorted(map(repr, one)) if isinstance(one, frozenset) else one)
        for one in code.co_consts
    ]
    defaults = getattr(function, "__defaults__", None) or ()
    return stable_id(code.co_code.hex(), code.co_names, constants, [d for d in defaults if isinstance(d, (int, float, str))])


_routers: WeakValueDictionary[int, Router] = WeakValueDictionary()


def routed(llm: LLM) -> Router:
    """Return the router itself, or the one router around a bare route, whoever asks for it."""
    if isinstance(llm, Router):
        return llm
    if isinstance(llm, type) or not hasattr(llm, "complete"):
        raise ConfigError(f"llm={llm!r} is no route to a language model: pass an object such as ScriptedLLM([...])")
    router = _routers.get(id(llm))  # a router holds its route, so the id cannot belong to another while it lives
    if router is None:
        router = _routers[id(llm)] = Router([llm])
    return router


class FunctionAgent(Agent[Output]):
    """An agent made of a function; `@agent` makes it."""

    def __init__(
        self,
        function: Callable[[Snapshot], Given[Output] | Awaitable[Given[Output]]],
        *,
        output: type[Output],
        reads: tuple[type[BaseModel], ...] = (),
        when: tuple[type[BaseModel], ...] = (),
        veto: bool = False,
        name: str | None = None,
    ) -> None:
        self.reads = reads  # type: ignore[misc]  # a class attribute of role cards, an argument here
        self.when = when  # type: ignore[misc]
        super().__init__(name=name or function.__name__)
        self.function = function
        self.output = output
        self.veto = veto  # type: ignore[misc]
        self.__doc__ = function.__doc__

    def run(self, context: Snapshot) -> Given[Output] | Awaitable[Given[Output]]:
        """Call the function."""
        return self.function(context)


AgentFunction: TypeAlias = Callable[..., "Given[Output] | Awaitable[Given[Output]]"]


@overload
def agent(function: AgentFunction[Output], /) -> FunctionAgent[Output]: ...
@overload
def agent(
    *,
    reads: tuple[type[BaseModel], ...] = (),
    when: tuple[type[BaseModel], ...] = (),
    veto: bool = False,
    name: str | None = None,
) -> Callable[[AgentFunction[Output]], FunctionAgent[Output]]: ...
def agent(function: Any = None, /, **options: Any) -> Any:
    """Make an agent of a function; its return annotation is the output type.

    Args:
        function: takes the context, returns the output, `Abstain` or None; may be `async def`.
        **options: `reads`, `when`, `veto` and `name` as in `Agent`.

    Raises:
        PipelineError: the return annotation is missing or is no output type.
    """
    if function is None:
        return lambda made: agent(made, **options)
    return FunctionAgent(function, output=_output_of(function), **options)


def _output_of(function: Callable[..., Any]) -> type[BaseModel]:
    annotation = inspect.signature(function).return_annotation
    if isinstance(annotation, str):
        known = inspect.getclosurevars(function)
        names = {**known.builtins, **function.__globals__, **known.nonlocals}
        try:
            annotation = eval(annotation, names)  # noqa: S307 - the author's own annotation, as typing.get_type_hints does
        except NameError as error:
            raise PipelineError(f"@agent {function.__name__}: its return annotation cannot be resolved ({error})") from None
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    found = [option for option in options if inspect.isclass(option) and issubclass(option, BaseModel)]
    if len(found) != 1:
        raise PipelineError(
            f"@agent {function.__name__}: annotate what it returns with one output type, for example `-> Proposal`;"
            f" found {annotation if annotation is not inspect.Signature.empty else 'nothing'}"
        )
    return found[0]
