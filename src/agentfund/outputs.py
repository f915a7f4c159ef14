"""The folder in which a command leaves its results, and the record of which files there are its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from agentfund.errors import ConfigError

LOG = "fund.db"
BESIDE = (f"{LOG}-wal", f"{LOG}-shm", f"{LOG}-journal")
RESULTS = (
    "report.html",
    "report.txt",
    "report.json",
    "equity.csv",
    "trades.csv",
    "decisions.csv",
    "fills.csv",
    "journal.md",
)
RECORD = ".agentfund.json"


class Outputs:
    """A folder for the results of one run.

    The record in it names the files that the command line makes. Nothing else is ever replaced or removed there.

    Args:
        folder: where to; made when it is not there.
        maker: the command.

    Raises:
        ConfigError: the folder cannot be made or used.
    """

    def __init__(self, folder: Path, maker: str) -> None:
        self.folder = folder
        self.maker = maker
        self.log = folder / LOG
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = "a file of that name is there" if isinstance(error, FileExistsError) else str(error.strerror)
            raise ConfigError(f"the folder {folder} cannot be made: {why}; give another --out") from error
        self._made_by, self._own = self._read()

    def open(self, *, fresh: bool) -> None:
        """Get ready to write the log: take away an earlier run's files when `fresh`.

        Raises:
            ConfigError: a file is in the way that the command line did not make.
        """
        if self.maker == "demo" and self._made_by not in ("", "demo"):
            raise ConfigError(f"{self.folder} holds the results of a {self._made_by}, not of a demo; give another --out")
        # A log that is not ours may be carried on, since a log is never overwritten; but it is not ours to remove.
        strange = {LOG, *BESIDE} - self._own if not fresh and self.log.exists() else set[str]()
        in_the_way = [n for n in (LOG, *BESIDE, *RESULTS) if n not in self._own | strange and (self.folder / n).exists()]
        if in_the_way:
            raise ConfigError(
                f"{self.folder} holds {', '.join(in_the_way)}, which no earlier run of this command line is on record for;"
                " move it away, or give another --out"
            )
        if fresh:
            self._remove()
        if not self.log.exists():
            for name in BESIDE:  # left behind, they would be taken for a part of the new log
                (self.folder / name).unlink(missing_ok=True)
        if fresh or not self._made_by:
            self._made_by = self.maker
        self._claim({LOG, *BESIDE} - strange)

    def claim_results(self) -> None:
        """Put the results on the record; to be called before they are written, so that no crash leaves one unknown."""
        self._claim(set(RESULTS))

    def files(self) -> list[Path]:
        """Return the files that are there for people."""
        return [path for name in (*RESULTS, LOG) if (path := self.folder / name).exists()]

    def _read(self) -> tuple[str, frozenset[str]]:
        try:
            told = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
            return str(told["made_by"]), frozenset(map(str, told["files"])) & {LOG, *BESIDE, *RESULTS}
        except (OSError, ValueError, KeyError, TypeError):  # without a record that can be read, nothing here is ours
            return "", frozenset()

    def _claim(self, names: set[str]) -> None:
        if not names <= self._own:
            self._own |= names
            write(self.folder / RECORD, [json.dumps({"made_by": self._made_by, "files": sorted(self._own)})])

    def _remove(self) -> None:
        for name in sorted(self._own):
            path = self.folder / name
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise ConfigError(f"{path} cannot be removed: {error.strerror}; give another --out") from error
        self._own = frozenset()


def write(path: Path, lines: Iterable[str]) -> None:
    """Write a text file: whole or not at all, unless the path is no ordinary file, such as a pipe.

    Raises:
        ConfigError: it cannot be written.
    """
    special = path.exists() and not path.is_file()
    draft = path if special else path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.writelines(f"{line}\n" for line in lines)
        if not special:
            draft.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; give another place, or free some room") from error
    finally:
        if not special:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
