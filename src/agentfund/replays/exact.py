"""The same run once more: whether plain code makes of the same bars and opinions the same log, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from agentfund.clock import EPOCH
from agentfund.core.safety import BOUNDS
from agentfund.errors import ConfigError
from agentfund.messages import Ended, Message, Observed, Started
from agentfund.replays.roles import Role
from agentfund.replays.settings import settings_of
from agentfund.replays.stage import Moment, Progress, Stage, prices_differ
from agentfund.replays.tally import Tally

if TYPE_CHECKING:
    from agentfund.core.agent import Agent
    from agentfund.protocols import Broker, Feed
    from agentfund.replays.cycles import Cycle
    from agentfund.replays.recorded import Recorded

Who = Literal["rules", "nobody", "all"]

NOTHING = "nothing"
"""Stands where one of the two logs has no message."""

_LIVE = ("offset", "appended", "token")
_TIMES = {
    "Decided": ("decision.time",),
    "Intended": ("order.time", "order.token"),
    "Approved": ("order_hash",),
}
_NAMES = ("run", "digest", "version")  # they follow from the rest


class Difference(NamedTuple):
    """The first place in which two logs differ.

    Attributes:
        offset: place of the message in the recorded log.
        cycle: its cycle.
        message: what kind of message it is.
        field: the field that differs, such as `payload.decision.reason`; empty where one log has no such message.
        recorded: its value in the log.
        rerun: its value in the rerun.
    """

    offset: int
    cycle: int
    message: str
    field: str
    recorded: Any
    rerun: Any

    def __str__(self) -> str:
        where = f"{self.message}, message {self.offset:,} of the log, cycle {self.cycle:,}"
        told = f", {self.field}" if self.field else ""
        return f"{where}{told}: {_short(self.recorded)} in the log, {_short(self.rerun)} in the rerun"


@dataclass(frozen=True, slots=True)
class Exact:
    """What an exact rerun came to; true where nothing differs.

    Args:
        run: id of the recorded run.
        cycles: how many were rerun.
        compared: messages of the log that were compared.
        difference: the first difference, None where there is none.
        tally: who was asked, and what came from the log.
        remarks: what was not compared, and what cannot be the same; one sentence each.
    """

    run: str
    cycles: int
    compared: int
    difference: Difference | None
    tally: Tally
    remarks: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether nothing differs in what was compared."""
        return self.difference is None

    def __bool__(self) -> bool:
        return self.identical

    def __str__(self) -> str:
        found = "the same" if self.difference is None else f"another run. First difference: {self.difference}"
        asked = sum(self.tally.asked.values())
        lines = [
            f"Run {self.run[:12]} once more, {self.cycles:,} cycles, {self.compared:,} messages compared: {found}",
            f"Agents were asked {asked:,} times; {sum(self.tally.given.values()):,} opinions came from the log.",
        ]
        return "\n".join([*lines, *self.remarks])

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "run": self.run,
            "identical": self.identical,
            "cycles": self.cycles,
            "compared": self.compared,
            "difference": None if self.difference is None else self.difference._asdict(),
            **self.tally.to_json(),
            "remarks": list(self.remarks),
        }


async def exact(
    recorded: Recorded,
    agents: Sequence[Agent[Any]],
    feed: Feed,
    *,
    broker: Broker | None = None,
    ask: Who = "rules",
    window: tuple[Moment, Moment] = (None, None),
    insist: Collection[str] = (),
    progress: Progress | None = None,
) -> Exact:
    """Run a recorded run once more and compare its log message by message; it stops at the first difference.

    Args:
        recorded: the run.
        agents: the agents of the run.
        feed: the bars that it saw.
        broker: a fresh simulated broker like the run's; a `PaperBroker` is made from the log.
        ask: who is asked: "rules" those that did not and cannot ask a language model, "nobody", or "all". For the others
            the opinions are taken from the log, and so cannot be found to be wrong: what follows from them can.
        window: first and last cycle, each by number or by time; the log is believed up to there.
        insist: routes that are asked about the past although they tell a language model of today.
        progress: called with (cycles done, cycles in all) now and then.

    Raises:
        ConfigError: the feed holds other data, or the run cannot be rerun here.
    """
    stage = Stage(recorded, agents, feed, settings_of(recorded.started), broker=broker, window=window, keep=True, named=False)
    if ask not in ("rules", "nobody", "all"):
        raise ConfigError(f"ask={ask!r}: there is rules, nobody, all")
    names = {
        wrapper.name
        for wrapper in stage.fund.pipeline.agents
        if ask == "all" or (ask == "rules" and wrapper.llm is None and wrapper.name not in recorded.callers)
    }
    known = {str(card["name"]) for card in recorded.started.agents}
    roles = [Role(name, name if name in known else "", False) for name in map(_name, stage.cards)]
    answers = stage.ready(roles, names, insist=insist, by_log=True)
    comparison = _Comparison(recorded, stage)
    fresh = stage.began_as
    found = comparison.beginning(fresh)
    if found is None and fresh.digest != recorded.started.digest and not recorded.live:
        if set(stage.fund.safety.bounds) == set(BOUNDS):
            found = Difference(1, 0, Started.__name__, "payload.digest", recorded.started.digest, fresh.digest)
        stage.named = True  # bounds of one's own may have been given in another order, on which the digest depends
    cycles = 0
    if found is None:
        play = stage.play(passed=comparison.before, progress=progress)
        try:
            async for cycle, messages in play:
                if cycle.number >= stage.window.first:
                    cycles += 1
                    found = comparison.cycle(cycle, messages)
                if found is not None:
                    break
        finally:
            await play.aclose()
    run = recorded.started.run
    return Exact(run, cycles, comparison.compared, found, answers.tally, (*stage.remarks, *comparison.remarks))


class _Comparison:
    """Compares two logs cycle by cycle."""

    def __init__(self, recorded: Recorded, stage: Stage) -> None:
        self.compared = 0
        self._recorded = recorded
        self._stage = stage
        self._whole = stage.window.first == 1 and not recorded.live
        self._places = self._whole and recorded.numbered and not recorded.left_out
        self._leave = _LIVE if recorded.live else () if self._places else ("offset",)
        self._place = 0
        self._opening: list[Message] = []
        self._prices_off = 0
        self._stopped = False

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was not compared."""
        said = []
        version = self._recorded.started.version
        if left := self._recorded.left_out:
            told = ", ".join(f"{count:,} {what}" for what, count in left.items())
            said.append(
                f"Not compared, because no rerun writes them: {told}; so the offsets of messages are not compared either."
            )
        elif not self._places and not self._recorded.live:
            why = "the rerun begins later" if self._stage.window.first > 1 else "other funds write to the log"
            said.append(f"Offsets of messages are not compared, because {why}.")
        if self._recorded.live:
            said.append(
                "Not compared, because they follow the machine's clock: times of writing, decisions and orders, offsets,"
                " fencing tokens, the order of messages within a cycle, the marks of cycles in which nobody said anything."
            )
        if self._prices_off:
            said.append(f"In {self._prices_off:,} cycles the prices on the log are not the closes of the feed.")
        if self._stopped:
            said.append("The log ends in the middle of its last cycle, so of that cycle its beginning was compared.")
        if self._whole and self._stage.named:
            said.append("The run's name could not be made again from its settings, so it was taken from the log.")
        if version != self._stage.began_as.version:
            said.append(f"agentfund {version} made the log, {self._stage.began_as.version} the rerun.")
        return tuple(said)

    def beginning(self, fresh: Started) -> Difference | None:
        """Compare what the two runs are."""
        old, new = _payload(self._recorded.started), _payload(fresh)
        names = ("agents", "settings", "cash") if self._recorded.live else [n for n in old if n not in _NAMES]
        for name in names:
            if path := _path(old[name], new[name], f"payload.{name}"):
                return Difference(1, 0, Started.__name__, *path)
        return None

    def cycle(self, cycle: Cycle, messages: list[Message]) -> Difference | None:
        """Compare one cycle."""
        if self._recorded.live:
            return self._by_id(cycle, messages)
        old, self._opening = [*self._opening, *cycle.messages], []
        return self._in_order(old, messages)

    def before(self, cycle: Cycle) -> None:
        """Keep the beginning of the log, which the rerun writes before its first cycle."""
        if self._whole and self._stage.named:  # what the first message says was compared before
            self._place += len(cycle.messages)
            self.compared += len(cycle.messages)
        elif self._whole:
            self._opening += cycle.messages

    def _in_order(self, old: list[Message], new: list[Message]) -> Difference | None:
        for at, message in enumerate(old):
            if at >= len(new):
                return Difference(message.offset, message.cycle, message.type, "", "the message", NOTHING)
            self._place += 1
            if found := self._one(message, new[at]):
                return found
            self.compared += 1
        if len(new) > len(old):
            extra = new[len(old)]
            if not self._recorded.ended and extra.cycle == self._recorded.cycles:
                self._stopped = True
                return None
            after = old[-1].offset if old else 0
            return Difference(after, extra.cycle, extra.type, "", NOTHING, "the message")
        return None

    def _by_id(self, cycle: Cycle, messages: list[Message]) -> Difference | None:
        if cycle.seen is not None and cycle.time is not None:
            self._prices_off += prices_differ(cycle.seen.prices, self._stage.history, cycle.time)
        fresh = {message.id: message for message in messages if message.type != Ended.__name__}
        quiet = not any(message.type not in (Observed.__name__, Ended.__name__) for message in messages)
        for message in cycle.messages:
            if message.type in (Started.__name__, Ended.__name__):
                continue
            twin = fresh.pop(message.id, None)
            if twin is None:
                if message.type == Observed.__name__ and quiet:
                    continue
                return Difference(message.offset, message.cycle, message.type, "", "the message", NOTHING)
            if found := self._one(message, twin):
                return found
            self.compared += 1
        if fresh and not (not self._recorded.ended and cycle.number == self._recorded.cycles):
            extra = next(iter(fresh.values()))
            return Difference(0, extra.cycle, extra.type, "", NOTHING, "the message")
        return None

    def _one(self, old: Message, new: Message) -> Difference | None:
        if self._places:
            new = new.at(self._place)
        if not self._leave and old.line() == new.line():
            return None
        before, after = _fields(old), _fields(new)
        for told in (before, after):
            for name in self._leave:
                told.pop(name)
            for path in _TIMES.get(old.type, ()) if self._recorded.live else ():
                _drop(told["payload"], path)
            if old.type == Started.__name__:
                told["payload"].pop("version")
        if found := _path(before, after, ""):
            return Difference(old.offset, old.cycle, old.type, *found)
        return None


def _name(card: Mapping[str, Any]) -> str:
    return str(card["name"])


def _payload(started: Started) -> dict[str, Any]:
    told = Message.of(started, id="", stream="", producer="", time=EPOCH).payload
    plain: dict[str, Any] = json.loads(json.dumps(told))
    return plain


def _fields(message: Message) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(message.line())
    return told


def _drop(told: dict[str, Any], path: str) -> None:
    *parents, last = path.split(".")
    for name in parents:
        told = told.get(name, {})
    told.pop(last, None)


def _path(old: Any, new: Any, at: str) -> tuple[str, Any, Any] | None:
    """Return the first place in which two JSON values differ, with both values."""
    if _text(old) == _text(new):
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            if name not in old or name not in new:
                return f"{at}.{name}".lstrip("."), old.get(name, NOTHING), new.get(name, NOTHING)
            if found := _path(old[name], new[name], f"{at}.{name}".lstrip(".")):
                return found
        return None
    if isinstance(old, list) and isinstance(new, list):
        for number, (one, other) in enumerate(zip(old, new, strict=False)):
            name = one.get("name", number) if isinstance(one, dict) else number
            if found := _path(one, other, f"{at}[{name}]"):
                return found
        if len(old) == len(new):
            return None
        return f"{at} (length)", len(old), len(new)
    return at, old, new


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
