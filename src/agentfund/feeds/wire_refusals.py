"""What a provider's refusals mean: which pass by themselves, and which only a person can mend."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from agentfund.errors import ConfigError, FeedError


class TooMany(FeedError):
    """The provider allows no more connections; after an outage one's own dead connection may be among them."""

    def judged(self, *, stood: bool) -> FeedError | ConfigError:
        """Return the error to raise: it passes for a source that was connected before, and is final for any other.

        Args:
            stood: whether the source was ever connected.
        """
        return self if stood else ConfigError(str(self))


@dataclass(frozen=True, slots=True)
class Refusals:
    """A provider's codes of refusal.

    Args:
        fixes: what to do, by code.
        otherwise: what to do about any other.
        final: the codes that no reconnect can mend: they are a `ConfigError`, which ends a live feed.
        crowded: the codes that say that there are too many connections.
    """

    fixes: Mapping[int, str]
    otherwise: str
    final: Collection[int] = ()
    crowded: Collection[int] = ()

    def fix(self, code: int | None) -> str:
        """Return what to do."""
        return self.fixes.get(code or 0, self.otherwise)

    def error(self, told: str, code: int | None) -> FeedError | ConfigError:
        """Return the error for a refusal.

        Args:
            told: who refused what, in words.
            code: the provider's, None where it gave none.
        """
        kind = ConfigError if code in self.final else TooMany if code in self.crowded else FeedError
        return kind(f"{told}: {self.fix(code)}")


_ELSEWHERE = "it does not serve this address or country; give the url of the site that serves you"
_CROWDED = "too many connections were opened; wait before the next"
EXCHANGE_SOCKET = Refusals(
    {401: _ELSEWHERE, 403: _ELSEWHERE, 451: _ELSEWHERE, 404: "check the url", 418: _CROWDED, 429: _CROWDED},
    otherwise="try again later",
    final=(451,),  # 403 is told to those who asked too often, too
)
"""What the exchanges mean where they do not open a websocket."""

_MOVED = dict.fromkeys((301, 302, 303, 307, 308, 404), "check the rest_url")
_BANNED = "it was asked too often, or does not serve this country: wait, or give the rest_url of a site that does"
_LESS = "wait, ask for less at once, or use fewer programs on this address"
EXCHANGE_REST = Refusals(
    {400: "check the symbol and the interval", 401: _BANNED, 403: _BANNED, 451: _BANNED, 418: _LESS, 429: _LESS} | _MOVED,
    otherwise="try again later",
    final=(451,),
)
"""What their REST APIs mean where they refuse."""
