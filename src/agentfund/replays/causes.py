"""Why a cycle of a rerun ended otherwise: who said otherwise, or which limit did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from agentfund.core.gate import CHECKS
from agentfund.messages import Opinion, Stance

if TYPE_CHECKING:
    from agentfund.replays.cycles import Cycle

LIMIT_OF: Mapping[str, str] = {one.code: one.limits[0] for one in CHECKS if one.limits}
"""The limit behind each code of the gate that has one."""

_LONGEST = 100
_WORDS = ("reason", "thesis", "text")


class Causes:
    """Finds why a cycle ended otherwise.

    Args:
        removed: agents that are in the rerun no more.
        late: agents that are asked after the decision, and so cannot change it.
        settings: settings that differ, with both values.
        broker: whether the broker is another one.
    """

    def __init__(
        self, removed: Sequence[str], late: Sequence[str], settings: Mapping[str, tuple[Any, Any]], broker: bool
    ) -> None:
        self._removed = removed
        self._late = frozenset(late)
        self._settings = settings
        self._broker = broker

    def of(self, old: Cycle, new: Cycle, book_since: int) -> str:
        """Return why a decision or an order is another one.

        Args:
            old: the cycle by the log.
            new: the same cycle of the rerun.
            book_since: the first cycle in which cash, positions or orders were others; 0 for none.
        """
        words = _words_only(old, new)
        said = [
            _otherwise(name, before, after)
            for name, (before, after) in old.others.items()
            if name not in self._late and (words or _matters(before, after))
        ]
        said += [f"{name} is not asked any more; it said: {told(old.said[name])}" for name in self._removed if name in old.said]
        if said:
            return "; ".join(said)
        by_limit = [self._limit(cycle.decision.code) for cycle in (new, old) if cycle.decision is not None]
        if found := next(filter(None, by_limit), ""):
            return found
        by = {cycle.decision.decided_by for cycle in (old, new) if cycle.decision is not None}
        if sized := self._changed("sizing"):
            return sized
        if "consensus" in by and (counted := self._changed("consensus")):
            return counted
        if book_since and book_since <= old.number:
            return f"the book is another one since cycle {book_since:,}"
        return self._changed("limits") or "nothing that was changed explains it"

    def of_fill(self, orders_since: int) -> str:
        """Return why a fill is another one.

        Args:
            orders_since: the first cycle with another order; 0 for none.
        """
        if orders_since:
            return f"orders are others since cycle {orders_since:,}"
        return "the broker is another one" if self._broker else "nothing that was changed explains it"

    def _limit(self, code: str) -> str:
        name = f"limits.{LIMIT_OF.get(code, '')}"
        if name not in self._settings:
            return ""
        return f"the gate's {code}: {_instead(name, *self._settings[name])}"

    def _changed(self, what: str) -> str:
        found = [_instead(name, *values) for name, values in self._settings.items() if name.startswith(f"{what}.")]
        return ", ".join(found)


def _words_only(old: Cycle, new: Cycle) -> bool:
    """Whether two decisions differ in nothing but how they were told."""
    if old.decision is None or new.decision is None or old.orders or new.orders:
        return False
    return all(getattr(old.decision, name) == getattr(new.decision, name) for name in ("outcome", "decided_by", "code"))


def _matters(before: Opinion | None, after: Opinion | None) -> bool:
    """Whether two opinions differ in more than their words."""
    if before is None or after is None or before.stance is not after.stance:
        return True
    old, new = (_parts(opinion) for opinion in (before, after))
    return any(old.get(name) != new.get(name) for name in {**old, **new} if name not in _WORDS)


def _parts(opinion: Opinion) -> Mapping[str, Any]:
    value = opinion.value
    if value is None:
        return {}
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else dict(value)


def _instead(name: str, old: Any, new: Any) -> str:
    return f"{name} is {shown(new)} instead of {shown(old)}"


def shown(value: Any) -> str:
    """Return a setting as text."""
    if isinstance(value, (frozenset, set, tuple, list)):
        return ", ".join(map(str, sorted(value) if isinstance(value, (frozenset, set)) else value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _otherwise(name: str, before: Opinion | None, after: Opinion | None) -> str:
    if before is None:
        return f"{name}, which was not asked then: {told(after)}"
    return f"{name} says otherwise: {told(before)}; in the rerun {told(after)}"


def told(opinion: Opinion | None) -> str:
    """Return an opinion in a few words."""
    if opinion is None:
        return "nothing"
    reason = f" ({opinion.reason})" if opinion.reason else ""
    if opinion.stance is not Stance.VALUE:
        return _cut(("abstains" if opinion.stance is Stance.ABSTAINS else "is unavailable") + reason)
    parts = _parts(opinion)
    if "approved" in parts:
        words = "approves" if parts["approved"] else "vetoes"
        return _cut(f"{words} ({parts['reason']})" if parts.get("reason") else words)
    return _cut(", ".join(f"{key} {part}" for key, part in parts.items() if part not in ("", None, [])))


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
