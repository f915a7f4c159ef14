"""Which agents of a rerun are those of the recorded run, and which are others: their descriptions are compared."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentfund.errors import ConfigError

_WORDS = {"answers_by": "who answers", "sees_portfolio": "whether it sees the portfolio", "reads": "what it reads"}
_PLAIN = ("rules", "function")


@dataclass(frozen=True, slots=True)
class Role:
    """An agent of a rerun.

    Args:
        name: its name.
        recorded: its name in the recorded run; empty where it was not there.
        changed: whether it counts as another agent, which is asked.
        why: how it differs, in words; empty where it does not.
    """

    name: str
    recorded: str
    changed: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Cast:
    """All agents of a rerun beside those of the recorded run.

    Args:
        roles: the agents of the rerun, in their order.
        removed: names of those that were in the recorded run and are in the rerun no more.
    """

    roles: tuple[Role, ...]
    removed: tuple[str, ...]

    @property
    def changed(self) -> tuple[Role, ...]:
        """Those that are asked."""
        return tuple(role for role in self.roles if role.changed)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of those that are not asked although something about them differs."""
        return tuple(f"{role.name} is not asked, although {role.why}" for role in self.roles if role.why and not role.changed)


def cast(
    recorded: Sequence[Mapping[str, Any]],
    described: Sequence[Mapping[str, Any]],
    changed: Collection[str] = (),
    unchanged: Collection[str] | Mapping[str, str] = (),
) -> Cast:
    """Compare descriptions by name.

    An agent that answers by another route to a language model is the same agent: its opinions stand unless it is named.

    Args:
        recorded: the agents of the recorded run, as its log describes them.
        described: those of the rerun.
        changed: names of agents that count as changed whatever their descriptions say.
        unchanged: names of agents that do not; a mapping gives the names that they had in the recorded run.

    Raises:
        ConfigError: a name is not known, or is on both lists.
    """
    before = {str(card["name"]): card for card in recorded}
    names = [str(card["name"]) for card in described]
    kept = dict(unchanged) if isinstance(unchanged, Mapping) else {name: name for name in unchanged}
    for given, what in ((changed, "changed"), (kept, "unchanged")):
        for name in given:
            if name not in names:
                raise ConfigError(f"{what}: the rerun has no agent {name!r}; there is {', '.join(names)}")
    for name, old in kept.items():
        if name in changed:
            raise ConfigError(f"{name!r} is both among changed and among unchanged")
        if old not in before:
            raise ConfigError(f"unchanged: the recorded run had no agent {old!r}; there was {', '.join(before)}")
    roles = []
    for card in described:
        name = str(card["name"])
        old = kept.get(name, name if name in before else "")
        why, same = _compared(before[old], card) if old else ("it was not in the recorded run", False)
        if name in changed:
            roles.append(Role(name, old, True, why or "it was named as changed"))
        elif name in kept:
            roles.append(Role(name, old, False))
        else:
            roles.append(Role(name, old, not same, why))
    taken = {role.recorded for role in roles}
    if len(taken - {""}) < sum(bool(role.recorded) for role in roles):
        raise ConfigError(f"unchanged: two agents cannot both be one of the recorded run: {kept}")
    return Cast(tuple(roles), tuple(name for name in before if name not in taken))


def _compared(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, bool]:
    """Return how two descriptions differ, and whether they are of the same agent all the same."""
    differs = [key for key in old if key in new and key != "name" and old[key] != new[key]]
    routed = "answers_by" in differs and old["answers_by"] not in _PLAIN and new["answers_by"] not in _PLAIN
    told = []
    for key in differs:
        word = _WORDS.get(key, f"its {key}")
        short = key in ("answers_by", "class", "output")
        told.append(f"{word} differs" + (f" ({old[key]} in the log, {new[key]} here)" if short else ""))
    return " and ".join(told), not differs or (routed and len(differs) == 1)
