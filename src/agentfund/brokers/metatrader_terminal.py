"""What a MetaTrader 5 terminal looks like from Python: the functions of the package MetaTrader5 that are used here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from agentfund.errors import MissingExtra


class Terminal(Protocol):
    """A module-like object: the package itself, a proxy to it in another process, or a fake.

    Besides the functions it has the package's integer constants, such as `TRADE_ACTION_DEAL`. Every function blocks, may hang,
    and gives None when it failed; `last_error` says why. No two are called at once.
    """

    def initialize(self, *args: Any, **settings: Any) -> bool:
        """Connect to the terminal."""
        ...

    def shutdown(self) -> None:
        """Let go of the terminal."""
        ...

    def last_error(self) -> tuple[int, str]:
        """Return code and text of the last failure."""
        ...

    def account_info(self) -> Any:
        """Return balance, equity, margin, currency and margin mode."""
        ...

    def terminal_info(self) -> Any:
        """Return whether the terminal is connected and may trade."""
        ...

    def symbol_info(self, symbol: str) -> Any:
        """Return contract size, volume and price steps, filling modes."""
        ...

    def symbol_info_tick(self, symbol: str) -> Any:
        """Return bid, ask and their time."""
        ...

    def symbol_select(self, symbol: str, enable: bool = True) -> bool:
        """Show a symbol in the market watch, so that it has ticks."""
        ...

    def positions_get(self) -> Sequence[Any] | None:
        """Return positions."""
        ...

    def orders_get(self) -> Sequence[Any] | None:
        """Return pending orders."""
        ...

    def history_orders_get(self, start: datetime, end: datetime) -> Sequence[Any] | None:
        """Return orders that ended, by the broker's wall time."""
        ...

    def history_deals_get(self, start: datetime, end: datetime) -> Sequence[Any] | None:
        """Return deals, by the broker's wall time."""
        ...

    def order_check(self, request: dict[str, Any]) -> Any:
        """Say whether a request could be carried out."""
        ...

    def order_send(self, request: dict[str, Any]) -> Any:
        """Carry a request out."""
        ...


def package() -> Any:
    """Return the package MetaTrader5.

    Raises:
        MissingExtra: it is not there; it exists for Windows alone.
    """
    try:
        import MetaTrader5  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise NoPackage from None
    return MetaTrader5


class NoPackage(MissingExtra):
    """The package MetaTrader5 is missing."""

    def __init__(self) -> None:
        super().__init__("MetaTrader5", "mt5")

    def __str__(self) -> str:
        proxy = "elsewhere give terminal= an object that calls it on a Windows machine, such as an RPyC proxy"
        return f"{super().__str__()} works on Windows alone; {proxy}"
