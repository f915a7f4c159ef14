"""The deterministic last check: a pure function that says allow, or deny with a code and a reason.

It never edits an order. Whatever it cannot judge (a missing number, NaN, an error of its own) is a deny. The checks are in
`agentfund.core.checks`, what they look at in `agentfund.core.scene` and `agentfund.core.limits`.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import getcontext, setcontext

from agentfund.core.checks import CHECKS
from agentfund.core.checks.case import EXACT, Case
from agentfund.core.limits import OFF, Limits
from agentfund.core.scene import Denial, Rates, Scene, Status
from agentfund.trading import Order, Permit

__all__ = ["CHECKS", "OFF", "Denial", "Limits", "Rates", "Scene", "Status", "check", "check_closing"]

_OF_ENTRIES = tuple((one.run, one.code) for one in CHECKS)
_OF_EXITS = tuple((one.run, one.code) for one in CHECKS if one.exits)


def check(order: Order, scene: Scene, limits: Limits) -> Denial | None:
    """Return None to allow the order, or the first reason to deny it.

    Args:
        order: the order.
        scene: all that is known.
        limits: the limits.
    """
    callers = getcontext()
    setcontext(EXACT)  # whatever the caller's own precision and traps are; localcontext would copy it for every order
    try:
        case = Case(order, scene, limits)
        for run, code in _OF_EXITS if case.reduces else _OF_ENTRIES:
            if reason := run(case):
                return Denial(code, reason)
    except Exception as error:  # a gate that cannot judge says no
        return Denial("gate_error", f"the gate could not judge: {type(error).__name__}: {error}")
    finally:
        setcontext(callers)
    return None


def check_closing(order: Order, scene: Scene, limits: Limits) -> Denial | None:
    """Judge an order by which a position is closed at level 4: as any exit, but for the halt itself, and no agent proposed it.

    Args:
        order: the order.
        scene: all that is known.
        limits: the limits.
    """
    return check(order, replace(scene, permit=Permit()), replace(limits, proposers=frozenset()))
