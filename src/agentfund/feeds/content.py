"""What a file holds, unpacked where it is gzipped."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from agentfund.errors import BadData

if TYPE_CHECKING:
    from os import PathLike


def content(path: str | PathLike[str], rows: str = "bars") -> bytes:
    """Return the bytes of a file.

    Args:
        path: the file.
        rows: what its rows are, for messages.

    Raises:
        BadData: there is no such file, it cannot be read, it is damaged, or it is empty.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadData(f"{path}: there is no such file; check the path (it was looked up from {Path.cwd()})") from None
    except IsADirectoryError:
        raise BadData(f"{path}: it is a directory; give one of the files in it") from None
    except OSError as error:
        raise BadData(f"{path}: it cannot be read ({error.strerror}); check that it is a file and its permissions") from error
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise BadData(f"{path.name}: the gzip file is damaged or cut off ({line(error)}); fetch it again") from error
    if not data.strip():
        raise BadData(f"{path.name}: the file is empty; it needs a header row and {rows}")
    return data


def line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
