"""The words of the trade: from what an agent proposes to what is held.

Agents give `Proposal`, `Verdict` and `View`; plain code makes `Decision` and `Order` of them; a broker answers with
`Fill`; `Position` and `Portfolio` follow from fills alone. Orders, fills, cash and fees are `Decimal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ZERO = Decimal(0)


class Side(StrEnum):
    """Which way an order goes."""

    BUY = "buy"
    SELL = "sell"

    @property
    def sign(self) -> int:
        """1 for a buy, -1 for a sell."""
        return 1 if self is Side.BUY else -1

    @property
    def opposite(self) -> Side:
        """The other side."""
        return Side.SELL if self is Side.BUY else Side.BUY


class Direction(StrEnum):
    """What one would like to hold."""

    LONG = "long"
    SHORT = "short"
    FLAT = "flat"


class Record(BaseModel):
    """Base of what agents give: never changes, knows its fields, holds no NaN and no infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, revalidate_instances="always")


class Proposal(Record):
    """What a strategist would trade. Distances, not prices: prices, sizes and ids are never an agent's to write.

    `symbol` may be left out in a fund that trades one instrument. `stop_pct` and `target_pct` are distances from the
    price at decision time in percent of it; `position_scale` multiplies the size that the sizing rule gives.
    """

    direction: Direction
    thesis: str = ""
    symbol: str = ""
    confidence: float = Field(default=0.5, description="0 to 1")
    stop_pct: float = Field(default=1.0, description="distance of the stop in percent of the price, 0.5 to 15")
    target_pct: float | None = Field(default=2.0, description="distance of the target in percent of the price")
    position_scale: float = Field(default=1.0, description="multiplies the standard size, 0.3 to 2.0")


class Verdict(Record):
    """A gate's answer to a proposal; `approved=False` is its veto."""

    approved: bool
    reason: str


class View(Record):
    """A blind second opinion: what one would hold without knowing what was proposed.

    `symbol` may be left out where the first instrument is meant.
    """

    direction: Direction
    symbol: str = ""
    confidence: float = Field(default=0.5, description="0 to 1")
    reason: str = ""


class OrderType(StrEnum):
    """How an order meets the market."""

    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"


class OrderStatus(StrEnum):
    """Where an order stands; UNKNOWN is a state of its own and never turns into another by time alone."""

    INTENDED = "intended"
    WORKING = "working"
    FILLED = "filled"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    UNKNOWN = "unknown"

    @property
    def open(self) -> bool:
        """Whether the order can still change the book."""
        return self in (OrderStatus.INTENDED, OrderStatus.WORKING, OrderStatus.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Order:
    """An order with its id.

    Args:
        id: the client order id: a hash of the decision, so the same decision never makes two orders.
        symbol: what to trade.
        side: buy or sell.
        quantity: how much, above zero, in lots of the instrument.
        time: when it was decided, aware UTC; it can fill no earlier.
        type: market, limit or stop.
        limit_price: worst price of a limit order.
        stop_price: trigger of a stop order.
        stop_loss: price of the protective stop that goes with an entry (bracket order).
        take_profit: price of the target that goes with an entry; the stop and it cancel each other.
        reduce_only: may only make a position smaller.
        decision: id of the decision behind it.
        token: fencing token of the leader that decided, 0 where nobody leads.
    """

    id: str
    symbol: str
    side: Side
    quantity: Decimal
    time: datetime
    type: OrderType = OrderType.MARKET
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    reduce_only: bool = False
    decision: str = ""
    token: int = 0


@dataclass(frozen=True, slots=True)
class OrderState:
    """An order, where it stands, and how much of it has filled.

    Args:
        order: the order.
        status: where it stands.
        filled: how much has filled, by the fills that are known.
        reason: the broker's words.
        told: how much has filled by the broker's word, where that is ahead of the fills.
    """

    order: Order
    status: OrderStatus
    filled: Decimal = ZERO
    reason: str = ""
    told: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Fill:
    """Something that happened: a quantity changed hands.

    Args:
        id: execution id; the same fill told twice has the same id.
        order_id: the order it belongs to; a bracket's exit names its entry order.
        symbol: what was traded.
        side: buy or sell.
        quantity: how much; zero where only a fee is told, of an order that left less than a lot.
        price: what was paid or received for one unit, spread and slippage included.
        fee: commission in the account's currency.
        time: when, aware UTC.
        reference: the market's price before spread and slippage, so that what they cost can be told.
        leg: the order itself, or a bracket's stop or target.
    """

    id: str
    order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    time: datetime
    reference: Decimal
    leg: Literal["order", "stop", "target"] = "order"

    @property
    def cost(self) -> Decimal:
        """What trading cost: commission, half spread and slippage, in the account's currency."""
        return self.fee + (self.price - self.reference) * self.quantity * self.side.sign


@dataclass(frozen=True, slots=True)
class Position:
    """What is held of one instrument.

    Args:
        symbol: the instrument.
        quantity: how much, negative when short, never zero.
        average_price: average price of what is held.
        opened: when it left zero, aware UTC.
        banked: profit of the parts that were closed since then, before fees.
    """

    symbol: str
    quantity: Decimal
    average_price: Decimal
    opened: datetime
    banked: Decimal = ZERO

    @property
    def direction(self) -> Direction:
        """Long, short or flat."""
        return Direction.LONG if self.quantity > 0 else Direction.SHORT if self.quantity < 0 else Direction.FLAT


_NOTHING: Mapping[str, Position] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Portfolio:
    """Cash and positions, a fold over fills.

    Args:
        cash: money that is not invested; below zero it is borrowed.
        positions: what is held, by symbol; no entry is flat.
        realized: profit of what was closed, before fees.
        fees: commissions paid so far.
        trips: round trips ended.
        wins: round trips ended with a profit before fees.
    """

    cash: Decimal
    positions: Mapping[str, Position] = field(default_factory=lambda: _NOTHING)
    realized: Decimal = ZERO
    fees: Decimal = ZERO
    trips: int = 0
    wins: int = 0

    def quantity(self, symbol: str) -> Decimal:
        """Return what is held of `symbol`, negative when short, zero when flat."""
        position = self.positions.get(symbol)
        return position.quantity if position else ZERO

    def direction(self, symbol: str) -> Direction:
        """Return whether `symbol` is held long, short or not at all."""
        position = self.positions.get(symbol)
        return position.direction if position else Direction.FLAT

    def equity(self, prices: Mapping[str, Decimal]) -> Decimal:
        """Return cash plus positions at `prices`; every held symbol must have one."""
        if not self.positions:
            return self.cash
        return self.cash + sum((p.quantity * prices[p.symbol] for p in self.positions.values()), ZERO)

    def gross(self, prices: Mapping[str, Decimal]) -> Decimal:
        """Return the sum of the positions' values without their signs."""
        return sum((abs(p.quantity) * prices[p.symbol] for p in self.positions.values()), ZERO)

    @property
    def win_rate(self) -> float | None:
        """Share of ended round trips that won, None before the first has ended."""
        return self.wins / self.trips if self.trips else None

    def apply(self, fill: Fill) -> Portfolio:
        """Return the portfolio after a fill."""
        signed = fill.quantity * fill.side.sign
        cash = self.cash - signed * fill.price - fill.fee
        old = self.positions.get(fill.symbol)
        held = old.quantity if old else ZERO
        now = held + signed
        realized, trips, wins = self.realized, self.trips, self.wins
        if old is None:
            position = Position(fill.symbol, now, fill.price, fill.time)
        elif held * signed > 0:
            average = (old.average_price * abs(held) + fill.price * fill.quantity) / abs(now)
            position = replace(old, quantity=now, average_price=average)
        else:
            closed = min(abs(held), fill.quantity)
            profit = (fill.price - old.average_price) * closed * (1 if held > 0 else -1)
            realized += profit
            position = replace(old, quantity=now, banked=old.banked + profit)
            if now * held <= 0:
                trips += 1
                wins += position.banked > 0
                position = Position(fill.symbol, now, fill.price, fill.time)
        positions = dict(self.positions)
        if now == 0:
            positions.pop(fill.symbol, None)
        else:
            positions[fill.symbol] = position
        return replace(
            self,
            cash=cash,
            positions=MappingProxyType(positions),
            realized=realized,
            fees=self.fees + fill.fee,
            trips=trips,
            wins=wins,
        )


@dataclass(frozen=True, slots=True)
class Account:
    """A broker's own word on what is there.

    Args:
        cash: money that is not invested; below zero it is borrowed.
        positions: signed quantities by symbol; none is zero.
        equity: cash plus positions at the broker's prices, None where it does not say.
        margin_used: maintenance margin over equity, 0 to 1 and above, None where it does not say.
        buying_power: the most that new positions may be worth, None where it does not say.
    """

    cash: Decimal
    positions: Mapping[str, Decimal]
    equity: Decimal | None = None
    margin_used: float | None = None
    buying_power: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Resting:
    """An order that rests at a broker, whoever sent it: a leg of a bracket has an id of its own there.

    Args:
        id: the client order id where it has one, else the broker's.
        symbol: what it trades.
        side: buy or sell.
        quantity: what it can still trade.
        type: market, limit or stop.
        price: its limit or trigger, None of a market order.
        entry: id of the entry that it protects, empty where it is no leg of a bracket, or the broker does not say.
        time: when it came, aware UTC, None where the broker does not say.
    """

    id: str
    symbol: str
    side: Side
    quantity: Decimal
    type: OrderType
    price: Decimal | None = None
    entry: str = ""
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Book:
    """What a broker shows at one moment to somebody who only looks.

    Args:
        account: cash, positions, equity, margin.
        resting: every order that can still trade, legs of brackets among them.
        time: the broker's own clock, aware UTC, None where it does not say.
        sent: how many orders came in the last minute by the broker's own count, None where it does not say.
    """

    account: Account
    resting: tuple[Resting, ...] = ()
    time: datetime | None = None
    sent: int | None = None


class Level(IntEnum):
    """How much a fund may do; the highest of several counts."""

    NORMAL = 0
    CAUTION = 1
    """Half size, no new symbols; lifts itself."""
    REDUCE_ONLY = 2
    """Only what makes positions smaller; lifts itself once its cause is gone, unless that was a loss."""
    HALT = 3
    """No new orders; entries are taken back, stops are kept. Only an operator lifts it."""
    KILL = 4
    """As a halt, and positions are closed or kept by policy. Only an operator lifts it."""


@dataclass(frozen=True, slots=True)
class Permit:
    """What a fund may do at this moment.

    Args:
        level: the level.
        lease: whether the watchdog's lease is valid; without one nothing adds risk.
        reason: why it is so, in one sentence; empty when all is well.
        cause: id of the halt, for `agentfund lift`; empty where nothing is latched.
    """

    level: Level = Level.NORMAL
    lease: bool = True
    reason: str = ""
    cause: str = ""


class Mode(StrEnum):
    """How much a fund may do by itself."""

    ADVISORY = "advisory"
    """It records what it would do."""
    SUPERVISED = "supervised"
    """A person approves each exact order; silence means no."""
    AUTONOMOUS = "autonomous"
    """It acts within its limits."""


class Outcome(StrEnum):
    """How a cycle ended."""

    ORDERED = "ordered"
    """Orders went to the broker."""
    ADVISED = "advised"
    """Advisory mode: this is what would have been ordered."""
    VETOED = "vetoed"
    """The gate agents did not agree."""
    DENIED = "denied"
    """The deterministic gate refused."""
    DECLINED = "declined"
    """A person said no, or did not answer in time."""
    HELD = "held"
    """There was nothing to do: proposals contradict each other, or the position is there already."""


class Decision(Record):
    """Closes a cycle in which something was proposed.

    `decided_by` names who had the last word: an agent, `consensus`, `gate`, `person` or `sizing`. `reason` says why in
    one sentence. `vetoes` holds each gate agent that did not approve, with its reason; `code` is the deterministic
    gate's; `price` is what the market showed; `critical` needs every gate's yes.
    """

    id: str
    cycle: int
    time: datetime
    outcome: Outcome
    decided_by: str
    reason: str
    symbol: str = ""
    direction: Direction | None = None
    proposed_by: tuple[str, ...] = ()
    vetoes: tuple[tuple[str, str], ...] = ()
    code: str = ""
    price: float | None = None
    critical: bool = False


@dataclass(frozen=True, slots=True)
class Costs:
    """What trading costs, on each side of a trade. Everything is on by default.

    Args:
        commission_bps: commission in basis points of the notional.
        commission_min: least commission of a fill, in the account's currency.
        half_spread_bps: half the distance between bid and ask, in basis points of the price.
        slippage_bps: what a market or stop order loses beyond the spread, in basis points of the price.
    """

    commission_bps: float = 1.0
    commission_min: float = 0.0
    half_spread_bps: float = 1.0
    slippage_bps: float = 1.0

    def __str__(self) -> str:
        least = f", at least {self.commission_min:g}" if self.commission_min else ""
        return (
            f"commission {self.commission_bps:g} bps{least}, half spread {self.half_spread_bps:g} bps,"
            f" slippage {self.slippage_bps:g} bps, on each side"
        )
