"""What an audit came to: findings, what was compared, and what was not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from agentfund.errors import LookaheadError


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that depends on what could not be known.

    Args:
        kind: "future" (it changes with what comes later), "facts" (with facts that became known later), "universe" (the
            choice of instruments does), "chance" (it is not the same twice), "carried over" (a run changes the next one),
            "memory" (it fits these prices without reading them), "execution" (an order met a price that was past), "lanes"
            (bar by bar it says something else than at once).
        who: the strategy or the agent; "make" where the factory gave an array.
        what: decision, position, opinion, enter, leave, or an indicator's name.
        symbol: the instrument, empty where it is of none.
        time: of the first one that changed, aware UTC; None where it has none.
        bar: its number among the bars of the instrument, from 0.
        cut: after which moment the future was another, aware UTC; None where that was not what was done.
        way: what was done.
        before: what it was with the data as they are.
        after: what it became.
        hint: what it likely is.
        seen: how many runs show it.
    """

    kind: str
    who: str
    what: str
    symbol: str = ""
    time: datetime | None = None
    bar: int | None = None
    cut: datetime | None = None
    way: str = ""
    before: str = ""
    after: str = ""
    hint: str = ""
    seen: int = 1

    def __str__(self) -> str:
        of = f" of {self.symbol}" if self.symbol else ""
        at = f" at bar {self.bar:,} ({self.time:%Y-%m-%d %H:%M} UTC)" if self.time is not None and self.bar is not None else ""
        lines = [f"{self.kind}: {self.who}, {self.what}{of}{at}"]
        if self.before or self.after:
            lines.append(f"  was {self.before}; became {self.after}" if self.way else f"  {self.before}; {self.after}")
        if self.way:
            after = f" (cut at {self.cut:%Y-%m-%d %H:%M} UTC)" if self.cut is not None else ""
            runs = f"; {self.seen} runs show it" if self.seen > 1 else ""
            lines.append(f"  when {self.way}{after}{runs}")
        lines.append(f"  likely {self.hint}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit came to.

    Args:
        findings: what depends on what could not be known.
        warnings: what was not tested, and what to know; one sentence each.
        decided: how many decisions there were to compare: moments before the last cut at which something was wanted.
        compared: how many values were compared in all runs together.
        runs: how often the factory was run.
        failed: how often it raised on other data, so that nothing could be compared.
        cuts: moments after which the future was replaced, aware UTC.
        ways: what was done to the future.
    """

    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]
    decided: int
    compared: int
    runs: int
    failed: int
    cuts: tuple[datetime, ...]
    ways: tuple[str, ...]

    @property
    def tested(self) -> bool:
        """Whether anything was decided that could be compared, and most runs could be."""
        return self.decided > 0 and self.compared > 0 and 2 * self.failed <= self.runs

    @property
    def clean(self) -> bool:
        """Whether something was tested and nothing was found."""
        return self.tested and not self.findings

    def check(self) -> None:
        """Do nothing where all is well.

        Raises:
            LookaheadError: something was found, or nothing was tested; the message is the whole text.
        """
        if not self.clean:
            raise LookaheadError(str(self))

    def __str__(self) -> str:
        did = (
            f"{self.decided:,} decisions; {self.compared:,} values compared in {self.runs} runs,"
            f" {len(self.cuts)} cuts, {len(self.ways)} ways: {', '.join(self.ways)}"
        )
        if not self.tested:
            why = "the factory raised in most runs" if self.decided and self.compared else "nothing was decided"
            head = f"NOT TESTED: {why}, so there was nothing to compare"
        elif self.findings:
            ahead = ": it looks ahead" * any(each.kind not in ("chance", "lanes") for each in self.findings)
            head = f"{len(self.findings)} finding{'s' * (len(self.findings) > 1)}{ahead}"
        else:
            head = "clean: no decision changed with the future"
        return "\n".join([head, did, *map(str, self.findings), *(f"note: {text}" for text in self.warnings)])

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        told = asdict(self)
        for each in told["findings"]:
            each["time"], each["cut"] = (each[n] and each[n].isoformat() for n in ("time", "cut"))
        told |= {"cuts": [cut.isoformat() for cut in self.cuts], "tested": self.tested, "clean": self.clean}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}
