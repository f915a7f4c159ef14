"""Text that a terminal only shows."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """Return text without escape sequences: what an agent or a file said may hold some."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
