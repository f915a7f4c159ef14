"""All that the gate looks at besides the order and the limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from agentfund.hours import Blackouts
from agentfund.market import Status as Status
from agentfund.trading import ZERO, Order, OrderState, Permit, Portfolio

if TYPE_CHECKING:
    from agentfund.hours import Hours
    from agentfund.market import Instrument, Quote

NO_BLACKOUTS = Blackouts()


@dataclass(frozen=True, slots=True)
class Rates:
    """How many decisions have ordered of late.

    Args:
        second: within the last second.
        minute: within the last minute.
        hour: within the last hour.
        day: within the last day.
    """

    second: int = 0
    minute: int = 0
    hour: int = 0
    day: int = 0

    @classmethod
    def of(cls, times: Iterable[datetime], now: datetime) -> Rates:
        """Count the moments (aware) at which decisions ordered; one that lies in the future counts everywhere."""
        ages = [now - time for time in times]
        within = (timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1))
        return cls(*(sum(1 for age in ages if age < length) for length in within))


NO_RATES = Rates()


@dataclass(frozen=True, slots=True)
class Denial:
    """The gate's no: a code for programs and a reason for people."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Scene:
    """All that the gate looks at besides the order and the limits.

    A fact that is None is one that nobody told. In live trading that is a denial of everything that adds risk, unless the
    limits do not ask for it; in a simulation the check is left out.

    Args:
        now: the time, aware UTC.
        decided: when the decision was made.
        instrument: what the order trades; None when the feed does not know it.
        price: the market's price of it: the close of its last bar.
        quote_age_s: how old the prices are beyond their bar, in seconds, those that the agents saw and those of now; below
            zero they come from the future.
        portfolio: cash and positions.
        prices: price of everything that is held or on order.
        equity: cash plus positions.
        peak_equity: its highest so far.
        day_equity: what it was when the day began.
        orders: open orders, UNKNOWN ones among them.
        recent: orders of late, for the duplicate check.
        ordered_last_hour: decisions that ordered.
        critical_last_day: critical decisions that ordered.
        critical: whether this decision is one.
        degraded: agents answered by rules because no language model could: nothing may add risk.
        blind: why the broker cannot be seen, or why its books are not ours; empty when all is well.
        live: whether real orders follow: the broker is not simulated.
        permit: level and lease at this moment.
        hours: opening hours.
        blackouts: windows in which nothing adds risk.
        status: what the exchange says of the instrument.
        quote: bid and ask of it at this moment.
        min_notional: least notional of an order there, in the account's currency; zero where there is none.
        volume: average volume of a bar of it (of a day's bar, where orders may take a day), in units.
        sectors: sector of each instrument, by symbol.
        clusters: cluster of instruments that move together, by symbol.
        buying_power: the most that new positions may be worth, by the broker's word.
        margin_used: maintenance margin over equity, 0 to 1 and above, by the broker's word.
        rates: decisions of the fund that ordered of late.
        agent_rates: the same of the proposing agent, the busiest where there are several.
        repeats: orders in this instrument and direction since a fill changed the book there, or a person acted.
        day_peak_equity: highest equity of the day (UTC).
        proposed_by: the agents that proposed it.
        decided_quantity: the quantity that the decision said, of all its orders together.
    """

    now: datetime
    decided: datetime
    instrument: Instrument | None
    price: Decimal
    quote_age_s: float
    portfolio: Portfolio
    prices: Mapping[str, Decimal]
    equity: Decimal
    peak_equity: Decimal
    day_equity: Decimal
    orders: tuple[OrderState, ...] = ()
    recent: tuple[Order, ...] = ()
    ordered_last_hour: int = 0
    critical_last_day: int = 0
    critical: bool = False
    degraded: bool = False
    blind: str = ""
    live: bool = False
    permit: Permit | None = None
    hours: Hours | None = None
    blackouts: Blackouts = NO_BLACKOUTS
    status: Status | None = None
    quote: Quote | None = None
    min_notional: Decimal = ZERO
    volume: Decimal | None = None
    sectors: Mapping[str, str] | None = None
    clusters: Mapping[str, str] | None = None
    buying_power: Decimal | None = None
    margin_used: float | None = None
    rates: Rates = NO_RATES
    agent_rates: Rates = NO_RATES
    repeats: int = 0
    day_peak_equity: Decimal | None = None
    proposed_by: tuple[str, ...] = ()
    decided_quantity: Decimal | None = None
