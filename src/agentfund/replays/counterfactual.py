"""What would have been: a recorded run through other agents, limits or costs, asking those agents that changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentfund.errors import ConfigError
from agentfund.replays.causes import Causes, shown
from agentfund.replays.cycles import cycle_of
from agentfund.replays.diff import Diff, Sides
from agentfund.replays.recorded import TOLD
from agentfund.replays.roles import Cast, cast
from agentfund.replays.settings import Settings, changes, settings_of
from agentfund.replays.stage import Moment, Progress, Stage, moment_of

if TYPE_CHECKING:
    from datetime import datetime

    from agentfund.core.agent import Agent
    from agentfund.core.consensus import Consensus
    from agentfund.core.gate import Limits
    from agentfund.core.safety import SafetyLimits
    from agentfund.core.sizing import Sizing
    from agentfund.messages import Message
    from agentfund.protocols import Broker, Feed
    from agentfund.replays.answers import Ask
    from agentfund.replays.recorded import Recorded
    from agentfund.replays.tally import Tally


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """What a counterfactual rerun came to.

    Args:
        recorded: the run.
        cast: its agents beside those of the rerun.
        settings: settings that were changed, by name, with both values.
        broker: the broker's settings that were changed, in words; empty where it is the same.
        ask: whether agents that did not change were asked too where what they look at did.
        tally: who was asked, and what came from the log.
        diff: both runs side by side.
        book_since: the first cycle in which cash, positions or orders were others; 0 for none.
        first: the first cycle of the window.
        last: the last one.
        begin: when the first cycle was.
        end: when the last one was.
        messages: the rerun's log, where it was kept: for `Report.of`, or `journal`.
        remarks: what else has to be said, one sentence each.
    """

    recorded: Recorded
    cast: Cast
    settings: Mapping[str, tuple[Any, Any]]
    broker: str
    ask: Ask
    tally: Tally
    diff: Diff
    book_since: int
    first: int
    last: int
    begin: datetime
    end: datetime
    messages: tuple[Message, ...]
    remarks: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Counterfactual of run {self.recorded.started.run[:12]}: {len(self.diff.changes):,} changes>"

    def __str__(self) -> str:
        return self.text()

    @property
    def what_changed(self) -> tuple[str, ...]:
        """What is another than in the recorded run, one item each."""
        agents = [f"{role.name}: {role.why}" for role in self.cast.changed]
        removed = [f"{name} is not there any more" for name in self.cast.removed]
        settings = [f"{name} {shown(old)} -> {shown(new)}" for name, (old, new) in self.settings.items()]
        return (*agents, *removed, *settings, *([self.broker] if self.broker else []))

    def text(self) -> str:
        """Return it as plain text."""
        from agentfund.replays.text import lines

        return "\n".join(lines(self))

    def html(self) -> str:
        """Return it as one self-contained HTML page that loads nothing from anywhere."""
        from agentfund.replays.html import page

        return page(self)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "run": self.recorded.started.run,
            "first": self.first,
            "last": self.last,
            "begin": self.begin.isoformat(),
            "end": self.end.isoformat(),
            "changed": list(self.what_changed),
            "ask": self.ask,
            **self.tally.to_json(),
            "book_since": self.book_since or None,
            "diff": self.diff.to_json(),
            "remarks": list(self.remarks),
        }


async def counterfactual(
    recorded: Recorded,
    agents: Sequence[Agent[Any]],
    feed: Feed,
    *,
    limits: Limits | None = None,
    sizing: Sizing | None = None,
    consensus: Consensus | None = None,
    safety: SafetyLimits | None = None,
    broker: Broker | None = None,
    changed: Collection[str] = (),
    unchanged: Collection[str] | Mapping[str, str] = (),
    ask: Ask = "changed",
    window: tuple[Moment, Moment] = (None, None),
    insist: Collection[str] = (),
    through_outages: bool = False,
    keep: bool = False,
    progress: Progress | None = None,
) -> Counterfactual:
    """Run a recorded run once more with something changed, and say what comes out otherwise, and why.

    Agents whose descriptions are those of the log do not answer: their opinions are taken from it. Settings that are not
    given are those of the recorded run.

    Args:
        recorded: the run.
        agents: all agents of the rerun, the changed ones among them.
        feed: the bars that the run saw.
        limits: other limits of the gate.
        sizing: other sizes.
        consensus: another consensus.
        safety: other bounds; recorded opinions pass them once more.
        broker: another paper broker, such as one with other costs.
        changed: names of agents that are asked whatever their descriptions say; so is an agent whose router is another one.
        unchanged: names of agents that are not asked although their descriptions differ; a mapping gives the names that they
            had in the recorded run.
        ask: "changed" asks those that changed and nobody else: a recorded opinion stands although what its agent looks at is
            another, and where there is none it is an abstention. "affected" asks in both cases.
        window: the first and the last cycle, each by number or by time; before it everything is as the log tells.
        insist: routes that are asked about the past although they tell a language model of today.
        through_outages: whether to go on where nobody answers an agent; the rerun stops otherwise.
        keep: whether the rerun's log is kept.
        progress: called with (cycles done, cycles in all) now and then.

    Raises:
        ConfigError: the feed holds other data, a name is not known, or the run cannot be rerun here.
        LLMUnavailable: nobody answered a language model's agent.
    """
    if ask not in ("changed", "affected"):
        raise ConfigError(f"ask={ask!r}: there is changed, affected")
    started = recorded.started
    before = settings_of(started)
    after = Settings(limits or before.limits, sizing or before.sizing, consensus or before.consensus, safety or before.safety)
    stage = Stage(recorded, agents, feed, after, broker=broker, window=window)
    players = cast(started.agents, stage.cards, changed, unchanged)
    found = changes(before, after)
    answers = stage.ready(
        players.roles,
        {role.name for role in players.changed},
        ask=ask,
        rejudge=any(name.startswith("safety.") for name in found),
        insist=insist,
        through_outages=through_outages,
    )
    fresh = stage.began_as
    other = _other_broker(started.broker, started.cash, fresh.broker, fresh.cash)
    late = [agent.name for agent in stage.fund.pipeline.after]
    causes = Causes(players.removed, late, found, bool(other))
    sides = Sides(stage.history, stage.window, (started.cash, fresh.cash), causes)
    written: list[Message] = [stage.opening()] if keep else []
    if keep and stage.window.first > 1:
        async for message in recorded.stream():
            if message.cycle >= stage.window.first:
                break
            if message.cycle and message.type in TOLD:
                written.append(message)
    last = 0
    async for cycle, messages in stage.play(passed=sides.before, progress=progress):
        last = cycle.number
        if cycle.number < stage.window.first:
            sides.before(cycle)
            continue
        if keep:
            written += messages
        if cycle.time is not None or messages:
            time = cycle.time or messages[0].time
            sides.add(cycle, cycle_of(cycle.number, messages), time, answers.book_since)
    first = stage.window.first
    begin, end = (moment_of(recorded, stage.history, number) for number in (first, last))
    return Counterfactual(
        recorded=recorded,
        cast=players,
        settings=found,
        broker=other,
        ask=ask,
        tally=answers.tally,
        diff=sides.diff(last, end),
        book_since=answers.book_since,
        first=first,
        last=last,
        begin=begin,
        end=end,
        messages=tuple(message.at(number) for number, message in enumerate(written, 1)),
        remarks=(*stage.remarks, *(f"{note}." for note in players.notes)),
    )


def _other_broker(old: Mapping[str, Any], cash: Any, new: Mapping[str, Any], capital: Any) -> str:
    if not old.get("simulated", False):
        return "a paper broker in place of the real one"
    told = [f"cash {cash:,} -> {capital:,}"] if cash != capital else []
    told += [f"broker {name} {old.get(name)} -> {new.get(name)}" for name in new if old.get(name) != new.get(name)]
    return ", ".join(told)
