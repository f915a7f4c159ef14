"""The report in a folder of files, each complete or not there."""

from __future__ import annotations

import errno
import importlib.util
import io
import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from agentfund.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

    from agentfund.backtest.report import Report


class Pages(Protocol):
    """A result that can be a page, a text and JSON values."""

    def html(self) -> str:
        """Return it as one page."""

    def text(self) -> str:
        """Return it as plain text."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def save(report: Report, folder: str | Path, formats: Sequence[str] = ()) -> Path:
    """Write page, text, figures and tables; arguments and errors are those of `Report.save`."""
    target = Path(folder)
    if unknown := set(formats) - {"csv", "parquet"}:
        raise ConfigError(f"unknown format {sorted(unknown)}: the tables are written as CSV, and as 'parquet' when asked")
    tables = {name: getattr(report, name) for name in ("equity", "trades", "decisions", "fills")}
    files: dict[str, Callable[[], bytes]] = {
        "report.html": lambda: report.html().encode(),
        "report.txt": lambda: (report.text() + "\n").encode(),
        "report.json": lambda: json.dumps(report.to_json(), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n",
    }
    for name, table in tables.items():
        files[f"{name}.csv"] = partial(csv_bytes, table)
        if "parquet" in formats:
            files[f"{name}.parquet"] = partial(_parquet, table)
    write_files(target, {name: make() for name, make in files.items()})
    return target


def csv_bytes(table: pd.DataFrame) -> bytes:
    """Return a table as CSV; a text that a spreadsheet would run as a formula gets an apostrophe in front."""
    harmless = table.copy()
    for name in harmless.columns:
        if harmless[name].map(lambda value: isinstance(value, str)).any():
            harmless[name] = ["'" + v if isinstance(v, str) and v.startswith(_FORMULA) else v for v in harmless[name]]
    return harmless.to_csv(index=harmless.index.name is not None, lineterminator="\n").encode()


def _parquet(table: pd.DataFrame) -> bytes:
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingExtra("pyarrow", "parquet")
    buffer = io.BytesIO()
    table.to_parquet(buffer, engine="pyarrow")
    return buffer.getvalue()


def save_pages(result: Pages, name: str, folder: str | Path, tables: Mapping[str, pd.DataFrame]) -> Path:
    """Write a result as page, text, JSON and tables into a folder, and return the folder; all of it or nothing.

    Args:
        result: what has the three forms.
        name: of the files.
        folder: where to; made when it is not there.
        tables: by the names of their files.

    Raises:
        ConfigError: the folder cannot be written.
    """
    target = Path(folder)
    told = json.dumps(result.to_json(), indent=2, allow_nan=False)
    forms = {f"{name}.html": result.html(), f"{name}.txt": result.text() + "\n", f"{name}.json": told + "\n"}
    files = {file: text.encode() for file, text in forms.items()}
    write_files(target, files | {f"{table}.csv": csv_bytes(frame) for table, frame in tables.items()})
    return target


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files under temporary names, then rename them: what cannot be written whole is not written at all."""
    temporary: list[tuple[Path, Path]] = []
    path = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            path = folder / name
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a folder of that name is there")
            handle, draft = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
            temporary.append((Path(draft), path))
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(draft).chmod(0o644)
        for draft_path, path in temporary:
            draft_path.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"cannot write {path}: {reason}; free space there, allow writing, or save to another folder"
        ) from error
    finally:
        for draft_path, _ in temporary:
            draft_path.unlink(missing_ok=True)
