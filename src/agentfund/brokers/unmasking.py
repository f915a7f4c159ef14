"""A broker for a masked fund: orders are translated behind the gate, and what comes back is masked again."""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from agentfund.errors import BrokerUnavailable, ConfigError, OrderRejected
from agentfund.secrets import scrub

if TYPE_CHECKING:
    from agentfund.feeds.mask import Mask
    from agentfund.protocols import Broker
    from agentfund.trading import Account, Fill, Order, OrderState

Item = TypeVar("Item")
_log = logging.getLogger("agentfund")

UNTOLD = "the broker's words could tell what is masked; they are in the log of this process"
"""What stands in the place of a broker's words: they may name a ticker or a price."""


class Unmasking:
    """A broker that knows the masked market on one side and a real broker on the other.

    Symbols, prices, quantities and times are translated both ways; ids stay as they are, and money is the same on both
    sides. It has as much of the protocol `Broker` as any broker, and is never a simulated one: its market is the real one.

    Args:
        broker: where the real orders go.
        mask: the mapping of the masked feed, `masked.mask`.
    """

    def __init__(self, broker: Broker, mask: Mask) -> None:
        self._broker = broker
        self._mask = mask

    def __repr__(self) -> str:
        return f"<Unmasking of a {type(self._broker).__name__}>"

    @property
    def dedupes_ids(self) -> bool:
        """Whether the real broker refuses or ignores a second order with the same id."""
        return self._broker.dedupes_ids

    async def account(self) -> Account:
        """Return cash, which is real, and positions as the masked market knows them; what is not masked is called OTHER."""
        return self._mask.hide(await self._asked(self._broker.account()))

    async def orders(self) -> Sequence[OrderState]:
        """Return orders as the masked market knows them."""
        return tuple(map(self._hidden, await self._asked(self._broker.orders())))

    async def fills(self) -> Sequence[Fill]:
        """Return fills as the masked market knows them."""
        return tuple(map(self._mask.hide, await self._asked(self._broker.fills())))

    async def submit(self, order: Order) -> OrderState:
        """Send the real order; return how it stands, as the masked market knows it.

        Raises:
            OrderRejected: the broker said no, or the masked market has no such instrument.
            BrokerUnavailable: nobody knows.
        """
        try:
            real = self._mask.show(order)
        except ConfigError as error:
            raise OrderRejected(str(error), code="unknown_symbol") from None
        return self._hidden(await self._asked(self._broker.submit(real)))

    async def cancel(self, order_id: str) -> OrderState:
        """Take an order back; return how it stands, as the masked market knows it."""
        return self._hidden(await self._asked(self._broker.cancel(order_id)))

    def _hidden(self, state: OrderState) -> OrderState:
        hidden = self._mask.hide(state)
        if not state.reason:
            return hidden
        _log.info("order %s: %s", state.order.id, scrub(state.reason))
        return replace(hidden, reason=UNTOLD)

    async def _asked(self, question: Coroutine[Any, Any, Item]) -> Item:
        try:
            return await question
        except (OrderRejected, BrokerUnavailable) as error:
            _log.warning("the broker behind the mask: %s: %s", type(error).__name__, scrub(str(error)))
            if isinstance(error, OrderRejected):
                raise OrderRejected(UNTOLD, code=error.code) from None
            raise BrokerUnavailable(UNTOLD) from None
