"""A page's console, typed into one shell by somebody who waits for what the page says that they will see."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import NamedTuple, Self

AGAIN = re.compile(r"^agentfund (status|approve|journal)\b")
"""Commands that only look, or that nobody minds typing again when they came too early."""
LIMIT_S = 120.0
PAUSE_S = 0.2


class Step(NamedTuple):
    """What a reader types, and what they should see then.

    Args:
        commands: lines of a console.
        seen: lines that have to appear, `...` for whatever stands there.
    """

    commands: tuple[str, ...]
    seen: tuple[str, ...]


class Typed:
    """A shell with job control. Use it as a context manager; what it started is gone afterwards.

    Args:
        folder: where it is.
    """

    def __init__(self, folder: Path) -> None:
        names = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTFUND", "APCA"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{names['PATH']}"
        self._shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            env={**names, "PATH": path, "COLUMNS": "160"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._count = 0
        self._behind: list[int] = []
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._reader.start()
        self._type("set -m")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for group in self._behind:  # with job control each has a group of its own
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self._shell.kill()
        self._shell.wait()
        self._reader.join(10)
        for pipe in (self._shell.stdin, self._shell.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    @property
    def text(self) -> str:
        """All that was printed so far, that of processes behind included."""
        return "\n".join(self._lines)

    def step(self, step: Step) -> None:
        """Type the commands and wait until all is seen that should be; a command that only looks is typed again."""
        begin = len(self._lines)
        for command in step.commands:
            self._type(command)
        last = step.commands[-1] if step.commands else ""
        started = monotonic()
        while missing := [line for line in step.seen if not self._seen(line, begin)]:
            if monotonic() - started > LIMIT_S:
                raise AssertionError(f"never seen: {missing}\n" + self.text)
            sleep(PAUSE_S)
            if AGAIN.match(last):
                self._type(last)

    def _seen(self, line: str, begin: int) -> bool:
        pattern = ".*".join(re.escape(part) for part in re.split(r"\s*\.\.\.\s*", line))
        return any(re.search(pattern, found) for found in self._lines[begin:])

    def _type(self, command: str) -> None:
        assert self._shell.stdin is not None
        self._count += 1
        behind = command.endswith("&")
        mark = f"--- {self._count} of typed"
        self._lines.append(f"$ {command}")
        told = "$!" if behind else "$?"  # an interactive shell forgets jobs that are done at each prompt; jobs does here
        self._shell.stdin.write(f"{command}\necho '{mark}' {told}\njobs > /dev/null\n")
        self._shell.stdin.flush()
        started = monotonic()
        while not (done := [line for line in self._lines if mark in line and not line.startswith("$")]):
            if monotonic() - started > LIMIT_S or self._shell.poll() is not None:
                raise AssertionError(f"no end of {command!r}\n{self.text}")
            sleep(0.02)
        if behind:
            self._behind.append(int(done[0].split()[-1]))

    def _read(self) -> None:
        assert self._shell.stdout is not None
        for line in self._shell.stdout:
            self._lines.append(line.rstrip("\n"))
