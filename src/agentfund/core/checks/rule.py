"""One check of the gate, with all that can be said of it, so that no list beside the code can go stale."""

from __future__ import annotations

from collections.abc import Callable

from agentfund.core.checks.case import Case

Run = Callable[[Case], str]


class Rule:
    """A check: a function that gives the reason to deny an order, empty where there is none.

    The function's name is the code, and the first line of its docstring says when it denies.

    Args:
        run: the function.
        limits: the limits that it looks at.
        exits: "checked" where an order that reduces a position has to pass it too, words where only a part of it has to,
            empty where it has not.
    """

    def __init__(self, run: Run, limits: tuple[str, ...], exits: str) -> None:
        self.run = run
        self.code = run.__name__
        self.limits = limits
        self.exits = exits
        self.what = (run.__doc__ or "").partition("\n")[0].rstrip(".").removeprefix("Deny where ").replace("``", "`")
        self.__wrapped__ = run

    def __repr__(self) -> str:
        return f"<Rule {self.code}>"


def rule(*limits: str, exits: str = "") -> Callable[[Run], Rule]:
    """Make a check of a function; see `Rule`."""

    def make(run: Run) -> Rule:
        return Rule(run, limits, exits)

    return make
