"""A program of somebody else's, run safely: its own group and folder, few variables, little output, and an end for sure."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from agentfund.errors import BadCredentials, LLMError
from agentfund.secrets import scrub

MOST_BYTES = 8_000_000
"""Most bytes that a program may print before it is killed."""

_GRACE_S = 0.3
_END_S = 5.0
_STDERR = 16_000
_SHOWN = 400
_POSIX = os.name == "posix"


class Child(asyncio.SubprocessProtocol):
    """A program under way. Make it with `start`, and `close` it whatever happens.

    It runs in a session of its own, so that it can be ended with all that it has started, and in an empty folder, which is
    removed with it. When this process is killed, its input ends.

    Attributes:
        name: the program's name.
        folder: holds `files` and an empty `work`, where the program runs.
        status: how it ended, None while it runs; below zero where a signal ended it.
    """

    def __init__(self, name: str, folder: Path, on_line: Callable[[bytes], None] | None, most_bytes: int) -> None:
        self.name = name
        self.folder = folder
        self.status: int | None = None
        self.on_end: Callable[[], None] | None = None
        self._on_line = on_line
        self._most_bytes = most_bytes
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.SubprocessTransport | None = None
        self._seen = 0
        self._too_much = False
        self._part = bytearray()
        self._lines: deque[bytes] = deque()
        self._stderr = bytearray()
        self._waiting: asyncio.Future[None] | None = None
        self._told_all = False
        self._last: asyncio.TimerHandle | None = None
        self._exited = self._loop.create_future()
        self._gone = self._loop.create_future()

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        env: Mapping[str, str],
        *,
        files: Mapping[str, str] | None = None,
        on_line: Callable[[bytes], None] | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> Child:
        """Start a program.

        Args:
            command: the program and its arguments; `{folder}` in an argument stands for the child's folder.
            env: all of its variables.
            files: texts to be put into the folder, by name; only this user can read them.
            on_line: called with each line of output as it comes; otherwise `line` gives them.
            most_bytes: most bytes of output; of one line where `on_line` is given.

        Raises:
            BadCredentials: there is no such program.
            LLMError: it cannot be started.
        """
        folder = Path(tempfile.mkdtemp(prefix="agentfund-"))
        try:
            for name in ("work", "tmp"):
                (folder / name).mkdir()
            for name, text in (files or {}).items():
                (folder / name).write_bytes(_bytes(text))
            child = cls(Path(command[0]).name, folder, on_line, most_bytes)
            await child._start([part.replace("{folder}", folder.as_posix()) for part in command], env)
        except FileNotFoundError:
            failed: LLMError = BadCredentials(f"there is no program {command[0]}")
        except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
            failed = LLMError(f"{command[0]} could not be started: {type(error).__name__}: {scrub(str(error))[:_SHOWN]}")
        except BaseException:
            _remove(folder)
            raise
        else:
            return child
        _remove(folder)
        raise failed

    async def _start(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        temporary = {name: str(self.folder / "tmp") for name in ("TMPDIR", "TMP", "TEMP")}
        await self._loop.subprocess_exec(
            lambda: self,
            *command,
            cwd=self.folder / "work",
            env={**env, **temporary},
            start_new_session=_POSIX,
            creationflags=0 if _POSIX else getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take output."""
        if self._too_much:
            return
        if fd == 2:
            self._stderr += data
            del self._stderr[:-_STDERR]
            if self._on_line is not None:
                return
        self._seen += len(data)
        if fd == 1:
            *whole, rest = data.split(b"\n")
            for part in whole:
                self._part += part
                self._take(bytes(self._part))
                self._part.clear()
                if self._on_line is not None:
                    self._seen = len(rest)
            self._part += rest
        if self._seen > self._most_bytes:
            self._too_much = True
            self._part.clear()
            self._lines.clear()
            self._signal_all(kill=True)
            self._wake()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Notice that a pipe was closed."""
        if fd == 1:
            self._end_of_output()

    def process_exited(self) -> None:
        """Notice the end of the program; what it leaves behind is ended too."""
        assert self._transport is not None
        self._signal_all(kill=True)
        self.status = self._transport.get_returncode()
        if not self._exited.done():
            self._exited.set_result(None)
        # What has left the group may hold the pipes open for ever.
        self._last = self._loop.call_later(_GRACE_S, self._transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Notice that the program and all pipes are gone."""
        assert self._transport is not None
        self._transport.close()
        if self._last is not None:
            self._last.cancel()
        _remove(self.folder)
        self._end_of_output()
        if not self._gone.done():
            self._gone.set_result(None)

    def _end_of_output(self) -> None:
        if self._told_all:
            return
        self._told_all = True
        if self._part and not self._too_much:
            self._take(bytes(self._part))
        self._wake()
        if self.on_end is not None:
            self.on_end()

    def _take(self, line: bytes) -> None:
        if self._on_line is not None:
            self._on_line(line)
        else:
            self._lines.append(line)
            self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    # What the routes call.

    @property
    def alive(self) -> bool:
        """Whether it runs and can be asked."""
        return self.status is None and not self._told_all and not self._too_much

    @property
    def last_words(self) -> str:
        """The end of what it printed as errors, without any key; or that it printed too much."""
        if self._too_much:
            return f"{self.name} printed more than {self._most_bytes} bytes and was killed"
        text = scrub(self._stderr.decode(errors="replace")).strip()
        return text[-_SHOWN:]

    def write(self, text: str) -> None:
        """Put a text into its input."""
        pipe = self._transport.get_pipe_transport(0) if self._transport is not None else None
        if pipe is not None and not pipe.is_closing():
            cast("asyncio.WriteTransport", pipe).write(_bytes(text))

    def end_input(self) -> None:
        """Tell it that there is no more input."""
        pipe = self._transport.get_pipe_transport(0) if self._transport is not None else None
        if pipe is not None:
            pipe.close()

    async def line(self) -> bytes | None:
        """Wait for the next line of output, without its end; None when there is none any more.

        Raises:
            LLMError: it printed too much and was killed.
        """
        while True:
            if self._too_much:
                raise LLMError(self.last_words)
            if self._lines:
                return self._lines.popleft()
            if self._told_all:
                return None
            self._waiting = self._loop.create_future()
            await self._waiting

    async def ended(self) -> int:
        """Wait until it has ended by itself; return its status."""
        await asyncio.wait([self._exited])
        assert self.status is not None
        return self.status

    async def close(self) -> None:
        """End it with all that it has started, wait until it is gone, and remove its folder."""
        try:
            if self.status is None:
                self._signal_all()
                await asyncio.wait([self._exited], timeout=_GRACE_S)
            self.kill()
            await asyncio.wait([self._gone], timeout=_END_S)
        finally:
            self.kill()
            if not self._gone.done() and self._transport is not None:
                self._transport.close()
            _remove(self.folder)

    def kill(self) -> None:
        """End it with all that it has started, at once and without waiting; its folder goes when it is gone."""
        self._signal_all(kill=True)
        if self._loop.is_closed():  # then nobody will tell when
            _remove(self.folder)

    def _signal_all(self, *, kill: bool = False) -> None:
        if self._transport is None or self.status is not None:  # by then its number may be somebody else's
            return
        pid = self._transport.get_pid()
        if sys.platform == "win32":
            command = ["taskkill", "/T", *(["/F"] if kill else []), "/PID", str(pid)]
            subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - nothing of it comes from outside
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):  # on macOS a group of zombies gives PermissionError
            os.killpg(pid, signal.SIGKILL if kill else signal.SIGTERM)


async def output(command: Sequence[str], env: Mapping[str, str], *, timeout_s: float = 20.0) -> tuple[int, str, str]:
    """Run a program to its end; return its status, what it printed, and the end of what it printed as errors.

    Raises:
        LLMError: it cannot be started, printed too much, or did not end in time.
    """
    child = await Child.start(command, env)
    try:
        child.end_input()
        lines: list[bytes] = []
        async with asyncio.timeout(timeout_s):
            while (line := await child.line()) is not None:
                lines.append(line)
            status = await child.ended()
        return status, b"\n".join(lines).decode(errors="replace"), child.last_words
    except TimeoutError:
        late = LLMError(f"{command[0]} did not end within {timeout_s:g} s")
    finally:
        await child.close()
    raise late


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")  # half a character, which no program could read


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
