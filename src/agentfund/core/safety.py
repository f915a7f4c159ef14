"""The wrapper that every agent runs in: bounds, rates, forbidden actions, a time limit; a failure becomes an opinion."""

from __future__ import annotations

import asyncio
import inspect
import re
import unicodedata
from collections import deque
from collections.abc import Awaitable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from agentfund.clock import SystemClock
from agentfund.core.agent import Abstain, Agent, Given
from agentfund.core.deadline import DeadlineExceeded, within
from agentfund.core.ledger import Rows, calls, record
from agentfund.errors import ConfigError
from agentfund.messages import Call, Clamp, Opinion, Stance
from agentfund.secrets import scrub
from agentfund.trading import Record

if TYPE_CHECKING:
    from agentfund.core.context import Snapshot
    from agentfund.protocols import Clock

Output = TypeVar("Output", bound=BaseModel)

BOUNDS: Mapping[str, tuple[float, float]] = {
    "lr": (0.1, 3.0),
    "learning_rate_factor": (0.1, 3.0),
    "entropy": (0.1, 5.0),
    "entropy_factor": (0.1, 5.0),
    "position_scale": (0.3, 2.0),
    "confidence_factor": (0.7, 1.3),
    "confidence": (0.0, 1.0),
    "stop_pct": (0.5, 15.0),
    "target_pct": (0.1, 100.0),
}
"""Bounds by field name, whatever type the field stands in."""

HOUR = timedelta(hours=1)

_OF = r"(?:\w+ ){0,2}"
_RISK = r"(?:gates?|risk (?:gates?|controls?|limits?|checks?|management))"

FORBIDDEN: Mapping[str, str] = {
    "bypass_all_gates": (
        rf"(?:bypass|circumvent|skip|overrid|evad|disregard|ignor)\w* {_OF}{_RISK}"
        rf"|{_RISK} (?:should|must|can|could|may) be (?:bypassed|skipped|overridden|ignored)"
    ),
    "disable_risk_controls": (
        rf"(?:disabl|deactivat|suspend|remov|lift)\w* {_OF}(?:{_RISK}|limits)"
        rf"|(?:turn|switch)\w* (?:off {_OF}{_RISK}|{_OF}{_RISK} off)"
        rf"|{_RISK} (?:should|must|can|could|may) be (?:disabled|removed|lifted|suspended)"
    ),
    "unlimited_position": r"(?:unlimited|unbounded|infinite) (?:position|size|leverage)s?",
    "ignore_drawdown": rf"(?:ignor|disregard)\w* {_OF}drawdowns?",
    "force_margin_call": r"forc(?:e|es|ing) (?:a|the) margin call",
    "delete_models": rf"delet\w* {_OF}models?",
    "modify_api_keys": rf"(?:modif|chang|replac|rotat|delet)\w* {_OF}api ?keys?",
}
"""Actions that no agent can take, each with the ways in which an output implies it."""


class Adjustment(Record):
    """A change that an agent asks for, of one named parameter by a factor."""

    parameter: str
    factor: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SafetyLimits:
    """What an agent may do at most. The defaults are on; loosening one is an explicit argument, and is logged.

    Args:
        bounds: (lowest, highest) by field name; numbers outside are moved to the bound and the clamp is recorded.
        time_limit_s: seconds until an agent that has not answered is unavailable.
        agent_consultations_per_hour: questions to a language model that one agent may ask.
        fund_consultations_per_hour: questions to a language model that all agents together may ask.
        adjustment_pause_s: seconds between two adjustments of the same parameter.
    """

    bounds: Mapping[str, tuple[float, float]] = field(default_factory=lambda: dict(BOUNDS))
    time_limit_s: float = 120.0
    agent_consultations_per_hour: int = 100
    fund_consultations_per_hour: int = 200
    adjustment_pause_s: float = 60.0

    def __post_init__(self) -> None:
        for name, (low, high) in self.bounds.items():
            if not low <= high:
                raise ConfigError(f"bounds of {name}: {low} to {high} is empty")
        if not self.time_limit_s > 0:
            raise ConfigError(f"time_limit_s must be above zero, not {self.time_limit_s}")


class Rates:
    """Counts consultations and adjustments by event time; one for all agents of a fund."""

    def __init__(self, limits: SafetyLimits) -> None:
        self._limits = limits
        self._all: deque[datetime] = deque()
        self._of: dict[str, deque[datetime]] = {}
        self._adjusted: dict[str, datetime] = {}

    def surely(self, agents: Collection[str], now: datetime, bars: int) -> set[str]:
        """Return which of some agents can be asked at a moment to come, whoever else is asked before.

        Args:
            agents: all agents of the fund that ask a language model.
            now: the moment.
            bars: bars of the hour before it whose turn has not come yet, its own among them.
        """
        horizon = now - HOUR
        if sum(time > horizon for time in self._all) + bars * len(agents) > self._limits.fund_consultations_per_hour:
            return set()
        most = self._limits.agent_consultations_per_hour
        return {name for name in agents if sum(time > horizon for time in self._of.get(name, ())) + bars <= most}

    def seed(self, asked: Iterable[tuple[datetime, str]]) -> None:
        """Count what the log says was asked before a restart, in place of what was counted here."""
        self._all.clear()
        self._of.clear()
        for time, agent in asked:
            self._all.append(time)
            self._of.setdefault(agent, deque()).append(time)

    def consult(self, agent: str, now: datetime) -> str:
        """Count one consultation; return why it is refused, empty when it is not."""
        mine = self._of.setdefault(agent, deque())
        horizon = now - HOUR
        for times in (mine, self._all):
            while times and times[0] <= horizon:
                times.popleft()
        if len(mine) >= self._limits.agent_consultations_per_hour:
            return f"rate limit: {len(mine)} consultations of {agent} within an hour"
        if len(self._all) >= self._limits.fund_consultations_per_hour:
            return f"rate limit: {len(self._all)} consultations of all agents within an hour"
        mine.append(now)
        self._all.append(now)
        return ""

    def adjust(self, parameter: str, now: datetime) -> str:
        """Count one adjustment; return why it is refused, empty when it is not."""
        before = self._adjusted.get(parameter)
        if before is not None and (now - before).total_seconds() < self._limits.adjustment_pause_s:
            return f"rate limit: {parameter} was adjusted {(now - before).total_seconds():.0f} s ago"
        self._adjusted[parameter] = now
        return ""


class SafetyWrapper(Agent[Output]):
    """An agent in its safety wrapper; it has the type of the agent that it wraps.

    Args:
        agent: what to wrap. A wrapper is not wrapped again.
        limits: what it may do at most.
        rates: the fund's counters, shared by its agents.
        clock: measures how long an agent takes.
    """

    def __init__(
        self,
        agent: Agent[Output],
        limits: SafetyLimits | None = None,
        *,
        rates: Rates | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(name=agent.name)
        self.agent = agent
        self.limits = limits or SafetyLimits()
        self.rates = rates or Rates(self.limits)
        self.output = agent.output
        self.llm = agent.llm
        self._clock = clock or SystemClock()
        for name in ("instructions", "reads", "when", "veto", "sees_portfolio", "task", "tier"):
            setattr(self, name, getattr(agent, name))

    @property
    def has_rule(self) -> bool:
        """Whether the wrapped agent can answer without a language model."""
        return self.agent.has_rule

    @property
    def answers_by(self) -> str:
        """Who answers for the wrapped agent."""
        return self.agent.answers_by

    async def run(self, context: Snapshot) -> Given[Output]:
        """Give the wrapped agent's output within bounds; None where it abstains or is unavailable."""
        opinion = self.opine(context)
        if not isinstance(opinion, tuple):
            opinion = await opinion
        value: Given[Output] = opinion[0].value
        return value

    def opine(self, context: Snapshot, *, counted: bool = False) -> Judged | Awaitable[Judged]:
        """Ask the agent; return its opinion and its ledger rows, as an awaitable where the agent has to wait.

        Cancellation and `KeyboardInterrupt` pass through; every other failure is an unavailable opinion.

        Args:
            context: what it sees.
            counted: whether the consultation was counted already.
        """
        if self.llm is not None and not counted and (refused := self.rates.consult(self.name, context.now)):
            return self.refused(refused), ()
        began = self._clock.monotonic()
        try:
            given = self.agent.run(context)
        except Exception as error:
            return self.refused(_told(error)), ()
        if inspect.isawaitable(given):
            return self._wait(given, context, began)
        return self._judge(given, context.now, self.agent.answers_by, began), ()

    async def _wait(self, given: Awaitable[Given[Output]], context: Snapshot, began: float) -> Judged:
        rows = Rows()
        outer = calls.set(rows)
        try:
            value = await within(self.limits.time_limit_s, given if inspect.iscoroutine(given) else _awaiting(given))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                calls.reset(outer)
                for row in rows.end():  # what was spent is told to whoever collects outside
                    record(row)
                outer = calls.set(rows)
                raise
            return self.refused(_told(error)), rows.end()  # something inside was cancelled, not the fund
        except Exception as error:
            return self.refused(_told(error)), rows.end()
        finally:
            calls.reset(outer)
        answered = next((call.route for call in reversed(rows) if call.outcome == "ok"), self.agent.answers_by)
        degraded = answered == "rules" and self.agent.answers_by != "rules"
        return self._judge(value, context.now, answered, began, degraded), rows.end()

    def _judge(self, given: Any, now: datetime, answered_by: str, began: float, degraded: bool = False) -> Opinion:
        kind = self.output.__name__
        if self._clock.monotonic() - began > self.limits.time_limit_s:
            return self.refused(f"took longer than {self.limits.time_limit_s:g} s")
        if given is None or isinstance(given, Abstain):
            reason = given.reason if given else "nothing to say"
            return Opinion(self.name, kind, Stance.ABSTAINS, reason=reason, answered_by=answered_by, degraded=degraded)
        if not isinstance(given, self.output):
            return self.refused(f"gave a {type(given).__name__} instead of a {kind}")
        try:
            value = self._checked(given)
            if (action := forbidden_action(value)) is not None:
                return self.refused(f"forbidden action: {action}")
            if isinstance(value, Adjustment) and (refused := self.rates.adjust(value.parameter, now)):
                return self.refused(refused)
            clamps: list[Clamp] = []
            value = self._clamped(value, clamps)
        except Exception as error:
            return self.refused(_told(error))
        return Opinion(self.name, kind, Stance.VALUE, value, clamps=tuple(clamps), answered_by=answered_by, degraded=degraded)

    def judged(self, opinion: Opinion, context: Snapshot) -> Opinion:
        """Judge an opinion that another process gives in the agent's name, as if the agent had given its value here."""
        if opinion.stance is not Stance.VALUE:  # it has no value, whatever is said
            reason, by, degraded = opinion.reason[:500], opinion.answered_by, opinion.degraded
            kind = self.output.__name__
            return Opinion(self.name, kind, opinion.stance, reason=reason, answered_by=by, degraded=degraded)
        mine = self._judge(opinion.value, context.now, opinion.answered_by, self._clock.monotonic(), opinion.degraded)
        return replace(mine, clamps=(*opinion.clamps, *mine.clamps)) if mine.stance is Stance.VALUE else mine

    def _checked(self, given: Any) -> Any:
        """Validate an output once more: `model_copy` and `model_construct` let anything through."""
        if type(given) is not self.output:  # what was declared is what counts, and what the log can give back
            given = self.output.model_construct(**{name: getattr(given, name) for name in self.output.model_fields})
        if self.output.model_config.get("revalidate_instances") == "always":
            return self.output.model_validate(given)
        return self.output.model_validate(given.model_dump(by_alias=True, round_trip=True))

    def _clamped(self, value: Any, clamps: list[Clamp]) -> Any:
        """Return a value with every bounded number within its bounds, at any depth."""
        if isinstance(value, tuple):
            return tuple(self._clamped(part, clamps) for part in value)
        if not isinstance(value, BaseModel):
            return value
        changed: dict[str, Any] = {}
        for name, given in value:
            if isinstance(given, (BaseModel, tuple)):
                kept = self._clamped(given, clamps)
                if kept is not given and kept != given:
                    changed[name] = kept
            elif isinstance(given, (int, float)) and not isinstance(given, bool):
                bounded = value.parameter if name == "factor" and isinstance(value, Adjustment) else name
                if bounded in self.limits.bounds:
                    low, high = self.limits.bounds[bounded]
                    kept = min(max(given, low), high)
                    if kept != given:
                        changed[name] = kept
                        clamps.append(Clamp(bounded, given, kept))
        return value.model_copy(update=changed) if changed else value

    def refused(self, why: str) -> Opinion:
        """Return the opinion of an agent that could not answer, and why."""
        return Opinion(self.name, self.output.__name__, Stance.UNAVAILABLE, reason=why[:500], answered_by=self.agent.answers_by)


Judged = tuple[Opinion, tuple[Call, ...]]


async def _awaiting(given: Awaitable[Given[Output]]) -> Given[Output]:
    return await given


def _told(error: BaseException) -> str:
    said = scrub(str(error))
    if isinstance(error, DeadlineExceeded):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    actions = (rf"(?P<{action}>{action.replace('_', ' ')}|{implied})" for action, implied in FORBIDDEN.items())
    return re.compile(rf"\b(?:{'|'.join(actions)})\b")


# A text without any of these words cannot name or imply a forbidden action; most texts end here.
_HINTS = re.compile(r"gate|risk|limit|position|size|leverage|drawdown|margin|model|key|[^\x00-\x7f]", re.IGNORECASE)
_NOT = re.compile(
    r"\b(?<!why )(?:not|never|cannot|without|avoid|refuse|nobody|no|t)(?: \w+){0,4} $"
)  # "t": what "don't" leaves
_LOOKALIKES = str.maketrans("\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0455\u03bf\u03b1\u03b9\u03c1", "aeopcyxisoaip")


def forbidden_action(value: Any) -> str | None:
    """Return the forbidden action that an output names or implies in any of its texts, None where it does not.

    Hidden and look-alike characters count as what they look like; "we must not ignore the drawdown" implies nothing.
    """
    for text in _texts(value):
        if not text.isascii():
            text = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
            text = text.lower().translate(_LOOKALIKES)
        if not _HINTS.search(text):
            continue
        for sentence in re.split(r"[.;:!?]", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower()):
            plain = " ".join(re.findall(r"[a-z]+", sentence))
            for found in _pattern().finditer(plain):
                if not _NOT.search(plain[: found.start()]):
                    return next(action for action in FORBIDDEN if found.group(action))
    return None


def _texts(value: Any) -> Iterator[str]:
    if type(value) is str:  # an Enum is closed and cannot name one
        if len(value) > 5:  # a symbol is shorter than any of them
            yield value
    elif isinstance(value, BaseModel):
        for _, part in value:
            yield from _texts(part)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _texts(key)
            yield from _texts(part)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for part in value:
            yield from _texts(part)
