"""Record and replay: a run that was paid for once can be run again, bit for bit, without a call."""

from __future__ import annotations

import json
import os
import sqlite3
import weakref
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from agentfund.errors import BadRequest, BudgetExceeded, CassetteMiss, ConfigError, LLMUnavailable, SchemaTooNew
from agentfund.prompt import Completion, Prompt, Usage
from agentfund.protocols import LLM, Priced, identity
from agentfund.secrets import any_secret, holds_secret, scrub

if TYPE_CHECKING:
    from os import PathLike

VERSION = 2
_APPLICATION = 0x61664C4C  # "afLL", in the file's header: tells a cassette from any other SQLite file
_TABLES = """
CREATE TABLE questions (number INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, agent TEXT NOT NULL, question TEXT NOT NULL);
CREATE INDEX questions_of ON questions (agent);
CREATE TABLE answers (
    digest TEXT NOT NULL, key TEXT NOT NULL, text TEXT NOT NULL, route TEXT NOT NULL, llm TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL, billed_usd TEXT NOT NULL, notional_usd TEXT, latency_s REAL NOT NULL,
    request_id TEXT NOT NULL, adds TEXT NOT NULL,
    PRIMARY KEY (digest, key)
)
"""
_FIND = """
SELECT key, text, route, llm, input_tokens, output_tokens, cached_tokens, cache_write_tokens, notional_usd, latency_s,
    request_id, adds
FROM answers WHERE digest = ? AND (key = ? OR ? IS NULL) ORDER BY key
"""
_ADDED = "SELECT DISTINCT route, adds FROM answers WHERE adds != '' AND (key = ? OR ? IS NULL) ORDER BY route, adds"
_ASK = "INSERT OR IGNORE INTO questions (digest, agent, question) VALUES (?, ?, ?)"
_KEEP = " INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_NEAR = """
SELECT question FROM questions WHERE agent = ? AND digest IN (SELECT digest FROM answers) ORDER BY number DESC LIMIT 500
"""
_WAIT_S = 30.0
_MOST = 5  # differences that a miss tells
_SHOWN = 60  # characters of each side
_REMEDIES = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space",
    sqlite3.SQLITE_READONLY: "it is read-only: allow writing to the file and its folder",
    sqlite3.SQLITE_IOERR: "the system refused the read or write: check the disk, its quota and file-size limits",
    sqlite3.SQLITE_BUSY: "another process keeps it locked: end that process (a backup, an open shell)",
    sqlite3.SQLITE_CORRUPT: "it is damaged: restore it from a backup, or record another",
    sqlite3.SQLITE_NOTADB: "choose another file",
}


class RecordedLLM:
    """An LLM with a memory on disk (a cassette): the same question gets the same answer.

    A recording is found by the digest of the whole prompt and by what answers: route, language model and settings, and all
    of a router's routes. Errors are not recorded. A replay bills nothing; usage, list price,
    latency, route, request id, and what the route had added to the prompt are those of the recording, so two replays have
    equal ledgers. Any number of processes may share a cassette.

    What is stored, in clear: the question with all its inputs (prices, positions, news), the answer, and what it took.
    Logins and headers are not part of a prompt, and a prompt that holds a key is refused, so a cassette can be shared.

    Args:
        path: the SQLite file; made where it may be recorded to.
        llm: the LLM to ask; None where nothing is recorded.
        mode: "auto" replays what is there and records what is not; "record" asks once more and replaces what earlier
            runs recorded; "replay" never asks. Without `llm`, auto is replay.
        name: which LLM's recordings to replay where `llm` is not given and the cassette has several.

    Attributes:
        mode: what it does.
        behind: the LLM that is asked, None where none is.

    Raises:
        ConfigError: the file is no cassette, an old one, missing or cannot be written, or there is no LLM to record.
        SchemaTooNew: a newer agentfund wrote the cassette.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        llm: LLM | None = None,
        mode: Literal["auto", "record", "replay"] = "auto",
        *,
        name: str | None = None,
    ) -> None:
        if mode not in ("auto", "record", "replay"):
            raise ConfigError(f"mode must be auto, record or replay, not {mode!r}")
        if mode == "record" and llm is None:
            raise ConfigError("to record there must be an LLM to ask: RecordedLLM(path, llm, mode='record')")
        self.mode: Literal["auto", "record", "replay"] = "replay" if llm is None else mode
        self.path = Path(path)
        self.behind: LLM | None = llm
        self._wanted = name
        self._name = llm.name if llm else name or "recorded"
        self._recorded_now: set[str] = set()
        self._lock = Lock()
        self._database = _open(self.path, writable=self.mode != "replay")
        self._close = weakref.finalize(self, self._database.close)

    @property
    def name(self) -> str:
        """The name of the LLM behind it."""
        return self._name

    def close(self) -> None:
        """Let go of the file."""
        self._close()

    async def complete(self, prompt: Prompt) -> Completion:
        """Return the recorded answer, or ask and record, as the mode says.

        Raises:
            CassetteMiss: a replay has no such recording; the message says what differs from the nearest one.
            LLMUnavailable: the cassette cannot be read or written.
        """
        if self.mode != "record" or prompt.digest in self._recorded_now:
            found = self.find(prompt)
            if found is not None:
                return found
        if self.behind is None or self.mode == "replay":
            raise CassetteMiss(self._miss(prompt))
        # As it came and as it will be shown: a key in disguise is written no more than one in clear.
        if any_secret() and holds_secret(prompt.question, *(text.clean for text in prompt.untrusted.values())):
            raise BadRequest(f"the prompt of {prompt.agent} holds a key or a token; it was neither sent nor recorded")
        # The question first: with a full disk an answer would be paid for and lost.
        self._run(_ASK, prompt.digest, prompt.agent, prompt.question)
        return self._keep(prompt, await self.behind.complete(prompt))

    def worst_case_usd(self, prompt: Prompt) -> Decimal:
        """Return zero for a replay and where a router behind it has a budget of its own, else what the LLM behind it says.

        Raises:
            BudgetExceeded: the LLM behind it has neither prices nor a budget.
        """
        if self.mode == "replay" or (self.mode == "auto" and self.find(prompt) is not None):
            return Decimal(0)
        if not isinstance(self.behind, Priced) and self.budgets() and getattr(self.behind, "budget", self) is not None:
            return Decimal(0)  # a budget of one route inside would not hold the others, so the router's own is looked for
        if self.behind is None or not isinstance(self.behind, Priced):
            raise BudgetExceeded(
                f"{self.name} has no prices: give it worst_case_usd(prompt), a router a budget, or replay only"
            )
        return self.behind.worst_case_usd(prompt)

    @property
    def adds(self) -> str:
        """What the LLM behind it puts into prompts by itself."""
        told = getattr(self.behind, "adds", "")
        return told if isinstance(told, str) else ""

    def budgets(self) -> tuple[Any, ...]:
        """Return the budgets of a router behind it."""
        told = getattr(self.behind, "budgets", None)
        return told() if callable(told) else ()

    def additions(self) -> dict[str, str]:
        """Return what routes put into prompts by themselves, by name: those on the cassette, and a router's behind it.

        Raises:
            LLMUnavailable: the cassette cannot be read.
        """
        told = getattr(self.behind, "additions", None)
        return {**dict(self._run(_ADDED, self._wanted, self._wanted)), **(told() if callable(told) else {})}

    def identity(self, prompt: Prompt) -> str:
        """Return whose answers these are."""
        return self._key(prompt) or self.name

    def _key(self, prompt: Prompt) -> str | None:
        return self._wanted or (identity(self.behind, prompt) if self.behind else None)

    def _run(self, statement: str, *values: Any) -> list[Any]:
        try:
            with self._lock:
                return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            remedy = _remedy(self.path, error, writable=self.mode != "replay") or "is the disk full or the file gone?"
            raise LLMUnavailable(f"cassette {self.path} cannot be used ({error}): {remedy}") from error

    def find(self, prompt: Prompt) -> Completion | None:
        """Return the recorded answer, None where there is none; nobody is asked.

        Raises:
            CassetteMiss: several LLMs' answers are there, and nobody says whose.
            LLMUnavailable: the cassette cannot be read.
        """
        key = self._key(prompt)
        rows = self._run(_FIND, prompt.digest, key, key)
        if len(rows) > 1:
            raise CassetteMiss(
                f"cassette {self.path} has several answers to this question of {prompt.agent}: say whose,"
                f" RecordedLLM(path, name=...) with one of {', '.join(repr(row[0]) for row in rows)}"
            )
        return _completion(*rows[0][1:]) if rows else None

    def _keep(self, prompt: Prompt, got: Completion) -> Completion:
        notional = None if got.notional_usd is None else str(got.notional_usd)
        used = got.usage
        tokens = (used.input_tokens, used.output_tokens, used.cached_tokens, used.cache_write_tokens)
        text = scrub(got.text)
        if any_secret() and holds_secret(text):
            text = "***"  # a key in disguise cannot be cut out; no answer with one goes further anyway
        took = (*tokens, str(got.billed_usd), notional, got.latency_s)
        values = (text, got.route, got.llm, *took, got.request_id, got.adds or self.adds)
        replacing = self.mode == "record" and prompt.digest not in self._recorded_now
        try:
            self._run(("REPLACE" if replacing else "INSERT OR IGNORE") + _KEEP, prompt.digest, self._key(prompt), *values)
        except LLMUnavailable as error:
            error.completion = got  # the answer is lost, what it cost is not
            raise
        self._recorded_now.add(prompt.digest)
        kept = self.find(prompt)
        # Whoever asked the same question at the same time and was first is right: a replay must see what the run saw.
        if kept is None or (kept.text, kept.adds) == (got.text, got.adds):
            return got
        return replace(got, text=kept.text, answer=got.answer if kept.text == got.text else None, adds=kept.adds)

    def _miss(self, prompt: Prompt) -> str:
        key = self._key(prompt)
        whose = f" by {key}" if key else ""
        what = f"cassette {self.path} has no answer{whose} to this question of {prompt.agent}"
        others = [repr(row[0]) for row in self._run(_FIND, prompt.digest, None, None)]
        asked = json.loads(prompt.question)
        near = min((_changes(json.loads(row[0]), asked) for row in self._run(_NEAR, prompt.agent)), key=len, default=None)
        if others:
            why = f"there is one by {', '.join(others)}"
        elif near is None:
            why = "nothing of this agent is recorded"
        else:
            more = f" and {len(near) - _MOST} more" if len(near) > _MOST else ""
            why = f"the nearest recording differs in {', '.join(near[:_MOST])}{more}"
        return f"{what}; {why}. Record it with RecordedLLM({str(self.path)!r}, llm), or restore what was asked then"


def _completion(
    text: str,
    route: str,
    llm: str,
    read: int,
    written: int,
    cached: int,
    stored: int,
    notional_usd: str | None,
    latency_s: float,
    request_id: str,
    adds: str,
) -> Completion:
    return Completion(
        text=text,
        route=route,
        llm=llm,
        usage=Usage(read, written, cached, stored),
        notional_usd=None if notional_usd is None else Decimal(notional_usd),
        latency_s=latency_s,
        request_id=request_id,
        adds=adds,
    )


def _changes(old: Any, new: Any, at: str = "") -> list[str]:
    """Return where two questions differ, each with what was recorded and what is asked now."""
    if old == new:
        return []
    if at == "schema":
        return [at]
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [
            one
            for key in keys
            for one in _changes(old.get(key, _NOTHING), new.get(key, _NOTHING), f"{at}[{key!r}]" if at else key)
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            one for place, (was, now) in enumerate(zip(old, new, strict=True)) for one in _changes(was, now, f"{at}[{place}]")
        ]
    return [f"{at} (recorded {_brief(old)}, now {_brief(new)})"]


_NOTHING = object()


def _brief(value: Any) -> str:
    text = "nothing" if value is _NOTHING else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _open(path: Path, *, writable: bool) -> sqlite3.Connection:
    purpose = "recording" if writable else "replay"
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a folder above may not be read
        raise ConfigError(f"cassette {path} cannot be opened for {purpose}: it is a folder: name a file in it")
    folder = path.absolute().parent
    hidden = os.path.exists(folder) and not os.access(folder, os.X_OK)  # noqa: PTH110
    if not writable and not hidden and not os.path.isfile(path):  # noqa: PTH113
        raise ConfigError(f"there is no cassette {path} to replay: record one with RecordedLLM({str(path)!r}, llm)")
    uri = f"{path.absolute().as_uri()}?mode={'rwc' if writable else 'ro'}"
    database = None
    try:
        database = sqlite3.connect(uri, uri=True, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        _prepare(database, path, writable=writable)
    except BaseException as error:
        if database is not None:
            database.close()
        if isinstance(error, sqlite3.Error):
            why = _remedy(path, error, writable=writable) or "check the file and its folder"
            raise ConfigError(f"cassette {path} cannot be opened for {purpose}: {error}: {why}") from error
        raise
    return database


def _remedy(path: Path, error: sqlite3.Error, *, writable: bool) -> str:
    """Return what is behind an error of SQLite, with the fix; empty where nothing is known."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return _REMEDIES.get(code, "")
    folder = path.absolute().parent
    if not os.path.lexists(folder):
        return f"there is no folder {folder}: make it first"
    if not folder.is_dir():
        return f"{folder} is no folder: choose another place"
    if not os.access(folder, os.X_OK):
        return f"there is no permission to look into the folder {folder}: allow it, or choose another place"
    if path.exists():
        if not os.access(path, os.R_OK):
            return "there is no permission to read the file: allow it"
        if writable and not os.access(path, os.W_OK):
            return 'the file is read-only: allow writing to it, or replay only, mode="replay"'
    if writable and not os.access(folder, os.W_OK):  # SQLite makes a file beside it
        return f"there is no permission to write in the folder {folder}: allow it, or choose another place"
    return _REMEDIES.get(code, "")


def _prepare(database: sqlite3.Connection, path: Path, *, writable: bool) -> None:
    if writable:
        database.execute("BEGIN IMMEDIATE")  # one process makes the tables
    ((application,),) = database.execute("PRAGMA application_id")
    ((version,),) = database.execute("PRAGMA user_version")
    empty = not database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
    if application != _APPLICATION and not (empty and writable and not application):
        raise ConfigError(f"{path} is no cassette: choose another file, or record one there after removing it")
    if application == _APPLICATION and version < VERSION:
        raise ConfigError(
            f"cassette {path} is of an older agentfund, which did not write what routes had added to prompts: record another"
        )
    if version > VERSION:
        raise SchemaTooNew(f"cassette {path} has schema version {version}, this agentfund reads {VERSION}: upgrade agentfund")
    if writable:
        for statement in _TABLES.split(";") if empty else ():
            database.execute(statement)
        # Written each time, so that a file or a folder that is read-only says so now and not at the first question.
        database.execute(f"PRAGMA application_id = {_APPLICATION}")
        database.execute(f"PRAGMA user_version = {VERSION}")
        database.execute("COMMIT")
