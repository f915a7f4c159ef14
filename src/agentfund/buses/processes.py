"""Processes of this machine: what names one for good, and whether it still runs."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Literal

Fate = Literal["alive", "dead", "not known"]

_ENDED = ("Z", "X", "x")  # a zombie has ended too: its parent has not yet asked how


@cache
def boot_id() -> str:
    """Return the system's name for this start of the machine, empty where it has none (it has on Linux)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def this_process() -> str:
    """Return a name that no other process has until the machine starts anew: number, start and number space."""
    return _named(os.getpid())


def pid_of(process: str) -> str:
    """Return the number in a name."""
    return process.partition(" ")[0]


def fate(process: str) -> Fate:
    """Return what became of a process that `this_process` named since the machine was started.

    A number of another container means another process here, so nothing is known of it; nor on a system that does not
    say when a process began, unless there is none of that number.
    """
    pid, start, space = process.split(" ")
    mine = this_process()
    if process == mine:
        return "alive"
    if sys.platform == "win32" or space != mine.split(" ")[2]:
        return "not known"
    try:
        os.kill(int(pid), 0)  # asks without sending anything
    except ProcessLookupError:
        return "dead"
    except OSError:  # it exists and is not ours
        pass
    began, state = _start_and_state(int(pid))
    if not (start and began):
        return "not known"
    return "alive" if began == start and state not in _ENDED else "dead"


@cache
def _named(pid: int) -> str:
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return f"{pid} {_start_and_state(pid)[0]} {space}"


def _start_and_state(pid: int) -> tuple[str, str]:
    """Return ticks from the machine's start to the process's, and its state; empty where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return (fields[19], fields[0]) if len(fields) > 19 else ("", "")
