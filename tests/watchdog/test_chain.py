"""The record of halts: who may write what, and what a changed byte does."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentfund.errors import BusUnavailable, ConfigError
from agentfund.trading import Level
from agentfund.watchdog import BrokenRecord, Cause, Halts, make_folder
from agentfund.watchdog.chain import GENESIS, Chain, Line, anew, salvage
from agentfund.watchdog.keys import Key

DOG, OPERATOR, OTHER = Key.new(), Key.new(), Key.new()
NOW = datetime(2024, 3, 5, tzinfo=UTC)


def cause(name: str = "a", level: Level = Level.HALT) -> Cause:
    return Cause(name, level, "test", "because", "tester", NOW)


def chain(*lines: Line) -> Chain:
    found = Chain(DOG.public, OPERATOR.public)
    found.add(b"".join(line.text() for line in lines))
    return found


def halted(n: int = 1, prev: str = GENESIS, name: str = "a", level: Level = Level.HALT) -> Line:
    return Line.make(n, "halt", cause(name, level).to_json(), prev)


def lifted(after: Line, name: str = "a", key: Key = OPERATOR, reason: str = "checked", kind: Any = "lift") -> Line:
    return Line.make(after.n + 1, kind, {"cause": name, "reason": reason, "by": "me", "time": ""}, after.hash, key)


def test_a_lift_takes_away_the_one_cause_that_it_names() -> None:
    """The other cause stays, and with it the level."""
    one = halted()
    two = halted(2, one.hash, "b", Level.KILL)
    assert chain(one, two).level is Level.KILL
    assert chain(one, two, lifted(two, "b")).level is Level.HALT
    assert chain(one, two, lifted(two, "a")).worst == cause("b", Level.KILL)


WRONG: dict[str, list[Line]] = {
    "no key": [halted(), Line.make(2, "lift", {"cause": "a", "reason": "x"}, halted().hash)],
    "another's key": [halted(), lifted(halted(), key=OTHER)],
    "the watchdog's key": [halted(), lifted(halted(), key=DOG)],
    "no reason": [halted(), lifted(halted(), reason="  ")],
    "no such cause": [halted(), lifted(halted(), "b")],
    "the watchdog ends a halt": [halted(), lifted(halted(), key=DOG, kind="over")],
    "somebody ends a caution": [halted(level=Level.CAUTION), lifted(halted(level=Level.CAUTION), key=OTHER, kind="over")],
    "a halt of level 0": [halted(level=Level.NORMAL)],
    "the same id twice": [halted(), halted(2, halted().hash)],
    "a hole": [halted(), halted(3, halted().hash, "b")],
    "another line before": [halted(), halted(2, GENESIS, "b")],
    "anew by another": [anew(0, GENESIS, [], [], OTHER)],
    "anew in the middle": [halted(), anew(1, halted().hash, [], [], DOG)],
    "a forged lift in anew": [anew(2, GENESIS, [], [lifted(halted(), key=OTHER)], DOG)],
}


@pytest.mark.parametrize("what", WRONG)
def test_a_line_that_its_writer_must_not_write_breaks_the_record(what: str) -> None:
    """And what stood before it still holds."""
    with pytest.raises(BrokenRecord):
        chain(*WRONG[what])
    content = b"".join(line.text() for line in WRONG[what])
    assert salvage(content, DOG.public, OPERATOR.public).level is max(
        (Level(line.body["level"]) for line in WRONG[what][:1] if line.kind == "halt"), default=Level.NORMAL
    )


def test_the_watchdog_ends_what_may_end_by_itself() -> None:
    """A caution or reduce-only, with its signature."""
    one = halted(level=Level.REDUCE_ONLY)
    assert chain(one, lifted(one, key=DOG, kind="over")).level is Level.NORMAL


def test_a_lift_counts_in_its_place_alone() -> None:
    """A lift that was copied behind another line lifts nothing."""
    one = halted()
    lift = lifted(one)
    again = halted(3, lift.hash, "b")
    with pytest.raises(BrokenRecord):
        chain(one, lift, again, lift)
    moved = Line(4, "lift", {**lift.body, "cause": "b"}, again.hash, lift.hash, lift.signature)
    with pytest.raises(BrokenRecord):
        chain(one, lift, again, moved)


def test_every_byte_of_a_record_counts() -> None:
    """Flipped, it is never a lower level and always noticed, by the chain or by the head that the watchdog has signed."""
    one = halted()
    two = halted(2, one.hash, "b", Level.REDUCE_ONLY)
    three = lifted(two, "b")
    content = b"".join(line.text() for line in (one, two, three))
    whole = chain(one, two, three)
    for at in range(len(content)):
        for bit in (at % 8, 5):  # the fifth is the case of a letter
            changed = bytearray(content)
            changed[at] ^= 1 << bit
            found = Chain(DOG.public, OPERATOR.public)
            with pytest.raises(BrokenRecord):
                found.add(bytes(changed))
            assert not found.holds(whole.n, whole.head)


def test_a_record_that_is_cut_does_not_hold_its_head() -> None:
    """Whole lines may be missing at the end: the chain is sound, and too short."""
    one = halted()
    two = halted(2, one.hash, "b")
    whole, cut = chain(one, two), chain(one)
    assert whole.holds(2, two.hash)
    assert whole.holds(1, one.hash)
    assert whole.holds(0, GENESIS)
    assert not cut.holds(2, two.hash)
    assert not cut.holds(1, two.hash)


def test_a_record_begun_anew_goes_on_from_the_old_one() -> None:
    """It holds the old head, keeps what was latched, and its earlier lifts are still the operator's."""
    one = halted()
    two = halted(2, one.hash, "b")
    three = lifted(two)
    old = chain(one, two, three)
    first = anew(old.n, old.head, old.open.values(), old.lifted.values(), DOG)
    new = chain(first, lifted(first, "b"))
    assert new.holds(3, three.hash)
    assert chain(first).open == {"b": cause("b")}
    assert set(new.lifted) == {"a", "b"}
    assert new.n == 5


def test_lines_are_read_as_they_were_written_or_not_at_all() -> None:
    """Other white space, other order, other types of the same JSON: no line."""
    line = halted()
    told = json.loads(line.text())
    for text in (
        json.dumps(told),
        line.text().decode().replace('"n":1', '"n":1.0'),
        line.text().decode().strip() + " ",
        "[]",
        "1",
        "",
    ):
        with pytest.raises(BrokenRecord):
            Chain(DOG.public, OPERATOR.public).add(text.encode() + b"\n")


class Forging(RuleBasedStateMachine):
    """Halts, lifts and damage in any order: what was latched and not lifted by the operator is never gone unnoticed."""

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.path = Path(tempfile.mkdtemp()) / "w"
        folder = make_folder(str(self.path), passphrase=None)
        self.halts, self.key = Halts(self.path), folder.operators_key(None)
        self.model: dict[str, Level] = {}
        self.head = (0, GENESIS)
        self.sound = True

    @precondition(lambda self: self.sound)
    @rule(level=st.sampled_from([Level.CAUTION, Level.REDUCE_ONLY, Level.HALT, Level.KILL]))
    def halt(self, level: Level) -> None:
        self.model[self.halts.halt("x", level=level).id] = level
        self._seen()

    @precondition(lambda self: self.sound and self.model)
    @rule(data=st.data(), honest=st.booleans())
    def lift(self, data: st.DataObject, honest: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        if honest:
            self.halts.lift(name, "ok", self.key)
            del self.model[name]
            self._seen()
        else:
            with pytest.raises(ConfigError):
                self.halts.lift(name, "ok", OTHER)

    @precondition(lambda self: self.sound and self.head[0])
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        content = self.halts.folder.halts.read_bytes()
        at = data.draw(st.integers(0, len(content) - 2))  # without its last newline alone a record has lost nothing
        self.halts.folder.halts.write_bytes(content[:at])
        self.sound = False

    @precondition(lambda self: self.sound and self.head[0])
    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        content = bytearray(self.halts.folder.halts.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
        self.halts.folder.halts.write_bytes(bytes(content))
        self.sound = False

    @precondition(lambda self: not self.sound)
    @rule()
    def halt_all_the_same(self) -> None:
        self.halts.halt("x")

    def _seen(self) -> None:
        chain = self.halts.read()
        self.head = (chain.n, chain.head)

    @invariant()
    def what_is_latched_is_what_was_latched(self) -> None:
        if not hasattr(self, "model"):
            return
        try:
            chain = self.halts.read()
        except BrokenRecord:
            assert not self.sound
            return
        if chain.holds(*self.head):
            assert self.sound
            assert {name: one.level for name, one in chain.open.items()} == self.model
        else:
            assert not self.sound


TestForging = Forging.TestCase
TestForging.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)


def test_a_halt_needs_a_reason_and_a_level(tmp_path: Path) -> None:
    """An empty one tells the operator nothing."""
    make_folder(str(tmp_path / "w"), passphrase=None)
    halts = Halts(tmp_path / "w")
    with pytest.raises(ConfigError, match="needs a reason"):
        halts.halt("  ")
    with pytest.raises(ConfigError, match="has a level"):
        halts.halt("x", level=Level.NORMAL)
    with pytest.raises(ConfigError, match="no folder of a watchdog"):
        Halts(tmp_path / "nowhere").halt("x")


def test_a_lift_names_a_cause_and_a_reason(tmp_path: Path) -> None:
    """Anything else changes nothing."""
    key = make_folder(str(tmp_path / "w"), passphrase=None).operators_key(None)
    halts = Halts(tmp_path / "w")
    held = halts.halt("x")
    before = halts.content()
    with pytest.raises(ConfigError, match="no cause 'wrong' is latched"):
        halts.lift("wrong", "ok", key)
    with pytest.raises(ConfigError, match="needs a reason"):
        halts.lift(held.id, " ", key)
    with pytest.raises(ConfigError, match="not the operator's key"):
        halts.lift(held.id, "ok", OTHER)
    assert halts.content() == before
    halts.lift(held.id, "ok", key)
    assert halts.read().level is Level.NORMAL


def test_a_halt_is_latched_although_somebody_holds_the_lock(tmp_path: Path) -> None:
    """A lift is not: it can wait."""
    import fcntl

    key = make_folder(str(tmp_path / "w"), passphrase=None).operators_key(None)
    halts = Halts(tmp_path / "w")
    with halts.folder.halts.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        name = halts.halt("x", patience_s=0.02).id
        assert list(halts.read().open) == [name]
        with pytest.raises(ConfigError, match="is locked"):
            halts.lift(name, "ok", key)


def test_a_halt_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """The folder is there, and its record is not a file."""
    folder = make_folder(str(tmp_path / "w"), passphrase=None)
    folder.halts.unlink()
    folder.halts.mkdir()
    with pytest.raises(BusUnavailable, match="cannot be written: Is a directory; nothing was changed"):
        Halts(tmp_path / "w").halt("x")
