"""nautilus_trader: orders fill at the close that decided; each bar is walked open, high, low, close; one account."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Any

import pandas as pd
from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.config import LoggingConfig, RiskEngineConfig
from nautilus_trader.indicators import DonchianChannel, MovingAverageType, RelativeStrengthIndex, SimpleMovingAverage
from nautilus_trader.model.currencies import USD
from nautilus_trader.model.data import BarType
from nautilus_trader.model.enums import AccountType, OmsType, OrderSide
from nautilus_trader.model.identifiers import InstrumentId, Symbol, Venue
from nautilus_trader.model.instruments import Equity
from nautilus_trader.model.objects import Money, Price, Quantity
from nautilus_trader.persistence.wranglers import BarDataWrangler
from nautilus_trader.trading.strategy import Strategy

from benchmarks._peers.serve import Done, serve
from benchmarks._peers.walk import walk

VENUE = Venue("SIM")


def equity(number: int) -> Any:
    name = f"S{number}"
    return Equity(
        instrument_id=InstrumentId(Symbol(name), VENUE),
        raw_symbol=Symbol(name),
        currency=USD,
        price_precision=2,
        price_increment=Price.from_str("0.01"),
        lot_size=Quantity.from_int(1),
        ts_event=0,
        ts_init=0,
    )


def bar_type(number: int) -> Any:
    return BarType.from_str(f"S{number}.SIM-5-MINUTE-LAST-EXTERNAL")


class Rule(Strategy):  # type: ignore[misc]
    """Trades one instrument: a share of equity, with a bracket of 1 % and 2 % around the close."""

    def __init__(self, number: int, share: float) -> None:
        super().__init__()
        self.own, self.bars, self.share = equity(number), bar_type(number), share
        self.made = self.make()
        self.before = 0.0

    def make(self) -> tuple[Any, ...]:
        return ()

    def enter(self, price: float) -> bool:
        raise NotImplementedError

    def leave(self, price: float) -> bool:
        raise NotImplementedError

    def on_start(self) -> None:
        for each in self.made:
            self.register_indicator_for_bars(self.bars, each)
        self.subscribe_bars(self.bars)

    def on_bar(self, bar: Any) -> None:
        if not self.indicators_initialized():
            return
        price, name = bar.close.as_double(), self.own.id
        if self.portfolio.is_flat(name):
            if self.enter(price):
                money = self.portfolio.account(VENUE).balance_total(USD).as_double()
                orders = self.order_factory.bracket(
                    instrument_id=name,
                    order_side=OrderSide.BUY,
                    quantity=Quantity.from_int(int(money * self.share / price)),
                    sl_trigger_price=Price(price * 0.99, 2),
                    tp_price=Price(price * 1.02, 2),
                    tp_post_only=False,
                )
                self.submit_order_list(orders)
        elif self.leave(price):
            self.cancel_all_orders(name)
            self.close_all_positions(name)
        self.after(bar)

    def after(self, bar: Any) -> None:
        pass


class Sma(Rule):
    def make(self) -> tuple[Any, ...]:
        self.fast, self.slow = SimpleMovingAverage(20), SimpleMovingAverage(50)
        return self.fast, self.slow

    def enter(self, price: float) -> bool:
        fast = self.fast.value
        return bool(fast > self.slow.value and price > fast)

    def leave(self, price: float) -> bool:
        return not self.enter(price)


class Rsi(Rule):
    def make(self) -> tuple[Any, ...]:
        self.rsi = RelativeStrengthIndex(14, MovingAverageType.WILDER)
        return (self.rsi,)

    def enter(self, price: float) -> bool:
        return bool(self.rsi.value < 0.3)

    def leave(self, price: float) -> bool:
        return bool(self.rsi.value >= 0.5)


class Donchian(Rule):
    def make(self) -> tuple[Any, ...]:
        self.channel = DonchianChannel(20)
        return (self.channel,)

    def enter(self, price: float) -> bool:
        return price > self.before

    def leave(self, price: float) -> bool:
        return bool(price < self.channel.middle)

    def after(self, bar: Any) -> None:
        self.before = self.channel.upper


class Idle(Rule):
    def on_bar(self, bar: Any) -> None:
        pass


KINDS = {"sma": Sma, "rsi": Rsi, "donchian": Donchian, "noop": Idle}


@lru_cache(maxsize=64)
def wrangled(bars: int, number: int) -> list[Any]:
    """Return nautilus bars, stamped with their close."""
    w = walk(bars, number)
    columns = {"open": w.open, "high": w.high, "low": w.low, "close": w.close, "volume": w.volume}
    index = pd.DatetimeIndex((w.start + 300_000_000).astype("M8[us]"), tz="UTC")
    return list(BarDataWrangler(bar_type(number), equity(number)).process(pd.DataFrame(columns, index=index)))


def prepare(case: str, bars: int, symbols: int = 1) -> Callable[[], Done]:
    """Return a run of an engine that has its data; no log, no checks of risk, no fees."""
    engine = BacktestEngine(
        BacktestEngineConfig(
            logging=LoggingConfig(bypass_logging=True), risk_engine=RiskEngineConfig(bypass=True), run_analysis=False
        )
    )
    engine.add_venue(
        venue=VENUE,
        oms_type=OmsType.NETTING,
        account_type=AccountType.MARGIN,
        base_currency=USD,
        starting_balances=[Money(100_000, USD)],
        default_leverage=Decimal(10),
    )
    for number in range(1, symbols + 1):
        engine.add_instrument(equity(number))
        engine.add_data(wrangled(bars, number), sort=number == symbols)
        engine.add_strategy(KINDS[case](number, 0.98 / symbols))

    def run() -> Done:
        engine.run()
        # Netting keeps one position for each instrument, and a snapshot of it for each time that it went flat.
        trades = len(engine.cache.position_snapshots()) + engine.cache.positions_closed_count()
        final = float(engine.portfolio.account(VENUE).balance_total(USD))
        engine.dispose()
        return trades, final

    return run


if __name__ == "__main__":
    serve("nautilus_trader", prepare)
