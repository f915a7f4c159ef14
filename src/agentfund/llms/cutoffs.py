"""Up to when language models know the world, and what that makes of a backtest.

A language model that was trained on the years of a backtest may remember them. Providers say up to when their data reach.
That is a claim: it is not measured here, it can be wrong, and post-training may have seen later data. A language model
of which nothing is known is taken to know everything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from types import MappingProxyType
from typing import Literal, TypeVar

from agentfund.clock import utc
from agentfund.errors import ConfigError
from agentfund.llms.claims import CLAIMS

Entry = TypeVar("Entry")
Verdict = Literal["CLEAN", "MIXED", "CONTAMINATED"]

MARGIN = timedelta(days=90)
"""How long after a cut-off a window is not yet taken as unknown: dates are claimed by the month, and later data trickle in."""

_DAY = timedelta(days=1)

# Whose name stands before a language model's, and where it is hosted.
_HOST = re.compile(r"^(?:(?:us|eu|apac|jp|au|global)\.)?(?:anthropic|openai|meta|google|xai)\.")
_JOINED = re.compile(r"^(?:meta-)?(llama|gemma)-?(\d)")

# What may follow a name and leave it the same language model: a day, a number of a snapshot, a size, a way to store numbers.
_SAME = re.compile(
    r"(?:[-:@](?:\d{8}|\d{4}-\d\d-\d\d|\d\d-\d\d|\d{3}|v\d+(?::\d+)?|preview|\d+x?\d*b|\d+e|instruct|it|text|vision"
    r"|versatile|instant|turbo|fp8|fp16|bf16|int4|int8|awq|gptq|q\d\w*))*"
)


@dataclass(frozen=True, slots=True)
class Cutoff:
    """Up to when a language model knows the world.

    Args:
        claimed: the last day that the provider says its data reach to; the last of the month where it names a month.
        source: the page on which the provider says so.
        what: what the provider calls it.
        probed: the last day of which a test of its memory found knowledge, by whoever tested it.

    Raises:
        ConfigError: neither is given.
    """

    claimed: date | None = None
    source: str = ""
    what: str = "knowledge cutoff"
    probed: date | None = None

    def __post_init__(self) -> None:
        if self.claimed is None and self.probed is None:
            raise ConfigError("a cut-off is a claimed day, a probed one, or both: Cutoff(date(2025, 1, 31))")

    @property
    def day(self) -> date:
        """The later of the two days: what is claimed is believed only as far as no test found more."""
        return max(day for day in (self.claimed, self.probed) if day is not None)

    def __str__(self) -> str:
        told = [f"claimed {self.claimed}"] if self.claimed else []
        return ", ".join([*told, f"probed {self.probed}"] if self.probed else told)


class Cutoffs:
    """Cut-offs by the name of the language model: a table of what providers claim, and one's own before it.

    A name is found with or without its provider in front ("anthropic/claude-haiku-4-5") and with the day of a snapshot or
    a size behind it ("gpt-5-2025-08-07", "llama3.3:70b"). Any other addition is another language model: a variant
    or a fine-tuned one may know more.

    Args:
        table: one's own, by name; they win. A day alone is a claimed one.

    Raises:
        ConfigError: the table holds something else than names and cut-offs.
    """

    def __init__(self, table: Mapping[str, Cutoff | date] | None = None) -> None:
        self._own: dict[str, Cutoff] = {}
        for name, given in (table or {}).items():
            if isinstance(given, date) and not isinstance(given, datetime):
                given = Cutoff(given, source="given by the user")
            if not isinstance(given, Cutoff):
                raise ConfigError(
                    f'cutoffs[{name!r}] is a {type(given).__name__}: write {{"{name}": Cutoff(date(2025, 1, 31))}}'
                )
            self._own[_plain(name)] = given

    def __repr__(self) -> str:
        own = f", own ones of {', '.join(self._own)}" if self._own else ""
        return f"<Cutoffs: claims for {len(CLAIMS)} language models{own}>"

    def of(self, llm: str) -> Cutoff | None:
        """Return a language model's cut-off, None where nothing is known of it."""
        name = _plain(llm)
        own = _named(name, self._own)
        if own is not None:
            return own
        claim = _named(name, CLAIMS)
        return None if claim is None else Cutoff(*claim)


@dataclass(frozen=True, slots=True)
class Stamp:
    """Whether language models could remember the window of a result.

    Args:
        verdict: CLEAN where the window lies wholly after what any of them knows, CONTAMINATED where none of it does or
            where nothing is known of one, MIXED in between.
        reason: why, in one sentence.
        cutoffs: what is known of each language model; None where nothing is.
        clean_from: from when the window would be clean, aware UTC; None where that is not known.
    """

    verdict: Verdict
    reason: str
    cutoffs: Mapping[str, Cutoff | None]
    clean_from: datetime | None

    def __str__(self) -> str:
        return f"{self.verdict}: {self.reason}"


def stamp(
    llms: Sequence[str],
    start: datetime,
    end: datetime,
    margin: timedelta = MARGIN,
    registry: Cutoffs | None = None,
) -> Stamp | None:
    """Say whether language models could remember a window; None where there is no language model.

    Args:
        llms: names of the language models that were asked; an empty name is one of which nothing is known.
        start: beginning of the window, aware.
        end: its end, aware.
        margin: how long after the latest cut-off the window must begin.
        registry: cut-offs; those that providers claim where not given.

    Raises:
        ConfigError: the window ends before it begins, or the margin is below zero.
        ValueError: a time has no time zone.
    """
    start, end = utc(start), utc(end)
    if end < start:
        raise ConfigError(f"the window ends at {end.isoformat()}, before it begins at {start.isoformat()}")
    if margin < timedelta(0):
        raise ConfigError(f"margin={margin}: it must be zero or more")
    if not llms:
        return None
    known = registry or Cutoffs()
    found = {llm: known.of(llm) for llm in sorted(set(llms))}
    cutoffs = MappingProxyType(found)
    unknown = [llm or "a language model without a name" for llm, cutoff in found.items() if cutoff is None]
    if unknown:
        reason = (
            f"nothing is known of the cut-off of {', '.join(unknown)}, so the whole window may be memory;"
            " Cutoffs({name: Cutoff(...)}) takes what you know"
        )
        return Stamp("CONTAMINATED", reason, cutoffs, None)
    latest, cutoff = max(((llm, cutoff) for llm, cutoff in found.items() if cutoff), key=lambda pair: pair[1].day)
    clean = datetime.combine(cutoff.day + _DAY, time(), UTC) + margin
    behind = f"the cut-off of {latest} ({cutoff}; a claim is no proof) and {margin.days} days"
    if start >= clean:
        return Stamp("CLEAN", f"the window begins on {start:%Y-%m-%d}, after {behind}", cutoffs, clean)
    if end > clean:
        return Stamp("MIXED", f"the window is clean only from {clean:%Y-%m-%d} on, after {behind}", cutoffs, clean)
    return Stamp("CONTAMINATED", f"the window ends on {end:%Y-%m-%d}, not after {behind}", cutoffs, clean)


def unjudged(llms: Sequence[str], why: str, registry: Cutoffs | None = None) -> Stamp | None:
    """Return the stamp of a window that is not known, such as a masked one: CONTAMINATED, for that is not ruled out.

    Args:
        llms: names of the language models that were asked; None is returned where there is none.
        why: why nothing can be said of the window.
        registry: cut-offs; those that providers claim where not given.
    """
    if not llms:
        return None
    known = registry or Cutoffs()
    return Stamp("CONTAMINATED", why, MappingProxyType({llm: known.of(llm) for llm in sorted(set(llms))}), None)


def _plain(name: str) -> str:
    """Return a name without its provider and its host, in small letters."""
    return _JOINED.sub(r"\1-\2", _HOST.sub("", name.strip().lower().rpartition("/")[2]))


def _named(name: str, table: Mapping[str, Entry]) -> Entry | None:
    """Return the entry with the longest name that this one is a snapshot or a size of."""
    fitting = [key for key in table if name.startswith(key) and _SAME.fullmatch(name, len(key))]
    return table[max(fitting, key=len)] if fitting else None
