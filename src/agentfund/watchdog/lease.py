"""The lease: the watchdog's signed word that a fund may trade, which runs out by itself."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from agentfund.trading import Level
from agentfund.watchdog.keys import Key, Verify

LONGEST_TTL_S = 60.0
"""A lease that claims to last longer is none."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Permission for a moment.

    Args:
        fund: whom it is for.
        config: digest of the fund's limits that the watchdog knows.
        level: how much the fund may do.
        reason: why no more, in one sentence; empty when all is well.
        boot: run of the machine in which it was issued.
        issued: uptime in seconds at which the observations behind it began, not when it was written.
        ttl: seconds that it lasts from then on.
        seq: grows from lease to lease, also over restarts of the watchdog.
        n: length of the record of halts that the watchdog has seen.
        head: hash of its newest line.
        operator: public key of the operator.
    """

    fund: str
    config: str
    level: Level
    reason: str
    boot: str
    issued: float
    ttl: float
    seq: int
    n: int
    head: str
    operator: str

    def signed(self, key: Key) -> bytes:
        """Return the lease as its file holds it."""
        return _file(self._body(), key.sign(b"agentfund lease " + self._body()))

    def _body(self) -> bytes:
        told = {**asdict(self), "level": int(self.level)}
        return json.dumps(told, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()

    @classmethod
    def read(cls, content: bytes, verify: Verify) -> Lease | None:
        """Return the lease that a file holds, None where the signature or anything else is wrong."""
        try:
            body, _, signature = content.rstrip(b"\n").rpartition(b"\n")
            if not verify(bytes.fromhex(signature.decode("ascii")), b"agentfund lease " + body):
                return None
            told: dict[str, Any] = json.loads(body)
            lease = cls(**{**told, "level": Level(told["level"])})
            exact = _file(body, bytes.fromhex(signature.decode()).hex()) == content and lease._body() == body
            sound = exact and 0 < lease.ttl <= LONGEST_TTL_S
            return lease if sound else None
        except Exception:  # whatever is wrong with it, it is no lease
            return None


def _file(body: bytes, signature: str) -> bytes:
    return body + b"\n" + signature.encode() + b"\n"
