"""Programs of a live fund as real processes, against the local Alpaca."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from agentfund.buses.sqlite import SqliteBus
from agentfund.core.past import Past, PastView
from agentfund.core.views import see
from agentfund.errors import BusError
from agentfund.messages import Message
from agentfund.testing.alpaca import AlpacaServer
from tests.test_docs import ROOT, blocks

GUIDE = ROOT / "docs/guides/from-backtest-to-live.md"
LIVE: tuple[str, ...] = ("--feed", "desk.py:feed", "--symbols", "AAPL", "--broker", "desk.py:broker", "--hours", "24/7")
LIVE += ("--agents", "desk.py:agents", "--bar-minutes", "0.02", "--unwatched", "--plain")
LIMIT_S = 90.0


def desk(folder: Path, server: AlpacaServer) -> None:
    """Write the guide's own desk into a folder, and where its broker is."""
    (block,) = [block for block in blocks(GUIDE) if block.title == "desk.py"]
    (folder / "desk.py").write_text(block.body, encoding="utf-8")
    (folder / "alpaca.txt").write_text(f"url {server.url}\nkey {server.key}\nsecret {server.secret}\n")


class Program:
    """A command of agentfund that runs, with what it has said so far."""

    def __init__(self, folder: Path, *words: str, before: Callable[[], None] | None = None) -> None:
        self._path = folder / f"said-{monotonic()}.txt"
        names = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTFUND", "APCA"))}
        with self._path.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agentfund", *words], cwd=folder, env=names, stdout=out, stderr=out, preexec_fn=before
            )

    @property
    def said(self) -> str:
        """What it has printed so far, on both streams."""
        return self._path.read_text()

    def tell(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait for its end, and return its code."""
        try:
            return self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end: {self.said}") from None


@contextmanager
def running(folder: Path, *words: str, before: Callable[[], None] | None = None) -> Iterator[Program]:
    """Run a command while the block runs."""
    program = Program(folder, *words, before=before)
    try:
        yield program
    finally:
        if program.process.poll() is None:
            program.process.kill()
        program.process.wait(10)


def run(folder: Path, *words: str, before: Callable[[], None] | None = None) -> tuple[int, str]:
    """Run a command to its end; return its code and what it said."""
    with running(folder, *words, before=before) as program:
        return program.ended(), program.said


def until(true: Callable[[], object], what: str, *programs: Program) -> None:
    """Wait until something is so."""
    began = monotonic()
    while not true():
        if monotonic() - began > LIMIT_S:
            raise AssertionError(f"never: {what}\n" + "\n".join(program.said for program in programs))
        sleep(0.05)


def promoted(folder: Path, to: Sequence[str]) -> None:
    """Let a fund begin in advisory mode, and promote it, step by step."""
    assert run(folder, "live", *LIVE, "--cycles", "1")[0] == 0
    for mode in to:
        code, said = run(folder, "promote", "out/live", "--to", mode, "--by", "Ada", "--reason", "for the test of it")
        assert code == 0, said


def log(folder: Path, name: str = "out/live/fund.db") -> tuple[list[Message], Past]:
    """Return a fund's log and its fold; nothing where it cannot be read at this moment."""

    async def read() -> tuple[list[Message], Past]:
        bus = SqliteBus(folder / name, read_only=True)
        try:
            return [message async for message in bus.read("fund")], (await see(bus, "fund", PastView())).value
        finally:
            await bus.close()

    try:
        return asyncio.run(read())
    except BusError:
        return [], Past()


def events(folder: Path, kind: type, name: str = "out/live/fund.db") -> list[object]:
    """Return the events of a kind on a log."""
    return [message.event for message in log(folder, name)[0] if isinstance(message.event, kind)]
