"""What can go wrong between a client and the exchange, once or several times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Harm = Literal["silence", "silence_before", "drop", "html", "truncated", "empty", "refuse"]


@dataclass(slots=True)
class Fault:
    """Spoils requests whose method and path match.

    Args:
        harm: `silence` does what was asked for and never answers, `silence_before` does nothing and never answers, `drop`
            cuts the connection, `html`, `truncated` and `empty` spoil the answer to what was done, `refuse` does nothing and
            answers `status` and `body`.
        path: what the path must contain.
        method: the method, any where empty.
        times: how often.
        status: of the answer.
        body: of the answer.
    """

    harm: Harm
    path: str = ""
    method: str = ""
    times: int = 1
    status: int = 200
    body: str = ""

    def meets(self, method: str, path: str) -> bool:
        """Whether it spoils a request; it counts down."""
        if not self.times or self.path not in path or (self.method and self.method != method):
            return False
        self.times -= 1
        return True
