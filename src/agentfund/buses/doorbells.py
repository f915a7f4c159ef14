"""Bells between processes of one machine: who publishes knocks at the door of every consumer that waits.

A door is a datagram socket in a folder of the system's temporary directory, named after the log. A knock that is lost, or
that never comes because the system has no such sockets or the folder is another user's, costs time and nothing else. In a
folder that another user made, or could write, nothing is done at all.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import tempfile
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_numbers = count()


class Doorbells:
    """The doors of the consumers of one log.

    Args:
        name: names the log; the same in every process.
    """

    def __init__(self, name: str) -> None:
        user = os.getuid() if hasattr(os, "getuid") else 0
        self._folder = Path(tempfile.gettempdir(), f"agentfund-{user}", name)
        self._hung = 0  # when the folder was last changed, as far as is known
        self._doors: tuple[str, ...] = ()
        self._knocker: socket.socket | None = None

    @contextmanager
    def listen(self, event: asyncio.Event) -> Iterator[None]:
        """Set an event of the running loop at every knock, as long as the block lasts."""
        path = self._folder / f"{os.getpid()}-{next(_numbers)}"
        try:
            door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except (OSError, AttributeError):
            yield
            return
        loop = asyncio.get_running_loop()
        try:
            with suppress(OSError, NotImplementedError):
                door.setblocking(False)
                try:
                    self._hang(door, path)
                except FileNotFoundError:  # the last one to leave took the folder away just then
                    self._hang(door, path)
                loop.add_reader(door, _opened, door, event)
            yield
        finally:
            with suppress(OSError, RuntimeError, NotImplementedError):
                loop.remove_reader(door)
            door.close()
            with suppress(OSError):
                path.unlink(missing_ok=True)
                self._folder.rmdir()  # refused while others wait

    def _ours(self) -> bool:
        """Whether both folders are real ones, of this user, into which nobody else can put anything."""
        for folder in (self._folder.parent, self._folder):
            told = folder.lstat()
            if not stat.S_ISDIR(told.st_mode) or told.st_uid != os.getuid() or told.st_mode & 0o077:
                return False
        return True

    def _hang(self, door: socket.socket, path: Path) -> None:
        self._folder.parent.mkdir(exist_ok=True, mode=0o700)
        self._folder.mkdir(exist_ok=True, mode=0o700)
        if not self._ours():
            raise OSError(errno.EPERM, "another user's folder")
        path.unlink(missing_ok=True)  # of a process of the past with our number
        door.bind(str(path))

    def knock(self) -> None:
        """Knock at every door; never waits."""
        try:
            changed = self._folder.lstat().st_mtime_ns
        except OSError:
            return  # nobody has ever waited
        if changed != self._hung:
            with suppress(OSError):
                self._doors = tuple(map(str, self._folder.iterdir())) if self._ours() else ()
            self._hung = changed
        for door in self._doors:
            try:
                if self._knocker is None:
                    self._knocker = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    self._knocker.setblocking(False)
                self._knocker.sendto(b"!", door)
            except BlockingIOError:
                pass  # its bell rings already
            except (ConnectionRefusedError, FileNotFoundError):
                with suppress(OSError):
                    if stat.S_ISSOCK(os.lstat(door).st_mode):
                        Path(door).unlink()  # its process was killed
            except OSError:
                pass

    def close(self) -> None:
        """Stop knocking."""
        if self._knocker is not None:
            self._knocker.close()
            self._knocker = None


def _opened(door: socket.socket, event: asyncio.Event) -> None:
    with suppress(OSError):
        while door.recv(16):
            pass
    event.set()
