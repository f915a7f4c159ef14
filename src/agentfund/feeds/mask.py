"""A mapping between the real market and a masked one: names, times, prices and quantities, both ways and exact."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any, TypeVar

from agentfund.errors import ConfigError
from agentfund.market import Instrument, decimal
from agentfund.trading import Account, Decision, Fill, Order, OrderState

Thing = TypeVar("Thing", str, datetime, Order, OrderState, Fill, Account, Decision)

OTHER = "OTHER"
"""What anything that is not masked is called in the masked market: its name would tell where one is."""

_ONE = Decimal(1)


@dataclass(frozen=True, slots=True, repr=False)
class Mask:
    """A mapping that keeps money: prices are multiplied by a factor, quantities divided by it.

    `hide` leads into the masked market, `show` out of it. What is money stays what it is.

    Args:
        symbols: masked names by real ones; one to one.
        prices: what prices are multiplied by, by real name; 1 where not given.
        quantities: what quantities are multiplied by, by real name; 1 / the price's factor, exactly.
        shift: what is added to times.

    Raises:
        ConfigError: two instruments would have one name.
    """

    symbols: Mapping[str, str]
    prices: Mapping[str, Decimal] = field(default_factory=dict)
    quantities: Mapping[str, Decimal] = field(default_factory=dict)
    shift: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        if len(set(self.symbols.values())) != len(self.symbols):
            raise ConfigError("two instruments would have the same masked name")
        for name in ("symbols", "prices", "quantities"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __repr__(self) -> str:
        return f"<Mask of {len(self.symbols)} instruments>"

    def hide(self, thing: Thing) -> Thing:
        """Return a symbol, a time, an order, its state, a fill, an account or a decision as the masked market knows it."""
        moved: Thing = _moved(thing, self._way(True))
        return moved

    def show(self, thing: Thing) -> Thing:
        """Return a symbol, a time, an order, its state, a fill, an account or a decision as it really is.

        Raises:
            ConfigError: it is of an instrument that the masked market does not have.
        """
        moved: Thing = _moved(thing, self._way(False))
        return moved

    def hide_price(self, symbol: str, price: float | Decimal) -> Decimal:
        """Return what a price of an instrument, by its real name, is in the masked market."""
        return decimal(price) * self.prices.get(symbol, _ONE)

    def show_price(self, symbol: str, price: float | Decimal) -> Decimal:
        """Return what a masked price of an instrument, by its masked name, really is."""
        return self._way(False).price(self.show(symbol), decimal(price))

    def hide_instrument(self, instrument: Instrument) -> Instrument:
        """Return an instrument with its masked name, and with increments that round as the real ones do."""
        symbol = instrument.symbol
        return replace(
            instrument,
            symbol=self.hide(symbol),
            tick_size=instrument.tick_size * self.prices.get(symbol, _ONE),
            lot_size=instrument.lot_size * self.quantities.get(symbol, _ONE),
        )

    def show_text(self, value: Any) -> Any:
        """Return JSON values with the real names in their texts; numbers stay, for nobody knows whether they are prices."""
        real = {masked: name for name, masked in self.symbols.items()}
        names = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(real, key=len, reverse=True)))})(?!\w)")

        def walk(part: Any) -> Any:
            if isinstance(part, str):
                return names.sub(lambda found: real[found[0]], part)
            if isinstance(part, Mapping):
                return {walk(key): walk(each) for key, each in part.items()}
            return [walk(each) for each in part] if isinstance(part, (list, tuple)) else part

        return walk(value)

    def _way(self, into: bool) -> _Way:
        symbols = self.symbols if into else {masked: name for name, masked in self.symbols.items()}
        return _Way(self, symbols, into)


@dataclass(frozen=True, slots=True)
class _Way:
    """One direction of a mask; `name` below is always the real name."""

    mask: Mask
    symbols: Mapping[str, str]
    into: bool

    def symbol(self, symbol: str) -> str:
        if symbol in self.symbols:
            return self.symbols[symbol]
        if self.into:
            return OTHER
        raise ConfigError(f"{symbol!r} is no instrument of the masked market; it has {', '.join(self.symbols)}")

    def name(self, symbol: str) -> str:
        return symbol if self.into else self.symbol(symbol)

    def time(self, moment: datetime) -> datetime:
        return moment + self.mask.shift if self.into else moment - self.mask.shift

    def price(self, name: str, price: Decimal) -> Decimal:
        return price * (self.mask.prices if self.into else self.mask.quantities).get(name, _ONE)

    def quantity(self, name: str, quantity: Decimal) -> Decimal:
        return quantity * (self.mask.quantities if self.into else self.mask.prices).get(name, _ONE)


def _moved(thing: Any, way: _Way) -> Any:
    match thing:
        case str():
            return way.symbol(thing)
        case datetime():
            return way.time(thing)
        case Order():
            name = way.name(thing.symbol)
            prices: dict[str, Any] = {
                each: None if (price := getattr(thing, each)) is None else way.price(name, price)
                for each in ("limit_price", "stop_price", "stop_loss", "take_profit")
            }
            return replace(
                thing,
                symbol=way.symbol(thing.symbol),
                quantity=way.quantity(name, thing.quantity),
                time=way.time(thing.time),
                **prices,
            )
        case OrderState():
            name = way.name(thing.order.symbol)
            return replace(
                thing,
                order=_moved(thing.order, way),
                filled=way.quantity(name, thing.filled),
                told=way.quantity(name, thing.told),
            )
        case Fill():
            name = way.name(thing.symbol)
            return replace(
                thing,
                symbol=way.symbol(thing.symbol),
                quantity=way.quantity(name, thing.quantity),
                price=way.price(name, thing.price),
                reference=way.price(name, thing.reference),
                time=way.time(thing.time),
            )
        case Account():
            held: dict[str, Decimal] = {}
            for symbol, quantity in thing.positions.items():
                # What is not masked stays apart, and what it is does not show.
                key = way.symbol(symbol)
                held[key if key not in held else f"{key}{len(held)}"] = way.quantity(way.name(symbol), quantity)
            return Account(thing.cash, MappingProxyType(held))
        case Decision():
            told: dict[str, Any] = {"time": way.time(thing.time)}
            if thing.symbol:
                told["symbol"] = way.symbol(thing.symbol)
                if thing.price is not None:
                    told["price"] = float(way.price(way.name(thing.symbol), decimal(thing.price)))
            return thing.model_copy(update=told)
    raise ConfigError(f"a {type(thing).__name__} cannot be masked; symbols, times, orders, fills, accounts and decisions can")
