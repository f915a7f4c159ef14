"""From a proposal to an order: plain code sets price, size and stop, before any gate looks at it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import TYPE_CHECKING

from agentfund.errors import ConfigError
from agentfund.market import decimal
from agentfund.messages import stable_id
from agentfund.trading import Direction, Order, Portfolio, Proposal, Side

if TYPE_CHECKING:
    from agentfund.market import Instrument


MEANT = Context(prec=14)
"""Digits of a size that mean something."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """How much to trade: the size at which the stop loses a fixed share of equity.

    quantity = equity x risk_pct / (price x stop_pct) x position_scale, at most max_leverage x equity / price.

    Args:
        risk_pct: share of equity that is lost when the stop is hit, in percent.
        max_leverage: notional of a position as a multiple of equity at most.
        headroom_pct: kept free of that maximum, for the price may move until the order fills, in percent.
    """

    risk_pct: float = 1.0
    max_leverage: float = 1.0
    headroom_pct: float = 2.0

    def __post_init__(self) -> None:
        if not (self.risk_pct > 0 and self.max_leverage > 0 and 0 <= self.headroom_pct < 100):
            raise ConfigError(f"sizing needs risk_pct > 0, max_leverage > 0 and 0 <= headroom_pct < 100: {self}")

    def quantity(self, equity: Decimal, price: Decimal, proposal: Proposal, instrument: Instrument) -> Decimal:
        """Return the quantity of an entry, rounded down to the lot; zero when there is nothing to risk."""
        if equity <= 0:
            return Decimal(0)
        risked = equity * decimal(self.risk_pct) / (price * decimal(proposal.stop_pct)) * decimal(proposal.position_scale)
        # A stop that was computed carries the noise of float64 in its last digits; it must not cost a whole lot.
        risked = MEANT.plus(risked)
        most = equity * decimal(self.max_leverage) * (1 - decimal(self.headroom_pct) / 100) / price
        return instrument.round_quantity(min(risked, most))


def plan(
    proposal: Proposal,
    *,
    decision: str,
    time: datetime,
    price: Decimal,
    equity: Decimal,
    portfolio: Portfolio,
    instrument: Instrument,
    sizing: Sizing,
) -> Order | str:
    """Return the order that brings the book towards the proposal, or the reason why there is none.

    A position on the other side is closed first; turning it around takes a second decision, with a clean book.
    """
    held = portfolio.quantity(instrument.symbol)
    have = portfolio.direction(instrument.symbol)
    if have is proposal.direction:
        return f"{instrument.symbol} is {have} already"
    order_id = stable_id(decision, instrument.symbol)
    if have is not Direction.FLAT:
        side = Side.SELL if held > 0 else Side.BUY
        return Order(order_id, instrument.symbol, side, abs(held), time, reduce_only=True, decision=decision)
    quantity = sizing.quantity(equity, price, proposal, instrument)
    if quantity <= 0:
        return f"the size of {instrument.symbol} rounds to zero"
    side = Side.BUY if proposal.direction is Direction.LONG else Side.SELL
    # The stop is rounded towards the market and the target too, so that rounding never adds risk.
    toward, away = (ROUND_CEILING, ROUND_FLOOR) if side is Side.BUY else (ROUND_FLOOR, ROUND_CEILING)
    stop = instrument.round_price(price * (1 - side.sign * decimal(proposal.stop_pct) / 100), toward)
    target = None
    if proposal.target_pct is not None:
        target = instrument.round_price(price * (1 + side.sign * decimal(proposal.target_pct) / 100), away)
    return Order(
        order_id,
        instrument.symbol,
        side,
        quantity,
        time,
        stop_loss=stop,
        take_profit=target if target is None or target > 0 else None,
        decision=decision,
    )
