"""What can go wrong between a client and the local Alpaca, on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "status_before",
    "status_after",
    "html_before",
    "html_after",
    "hang_before",
    "hang_after",
    "reset_before",
    "reset_after",
    "truncated",
    "empty",
    "trickle",
    "other",
    "stale",
    "late",
    "slow",
    "redirect",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong with requests.

    Names that end in `before` do it without the request having had an effect, names that end in `after` when it has had
    it. `truncated`, `empty`, `trickle` (a byte at a time) and `other` (the body of another account or order) spoil the
    answer of a request that had its effect. `stale` answers from the moment of `AlpacaServer.freeze`. `late` answers
    `status` at once and lets the request have its effect `seconds` later. `slow` waits `seconds` before it does anything.
    `redirect` sends the client elsewhere.

    Args:
        kind: what goes wrong.
        on: beginning of the requests that it hits, method and path: "POST /v2/orders".
        times: how many requests it hits.
        status: of the HTTP response, where the kind sends one.
        seconds: how long, where the kind takes time.
    """

    kind: Kind
    on: str = ""
    times: int = 1
    status: int = 504
    seconds: float = 0.0

    def hits(self, request: str) -> bool:
        """Return whether a request, method and path, is hit."""
        return request.startswith(self.on)
