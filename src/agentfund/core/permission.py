"""What a fund may do now: the word of a watchdog outside of it, or that of nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentfund.trading import Permit

if TYPE_CHECKING:
    from agentfund.protocols import Permission

FREE = Permit()
NOBODY = Permit(
    lease=False,
    reason="no watchdog grants a lease: start one (agentfund watchdog) and give the fund permission=LeaseFile(...),"
    " or say permission=UNWATCHED",
)


class Unwatched:
    """Permission without a watchdog: nothing outside the process can stop the fund. Not for money that counts."""

    def now(self) -> Permit:
        """Return that everything is allowed."""
        return FREE


UNWATCHED = Unwatched()


def permit(permission: Permission | None, *, live: bool) -> Permit:
    """Return what a fund may do now; whatever goes wrong is no permission.

    Args:
        permission: who says so; nobody has to where the market is simulated.
        live: whether orders go to a real broker.
    """
    if permission is None:
        return NOBODY if live else FREE
    try:
        told: object = permission.now()
    except Exception as error:
        return Permit(lease=False, reason=f"the permission cannot be read: {type(error).__name__}: {error}")
    return told if isinstance(told, Permit) else Permit(lease=False, reason=f"{told!r} is no permit")
