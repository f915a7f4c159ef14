"""Finished trials in a file, so that a sweep that was stopped does only what is missing."""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from agentfund.backtest.deflated import Moments
from agentfund.backtest.research.attempt import Attempt
from agentfund.backtest.research.grid import written
from agentfund.errors import BadData, ConfigError

if TYPE_CHECKING:
    from agentfund.backtest.research.grid import Parameters
    from agentfund.market import Floats

FORMAT = 1
_AS_THEY_ARE = ("metrics", "reasons", "trades", "longest", "refused", "per_year", "start", "end", "described", "data", "error")


class SweepStore:
    """A file of one JSON line for each finished trial, by the key of what was run; used as `with SweepStore(path) as store`.

    Each group of lines is on the disk before the next trial is counted. A last line that was cut off, as a power cut leaves
    it, is dropped. A file may hold trials of many sweeps. One program writes at a time.

    Args:
        path: the file; made when it is not there.

    Raises:
        ConfigError: the file cannot be written, or another program writes to it.
        BadData: a line is damaged; names file and line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
        except OSError as error:
            raise ConfigError(f"cannot write {self.path}: {error.strerror}; name another file to store trials in") from error
        try:
            self._lock()
            self._rows = self._read()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._file)

    def __len__(self) -> int:
        return len(self._rows)

    def _lock(self) -> None:
        try:
            fcntl: Any = import_module("fcntl")
        except ImportError:  # no such locks on Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"another program is writing to {self.path}: wait until it has ended, or store these trials in another file"
            ) from None

    def _read(self) -> dict[str, dict[str, Any]]:
        with self.path.open("rb") as file:
            lines = file.read().split(b"\n")
        torn = lines.pop()  # empty where the file ends as it should
        if torn:
            os.ftruncate(self._file, sum(len(line) + 1 for line in lines))
        rows: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                if row["format"] != FORMAT:
                    raise BadData(
                        f"{self.path}, line {number}: format {row['format']} is of another version of agentfund;"
                        " use another file"
                    )
                rows[row["key"]] = row
            except (ValueError, KeyError, TypeError) as error:
                if isinstance(error, BadData):
                    raise
                raise BadData(
                    f"{self.path}, line {number}: this is no stored trial ({error}); delete the line or the file"
                ) from None
        return rows

    def holds(self, keys: Iterable[str]) -> int:
        """Read the file again and return how many of these keys it holds."""
        self._rows = self._read()
        return sum(key in self._rows for key in keys)

    def get(self, key: str, parameters: Parameters) -> Attempt | None:
        """Return the trial that was stored under a key, None where there is none."""
        row = self._rows.get(key)
        if row is None:
            return None
        return Attempt(
            parameters,
            returns=_array(row["returns"]),
            equity=_array(row["equity"]),
            moments=Moments(*row["moments"]),
            **{name: row[name] for name in _AS_THEY_ARE},
        )

    def add(self, trials: Iterable[tuple[str, Attempt]]) -> None:
        """Append trials under their keys; they are on the disk when this returns.

        A trial that failed because of the machine, not of the strategy, is left out, so that it is run again.

        Raises:
            ConfigError: the disk did not take them.
        """
        rows = [_row(key, trial) for key, trial in trials if trial.lasting]
        if not rows:
            return
        content = b"".join(json.dumps(row, allow_nan=False, separators=(",", ":")).encode() + b"\n" for row in rows)
        try:
            while content:
                content = content[os.write(self._file, content) :]
            os.fsync(self._file)
        except OSError as error:
            raise ConfigError(
                f"cannot write to {self.path}: {error.strerror}; free space there and run again: what was stored is kept"
            ) from error
        self._rows.update((row["key"], row) for row in rows)


def _row(key: str, trial: Attempt) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "key": key,
        "parameters": written(trial.parameters),
        **{name: getattr(trial, name) for name in _AS_THEY_ARE},
        "moments": list(trial.moments),
        "returns": _text(trial.returns),
        "equity": _text(trial.equity),
    }


def _text(values: Floats) -> str:
    return base64.b64encode(zlib.compress(values.astype("<f8").tobytes(), 1)).decode()


def _array(text: str) -> Floats:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<f8").astype(np.float64)
