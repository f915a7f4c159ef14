from __future__ import annotations

import asyncio
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from itertools import count, repeat
from pathlib import Path
from typing import Any, Literal

import pytest

from agentfund.core.router import Router
from agentfund.errors import BadRequest, BudgetExceeded, CassetteMiss, ConfigError, LLMUnavailable, Overloaded, SchemaTooNew
from agentfund.llms import RecordedLLM, ScriptedLLM
from agentfund.prompt import Completion, Prompt, Untrusted, Usage
from agentfund.protocols import LLM
from agentfund.secrets import Secret
from agentfund.testing.llm import LLMContract
from agentfund.trading import Direction, Proposal, View

LONG = Proposal(direction=Direction.LONG)


def asked(price: float = 1.0, **given: Any) -> Prompt:
    return Prompt(**{"agent": "strategist", "instructions": "Trade.", "inputs": {"price": price}, "output": Proposal, **given})


def counting(name: str = "counting") -> ScriptedLLM:
    return ScriptedLLM((f"answer {n}" for n in count(1)), name=name, price_usd="0.25", usage=Usage(7, 3, 2), latency_s=0.001)


@pytest.fixture
def cassette(tmp_path: Path) -> Path:
    return tmp_path / "cassette.db"


class TestRecorded(LLMContract):
    @pytest.fixture(autouse=True)
    def _cassette(self, cassette: Path) -> None:
        self.path = cassette

    def make_llm(self) -> LLM:
        return RecordedLLM(self.path, ScriptedLLM(repeat(LONG), price_usd=1))

    def make_failing_llm(self) -> LLM:
        self.inner = ScriptedLLM(repeat(Overloaded("busy")))
        return RecordedLLM(self.path, self.inner)

    def make_slow_llm(self) -> LLM:
        return RecordedLLM(self.path, ScriptedLLM(repeat(LONG), latency_s=60), "record")

    def requests(self) -> int:
        return len(self.inner.prompts)


async def test_a_replay_is_the_recording_without_the_bill(cassette: Path) -> None:
    """Text, route, language model, usage, list price and latency stay; nothing is billed and nobody is asked."""
    paid = await RecordedLLM(cassette, counting()).complete(asked())
    again = [await RecordedLLM(cassette, mode="replay").complete(asked()) for _ in range(2)]
    assert paid.billed_usd == Decimal("0.25")
    assert again == [replace(paid, billed_usd=Decimal(0))] * 2


async def test_auto_asks_once(cassette: Path) -> None:
    """The second time, and in the next run, the answer is read."""
    llm = counting()
    for _ in range(2):
        recorded = RecordedLLM(cassette, llm)
        assert [(await recorded.complete(asked())).text for _ in range(2)] == ["answer 1"] * 2
    assert len(llm.prompts) == 1


async def test_record_replaces_what_earlier_runs_said(cassette: Path) -> None:
    """Once per run: within a run the same question keeps its answer, as it will in the replay."""
    llm = counting()
    for expected in ("answer 1", "answer 2"):
        recorded = RecordedLLM(cassette, llm, "record")
        assert [(await recorded.complete(asked())).text for _ in range(2)] == [expected] * 2
    assert (await RecordedLLM(cassette).complete(asked())).text == "answer 2"


@pytest.mark.parametrize("mode", ["auto", "record"])
async def test_the_same_question_at_the_same_time_has_one_answer(cassette: Path, mode: Literal["auto", "record"]) -> None:
    """Each is billed what it cost, but all see the answer that a replay will see."""
    recorded = RecordedLLM(cassette, counting(), mode)
    got = await asyncio.gather(*(recorded.complete(asked()) for _ in range(5)))
    assert len({completion.text for completion in got}) == 1
    assert (await RecordedLLM(cassette).complete(asked())).text == got[0].text
    assert sum(completion.billed_usd for completion in got) == Decimal("1.25")


async def test_errors_are_not_recorded(cassette: Path) -> None:
    """The next run asks again."""
    llm = ScriptedLLM([Overloaded("busy"), "fine"])
    with pytest.raises(Overloaded):
        await RecordedLLM(cassette, llm).complete(asked())
    with pytest.raises(CassetteMiss, match="nothing of this agent is recorded"):
        await RecordedLLM(cassette, llm, "replay").complete(asked())
    assert (await RecordedLLM(cassette, llm).complete(asked())).text == "fine"


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"instructions": "Trade less."}, "differs in instructions"),
    ({"output": View}, "differs in schema"),
    ({"inputs": {"price": 1.0, "volume": 5}}, r"differs in inputs\['volume'\]"),
    ({"inputs": {"price": 2.0}}, r"differs in inputs\['price'\] \(recorded 1.0, now 2.0\)"),
    ({"untrusted": {"news": Untrusted("war")}}, r"differs in untrusted\['news'\]"),
    (
        {"tier": "small", "max_output_tokens": 9},
        r'differs in max_output_tokens \(recorded 2048, now 9\), tier \(recorded "middle", now "small"\)',
    ),
    ({"agent": "risk_gate"}, "nothing of this agent is recorded"),
]


@pytest.mark.parametrize(("change", "why"), CHANGES)
async def test_a_miss_says_what_changed_and_never_asks(cassette: Path, change: dict[str, Any], why: str) -> None:
    """It names the agent, the nearest recording's differences, and what to do."""
    llm = counting()
    await RecordedLLM(cassette, llm).complete(asked())
    prompt = replace(asked(), **change)
    with pytest.raises(CassetteMiss, match=why) as caught:
        await RecordedLLM(cassette, llm, "replay").complete(prompt)
    assert prompt.agent in str(caught.value)
    assert "Record it with" in str(caught.value)
    assert len(llm.prompts) == 1


async def test_recordings_of_two_llms_are_kept_apart(cassette: Path) -> None:
    """Without a name a replay refuses to guess; another LLM's answer is no answer."""
    for name in ("a", "b"):
        await RecordedLLM(cassette, ScriptedLLM([f"by {name}"], name=name)).complete(asked())
    assert (await RecordedLLM(cassette, name="b").complete(asked())).text == "by b"
    with pytest.raises(CassetteMiss, match=r"say whose.*'a', 'b'"):
        await RecordedLLM(cassette).complete(asked())
    with pytest.raises(CassetteMiss, match=r"no answer by c .* there is one by 'a', 'b'"):
        await RecordedLLM(cassette, name="c").complete(asked())


async def test_another_language_model_of_the_same_route_is_another_llm(cassette: Path) -> None:
    """A route that says in `llm` which language model it asks does not replay the answers of the one before."""

    class Dated(ScriptedLLM):
        def __init__(self, llm: str) -> None:
            super().__init__([llm], name="provider")
            self.llm = llm

    for llm in ("old", "new"):
        assert (await RecordedLLM(cassette, Dated(llm)).complete(asked())).text == llm


async def test_a_replay_costs_nothing_and_a_recording_what_its_llm_costs(cassette: Path) -> None:
    """What a budget reserves is zero exactly where nobody will be asked."""
    recorded = RecordedLLM(cassette, counting())
    assert recorded.worst_case_usd(asked()) == Decimal("0.25")
    await recorded.complete(asked())
    assert recorded.worst_case_usd(asked()) == 0
    assert RecordedLLM(cassette, counting(), "record").worst_case_usd(asked()) == Decimal("0.25")

    class Unpriced:
        name = "unpriced"

        async def complete(self, prompt: Prompt) -> Completion:
            return Completion("", "unpriced", "m")

    with pytest.raises(BudgetExceeded, match="unpriced has no prices"):
        RecordedLLM(cassette, Unpriced()).worst_case_usd(asked())


class Plain:
    """A route without prices that adds something, or tells in its answer what was added."""

    def __init__(self, name: str, text: str = "", adds: str = "", told: str = "") -> None:
        self.name = name
        self.adds = adds
        self.got = Completion(text, name, "m", adds=told)

    async def complete(self, prompt: Prompt) -> Completion:
        return self.got


async def test_a_router_with_a_budget_looks_after_its_own_money(cassette: Path) -> None:
    """Its recording can be a route of another router with a budget; a budget deeper inside does not hold the rest."""
    answer = ScriptedLLM(repeat(LONG), name="paid", price_usd="0.25")
    recorded = RecordedLLM(cassette, Router([answer], budget_usd_per_day=1))
    got = await Router([recorded], budget_usd_per_day=1).complete(asked())
    assert got.route == "paid"
    assert recorded.worst_case_usd(asked(2.0)) == 0
    half = Router([counting("free of limits"), Router([counting()], name="inside", budget_usd_per_day=1)])
    for unheld in (half, Router([counting()])):
        with pytest.raises(BudgetExceeded, match=r"router has no prices: .* a router a budget"):
            RecordedLLM(cassette, unheld).worst_case_usd(asked(2.0))


async def test_a_cassette_knows_which_answers_came_of_prompts_with_facts_added(cassette: Path) -> None:
    """Told by the answer, or by a bare route; a replay tells it with the answer and before it is asked."""
    routes = {
        "bare": Plain("bare", adds="today's date"),
        "telling": Plain("telling", told="the weather"),
        "pure": Plain("pure"),
    }
    for name, llm in routes.items():
        recorded = RecordedLLM(cassette, llm)
        added = {"bare": "today's date", "telling": "the weather", "pure": ""}[name]
        assert [(await recorded.complete(asked())).adds for _ in range(2)] == [added] * 2
        assert (await RecordedLLM(cassette, name=f"{name}").complete(asked())).adds == added
        assert recorded.adds == llm.adds
    assert RecordedLLM(cassette).additions() == {"bare": "today's date", "telling": "the weather"}
    assert RecordedLLM(cassette, name="bare").additions() == {"bare": "today's date"}
    inside = Router([Plain("dated", adds="today's date"), Plain("other")])
    assert RecordedLLM(cassette, inside).additions()["dated"] == "today's date"
    assert RecordedLLM(cassette).adds == ""


async def test_whose_answer_is_kept_says_what_was_added(cassette: Path) -> None:
    """Where two ask at the same time, text and added facts are those that a replay will give."""
    first = RecordedLLM(cassette, Plain("shared", "first", told="today's date"), "record")
    second = RecordedLLM(cassette, Plain("shared", "second"))
    slow = await asyncio.gather(first.complete(asked()), second.complete(asked()))
    assert {(got.text, got.adds) for got in slow} <= {("first", "today's date"), ("second", "")}
    replayed = await RecordedLLM(cassette).complete(asked())
    assert (slow[1].text, slow[1].adds) == (replayed.text, replayed.adds)


KEY = "sk-planted-9f8e7d6c5b4a39281706"


async def test_a_key_in_disguise_is_not_written(cassette: Path) -> None:
    """Neither from outside, where only the cleaned text shows it, nor from an answer, which no route lets pass."""
    secret = Secret(KEY)
    masked = KEY.replace("e", "\u0435").replace("a", "\u0430")  # Cyrillic letters that look the same
    llm = ScriptedLLM(repeat("\u200b".join(KEY)))
    with pytest.raises(BadRequest, match="neither sent nor recorded"):
        await RecordedLLM(cassette, llm).complete(asked(untrusted={"news": Untrusted(f"take {masked}")}))
    assert llm.prompts == []
    got = await RecordedLLM(cassette, llm).complete(asked())
    assert (got.text, got.answer) == ("***", None)
    kept = cassette.read_bytes().decode(errors="ignore")
    assert masked not in kept
    assert "\u200b" not in kept
    assert secret


def test_what_cannot_work_is_refused_when_it_is_made(tmp_path: Path) -> None:
    """A missing cassette, a file that is none, a folder that is not there, nobody to ask."""
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be taken for one" * 30)
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE fund (x)")
    other.close()
    with pytest.raises(ConfigError, match=r"there is no cassette .*missing\.db to replay"):
        RecordedLLM(tmp_path / "missing.db")
    with pytest.raises(
        ConfigError, match=r"notes\.txt cannot be opened for recording: file is not a database: choose another file"
    ):
        RecordedLLM(tmp_path / "notes.txt", counting())
    with pytest.raises(ConfigError, match=r"other\.db is no cassette"):
        RecordedLLM(tmp_path / "other.db", counting())
    with pytest.raises(ConfigError, match=rf"there is no folder {tmp_path / 'nowhere'}: make it first"):
        RecordedLLM(tmp_path / "nowhere" / "c.db", counting())
    with pytest.raises(ConfigError, match=r"there is no cassette .*c\.db to replay"):
        RecordedLLM(tmp_path / "nowhere" / "c.db")
    with pytest.raises(ConfigError, match=r"notes\.txt is no folder: choose another place"):
        RecordedLLM(tmp_path / "notes.txt" / "c.db", counting())
    for llm in (None, counting()):
        with pytest.raises(ConfigError, match="it is a folder: name a file in it"):
            RecordedLLM(tmp_path, llm)
    with pytest.raises(ConfigError, match="must be an LLM to ask"):
        RecordedLLM(tmp_path / "c.db", mode="record")
    with pytest.raises(ConfigError, match="auto, record or replay"):
        RecordedLLM(tmp_path / "c.db", counting(), "play")  # type: ignore[arg-type]


@contextmanager
def without_rights() -> Iterator[None]:
    """Be somebody who may only do what a file's mode allows to others."""
    if not hasattr(os, "setresuid"):
        pytest.skip("there is no way to give up rights here")
    mine = os.getresuid()
    if mine[1] == 0:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(*mine)


RIGHTS: list[tuple[int, int, bool, str]] = [  # of the folder, of the file
    (0o555, 0o666, True, "no permission to write in the folder .*: allow it"),
    (0o777, 0o444, True, "the file is read-only: allow writing to it, or replay only"),
    (0o777, 0o000, False, "no permission to read the file: allow it"),
    (0o666, 0o666, False, "no permission to look into the folder .*: allow it"),
    (0o666, 0o666, True, "no permission to look into the folder .*: allow it"),
]


@pytest.mark.parametrize(("folder", "file", "writable", "why"), RIGHTS)
def test_a_missing_permission_is_named(folder: int, file: int, writable: bool, why: str) -> None:
    """Which, of what, and what to do about it."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        RecordedLLM(place / "c.db", counting()).close()
        (place / "c.db").chmod(file)
        place.chmod(folder)
        try:
            with without_rights(), pytest.raises(ConfigError, match=why):
                RecordedLLM(place / "c.db", counting() if writable else None)
        finally:
            place.chmod(0o777)


def test_an_older_cassette_is_not_guessed_at(cassette: Path) -> None:
    """It does not know which answers came of prompts with facts added, so no honest backtest could use it."""
    RecordedLLM(cassette, counting()).close()
    with sqlite3.connect(cassette) as older:
        older.execute("PRAGMA user_version = 1")
    older.close()
    for llm in (None, counting()):
        with pytest.raises(ConfigError, match=r"of an older agentfund, .*: record another"):
            RecordedLLM(cassette, llm)


def test_a_newer_cassette_is_not_guessed_at(cassette: Path) -> None:
    """It says to upgrade."""
    RecordedLLM(cassette, counting()).close()
    with sqlite3.connect(cassette) as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(SchemaTooNew, match="version 99, this agentfund reads 2: upgrade"):
        RecordedLLM(cassette)


async def test_an_answer_that_cannot_be_kept_is_an_error_that_carries_its_cost(cassette: Path) -> None:
    """The answer is lost; what it was billed is not."""
    recorded = RecordedLLM(cassette, counting())
    with sqlite3.connect(cassette) as full:
        full.execute("CREATE TRIGGER full BEFORE INSERT ON answers BEGIN SELECT RAISE(ABORT, 'no space'); END")
    full.close()
    with pytest.raises(LLMUnavailable, match="no space") as caught:
        await recorded.complete(asked())
    assert caught.value.completion is not None
    assert caught.value.completion.billed_usd == Decimal("0.25")


FULL_DISK = """
import asyncio, resource, sys
from agentfund.errors import LLMUnavailable
from agentfund.llms import RecordedLLM, ScriptedLLM
from agentfund.prompt import Prompt
from agentfund.trading import Proposal
llm = ScriptedLLM(lambda prompt: "answer")
recorded = RecordedLLM(sys.argv[1], llm)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
try:
    asyncio.run(recorded.complete(Prompt("strategist", "x" * 100_000, {}, Proposal)))
except LLMUnavailable as error:
    print(len(llm.prompts), error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a file cannot be kept from growing there")
def test_with_a_full_disk_nobody_is_asked(cassette: Path) -> None:
    """The question is written before it is sent, so an answer that cannot be kept is not paid for."""
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(cassette)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"0 cassette {cassette} cannot be used"), done.stdout + done.stderr


def _record(path: str, name: str) -> None:
    async def run() -> None:
        recorded = RecordedLLM(path, ScriptedLLM(lambda prompt: f"by {name}", name="shared"))
        for price in range(20):
            await recorded.complete(asked(price))
        recorded.close()

    asyncio.run(run())


def test_two_processes_share_a_cassette(cassette: Path) -> None:
    """Both record into it at the same time, from the first table on; every question has one answer."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_record, args=(str(cassette), name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    replay = RecordedLLM(cassette)
    assert {asyncio.run(replay.complete(asked(price))).text[:3] for price in range(20)} == {"by "}
