"""The watchdog's folder: one for each fund. Files come whole or not at all, and a full disk is an error that says so."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from agentfund.clock import uptime
from agentfund.errors import ConfigError
from agentfund.secrets import Secret
from agentfund.watchdog.keys import Key, is_sealed, load_key

RESERVE = 64 * 1024
"""Bytes that are set aside, and given back to the disk when a halt does not fit on it any more."""

_LOCK_STEP_S = 0.005


class Folder:
    """A fund's folder, and where everything lies in it.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.watchdog_key = self.path / "watchdog.key"
        self.watchdog_pub = self.path / "watchdog.pub"
        self.operator_key = self.path / "operator.key"
        self.operator_pub = self.path / "operator.pub"
        self.lease = self.path / "lease.json"
        self.halts = self.path / "halts.jsonl"
        self.beat = self.path / "heartbeat.json"
        self.state = self.path / "state.json"
        self.status = self.path / "status.json"
        self.reserve = self.path / "reserve"
        self.lock = self.path / "watchdog.lock"

    def __repr__(self) -> str:
        return f"<Folder {self.path}>"

    def public(self, who: str) -> str:
        """Return the public key of the `watchdog` or the `operator`.

        Raises:
            ConfigError: there is none.
        """
        file = self.watchdog_pub if who == "watchdog" else self.operator_pub
        try:
            return file.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            raise ConfigError(
                f"{file} cannot be read: make the keys with `agentfund watchdog --init --dir {self.path}`"
            ) from None

    def own_key(self) -> Key:
        """Return the watchdog's private key.

        Raises:
            ConfigError: there is none, it cannot be read, or it belongs to another `watchdog.pub`.
        """
        try:
            key = load_key(self.watchdog_key.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"{self.watchdog_key} cannot be read ({error.strerror}): run as the user that owns it, or make keys with"
                f" `agentfund watchdog --init --dir {self.path}`"
            ) from None
        if key.public != self.public("watchdog"):
            raise ConfigError(f"{self.watchdog_pub} is not the public half of {self.watchdog_key}: restore both from your copy")
        return key

    def operators_key(self, passphrase: Secret | None, path: Path | None = None) -> Key:
        """Return the operator's private key, from the folder or from where it is kept.

        Raises:
            ConfigError: it cannot be read or opened, or is not the one whose public half lies in the folder.
        """
        file = path or self.operator_key
        try:
            key = load_key(file.read_bytes(), passphrase)
        except OSError as error:
            raise ConfigError(
                f"{file} cannot be read ({error.strerror}): run as the operator, or name the key's file"
            ) from None
        if key.public != self.public("operator"):
            raise ConfigError(
                f"{file} is not the key that this fund's operator has: take the one that was made with the folder"
            )
        return key

    def operators_key_is_sealed(self, path: Path | None = None) -> bool:
        """Return whether a passphrase is needed; also where the file cannot be read."""
        try:
            return is_sealed((path or self.operator_key).read_bytes())
        except OSError:
            return True


def replace_file(path: Path, content: bytes, *, sync: bool = True, mode: int = 0o644) -> None:
    """Put a file in its place, whole: whoever reads sees the old one or the new one.

    Args:
        path: where.
        content: all of it.
        sync: whether it has to survive a loss of power; what is worthless after a reboot need not.
        mode: who may read it.

    Raises:
        OSError: it could not be written; the old one is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    extra = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | extra, mode)
    try:
        try:
            if hasattr(os, "fchmod"):  # whatever the umask
                os.fchmod(fd, mode)
            write_all(fd, content)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    if sync:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make names in a folder durable, where the system can."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_all(fd: int, content: bytes) -> None:
    """Write all of it; OSError where the disk does not take it."""
    while content:
        content = content[os.write(fd, content) :]


@contextmanager
def locked(fd: int, wait_s: float) -> Iterator[bool]:
    """Hold a file's lock while the block runs; give whether it could be had within so many seconds."""
    try:
        fcntl: Any = import_module("fcntl")
    except ImportError:  # no such locks on Windows: one process writes there
        yield True
        return
    held, ends = False, uptime() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except OSError:
            if uptime() < ends:
                threading.Event().wait(_LOCK_STEP_S)
                continue
        break
    try:
        yield held
    finally:
        if held:
            fcntl.flock(fd, fcntl.LOCK_UN)
