"""How a terminal is asked and told, in the one thread that may call it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, NoReturn

from agentfund.brokers.metatrader_books import BUY, SELL, Reading, Traded, exact
from agentfund.brokers.metatrader_terminal import Terminal
from agentfund.brokers.metatrader_thread import Errand
from agentfund.brokers.metatrader_time import Offset
from agentfund.brokers.metatrader_words import DONE, REFUSALS, comment
from agentfund.brokers.refusals import refuse
from agentfund.errors import BrokerUnavailable, ConfigError, OrderRejected
from agentfund.protocols import Clock
from agentfund.trading import ZERO, Order, OrderStatus, OrderType, Side

_FLAT_MONEY = frozenset({0, 2, 4, 5, 32})  # forex, CFD, CFD with leverage, forex without leverage, shares: price times size
_AHEAD = timedelta(days=2)  # the broker's wall time is ahead of UTC


class Desk:
    """Everything here blocks, and is called in the booth alone.

    Args:
        terminal: the module-like object.
        magic: the number of our orders.
        symbols: the terminal's names by ours.
        lookback: how far back ended orders and deals are read.
        deviation: how many points a market order's price may move.
        offset: learns the broker's time zone.
        clock: where the time comes from.
        settings: what `initialize` is given.
    """

    def __init__(
        self,
        terminal: Terminal,
        magic: int,
        symbols: Mapping[str, str],
        lookback: timedelta,
        deviation: int,
        offset: Offset,
        clock: Clock,
        settings: Mapping[str, Any],
    ) -> None:
        self._terminal, self._magic, self._symbols = terminal, magic, symbols
        self._lookback, self._deviation, self._offset, self._clock = lookback, deviation, offset, clock
        self._settings = settings
        self._traded: dict[str, Traded] = {}
        self._started = False

    def read(self) -> Reading:
        """Return all that the terminal shows, twice the same where it moves meanwhile.

        Raises:
            BrokerUnavailable: it is not connected, or gave None.
            ConfigError: a symbol is not there, or is paid in money that is not the account's.
        """
        self._start()
        now = self._clock.now()
        # What ends between two questions is in the later answer: pending first, then ended, then deals.
        for _ in range(3):
            account = self.ask("account_info")
            positions = tuple(self.ask("positions_get"))
            orders = tuple(self.ask("orders_get"))
            past = tuple(self.ask("history_orders_get", now - self._lookback, now + _AHEAD))
            deals = tuple(self.ask("history_deals_get", now - self._lookback, now + _AHEAD))
            still = tuple((p.ticket, p.volume, p.price_open) for p in self.ask("positions_get"))
            if still == tuple((p.ticket, p.volume, p.price_open) for p in positions) and (
                self.ask("account_info").balance == account.balance
            ):
                self._connected()
                return Reading(self._magic, self._traded, account, positions, orders, past, deals)
        raise BrokerUnavailable("the MetaTrader account changed while it was read; ask again")

    def ticks(self) -> None:
        """Look at the newest ticks, for the broker's time zone."""
        for there in self._traded:
            tick = self._terminal.symbol_info_tick(there)
            if tick is not None:
                self._offset.note(tick.time_msc, self._clock.now())

    def send(self, order: Order, errand: Errand, reading: Reading) -> tuple[OrderStatus, Decimal]:
        """Send an order that is certainly not there yet; return how it stands and how much has filled by the answer.

        Raises:
            OrderRejected: it cannot work, or a return code says that nothing was traded.
            BrokerUnavailable: nobody knows.
        """
        traded = self._traded[self._symbols[order.symbol]]
        self._lots(order, traded, order.quantity)
        tick = self.ask("symbol_info_tick", traded.there)
        requests = self._exits(order, traded, tick, reading) if order.reduce_only else [self._entry(order, traded, tick)]
        for request in requests:
            checked = self.ask("order_check", request)
            if checked.retcode not in (0, *DONE):
                self._refuse(order, checked.retcode, f"{checked.comment}, before it was sent")
        done = ZERO
        errand.commit()
        for at, request in enumerate(requests):
            result = self.ask("order_send", request)
            if result.retcode in REFUSALS:
                if at:
                    break  # the positions before it are closed: the order is filled in part
                self._refuse(order, result.retcode, result.comment)
            if result.retcode not in DONE:
                raise BrokerUnavailable(
                    f"MetaTrader answered order {order.id!r} with {result.retcode}: {result.comment}; it may be carried out"
                )
            if order.type is OrderType.MARKET and result.retcode != 10008:
                done += exact(result.volume) * traded.contract_size
        if order.type is OrderType.MARKET:
            self.guard(order, self.ask("positions_get"))
        status = OrderStatus.FILLED if done >= order.quantity else OrderStatus.WORKING
        return status, done

    def guard(self, order: Order, positions: Iterable[Any]) -> None:
        """See that the position of an entry has its stop; some brokers leave it out, and it is set then.

        Raises:
            BrokerUnavailable: it was not set; the position has no stop.
        """
        there = self._symbols[order.symbol]
        for held in positions:
            mine = held.magic == self._magic and held.symbol == there and held.comment == comment(order.id)
            way = BUY if order.side is Side.BUY else SELL
            if order.stop_loss is None or not mine or held.sl or held.type != way:
                continue
            levels = {"sl": self._price(order.stop_loss, self._traded[there]), "tp": held.tp}
            if order.take_profit is not None:
                levels["tp"] = self._price(order.take_profit, self._traded[there])
            action = {"action": self._constant("TRADE_ACTION_SLTP"), "symbol": there, "position": held.ticket}
            result = self.ask("order_send", {**action, **levels, "magic": self._magic})
            if result.retcode not in DONE:
                said = f"{result.retcode} {result.comment}"
                raise BrokerUnavailable(f"order {order.id!r} traded, and its stop was refused with {said}: it has no stop")

    def remove(self, ticket: int, errand: Errand) -> str:
        """Ask for a pending order to be taken back; return why it was not, empty where it was."""
        request = {"action": self._constant("TRADE_ACTION_REMOVE"), "order": ticket}
        errand.commit()
        result = self.ask("order_send", request)
        return "" if result.retcode in DONE else f"{result.retcode}: {result.comment}"

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call a function of the terminal; None is an error, and never an empty answer.

        Raises:
            BrokerUnavailable: it gave None, or the way to it broke.
        """
        try:
            answer = getattr(self._terminal, name)(*arguments)
            error = self._terminal.last_error() if answer is None else None
        except BrokerUnavailable:
            raise
        except Exception as broken:  # whatever a proxy raises
            self._started = False
            raise BrokerUnavailable(f"the way to the MetaTrader terminal broke at {name}: {type(broken).__name__}") from broken
        if answer is None:
            raise BrokerUnavailable(f"MetaTrader gave no answer to {name}: {error}")
        return answer

    def shut(self) -> None:
        """Let go of the terminal."""
        if self._started:
            self._started = False
            self._terminal.shutdown()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if not self._started:
            try:
                fine = self._terminal.initialize(**self._settings)
                error = None if fine else self._terminal.last_error()
            except Exception as broken:
                raise BrokerUnavailable(f"the way to the MetaTrader terminal broke: {type(broken).__name__}") from broken
            if not fine:
                raise BrokerUnavailable(f"the MetaTrader terminal does not start: {error}")
            self._started = True
        self._connected()
        if len(self._traded) < len(self._symbols):
            currency = self.ask("account_info").currency
            self._traded = {there: self._know(name, there, currency) for name, there in self._symbols.items()}

    def _connected(self) -> None:
        if not self.ask("terminal_info").connected:
            raise BrokerUnavailable("the MetaTrader terminal is not connected to its broker; what it shows may be old")

    def _know(self, name: str, there: str, currency: str) -> Traded:
        info = self._terminal.symbol_info(there) if self._terminal.symbol_select(there, True) else None
        if info is None:
            raise ConfigError(f"{name}: the terminal has no symbol {there!r}; look its name up in the market watch")
        if info.currency_profit != currency:
            raise ConfigError(f"{name}: its profit is counted in {info.currency_profit}, the account in {currency}")
        if info.trade_calc_mode not in _FLAT_MONEY:
            raise ConfigError(f"{name}: contracts whose profit is not price times size are not supported")
        steps = (exact(info.trade_contract_size), exact(info.volume_min), exact(info.volume_max), exact(info.volume_step))
        by_market = info.trade_exemode == self._constant("SYMBOL_TRADE_EXECUTION_MARKET")
        return Traded(name, there, *steps, exact(info.point), info.digits, info.trade_stops_level, info.filling_mode, by_market)

    def _lots(self, order: Order, traded: Traded, quantity: Decimal) -> float:
        lots = quantity / traded.contract_size
        if lots % traded.volume_step:
            unit = traded.volume_step * traded.contract_size
            why = f"quantity {quantity} is no multiple of {unit.normalize():f} units; set that lot_size"
            refuse(order, "bad_quantity", why)
        if not traded.volume_min <= lots <= traded.volume_max:
            low, high = traded.volume_min * traded.contract_size, traded.volume_max * traded.contract_size
            refuse(order, "bad_quantity", f"quantity {quantity} lies outside {low.normalize():f} to {high.normalize():f} units")
        return float(lots)

    def _entry(self, order: Order, traded: Traded, tick: Any) -> dict[str, Any]:
        buys = order.side is Side.BUY
        market = exact(tick.ask if buys else tick.bid)
        price = order.limit_price or order.stop_price or market
        leave = exact(tick.bid if buys else tick.ask) if order.type is OrderType.MARKET else price
        nearest = traded.stops_level * traded.point
        for what, level in (("stop_loss", order.stop_loss), ("take_profit", order.take_profit)):
            if level is not None and abs(leave - level) < nearest:
                refuse(order, f"bad_{what}", f"{what} {level} is closer than {nearest} to {leave}, which the broker demands")
        request = self._request(order, traded, self._lots(order, traded, order.quantity))
        if order.type is OrderType.MARKET:
            request |= {"action": self._constant("TRADE_ACTION_DEAL"), "type": BUY if buys else SELL}
            request |= {"type_filling": self._filling(traded), "deviation": self._deviation}
        else:
            kind = f"ORDER_TYPE_{order.side.name}_{order.type.name}"
            request |= {"action": self._constant("TRADE_ACTION_PENDING"), "type": self._constant(kind)}
            request |= {"type_filling": self._constant("ORDER_FILLING_RETURN")}
        request |= {"price": self._price(price, traded), "type_time": self._constant("ORDER_TIME_GTC")}
        if order.stop_loss is not None:
            request["sl"] = self._price(order.stop_loss, traded)
        if order.take_profit is not None:
            request["tp"] = self._price(order.take_profit, traded)
        return request

    def _exits(self, order: Order, traded: Traded, tick: Any, reading: Reading) -> list[dict[str, Any]]:
        """Close positions by their tickets, the oldest first: what names no position could open one."""
        if order.type is not OrderType.MARKET:
            refuse(order, "not_reducing", "a pending order cannot be kept from opening a position; send a market order")
        against = BUY if order.side is Side.SELL else SELL
        held = [p for p in reading.held(order.symbol) if p.type == against and p.magic == self._magic]
        total = sum((reading.units(p.symbol, p.volume) for p in held), ZERO)
        if order.quantity > total:
            refuse(order, "not_reducing", f"it may close {total} at most: that is held on the other side under this magic")
        left, requests = order.quantity, []
        for position in held:
            size = min(left, reading.units(position.symbol, position.volume))
            left -= size
            if size:
                price = exact(tick.ask if order.side is Side.BUY else tick.bid)
                request = self._request(order, traded, float(size / traded.contract_size))
                request |= {"action": self._constant("TRADE_ACTION_DEAL"), "position": position.ticket}
                request |= {"type": BUY if order.side is Side.BUY else SELL, "price": self._price(price, traded)}
                request |= {"type_filling": self._filling(traded), "deviation": self._deviation}
                requests.append(request | {"type_time": self._constant("ORDER_TIME_GTC")})
        return requests

    def _request(self, order: Order, traded: Traded, lots: float) -> dict[str, Any]:
        return {"symbol": traded.there, "volume": lots, "magic": self._magic, "comment": comment(order.id)}

    def _price(self, price: Decimal, traded: Traded) -> float:
        return float(price.quantize(Decimal(1).scaleb(-traded.digits), rounding=ROUND_HALF_EVEN))

    def _filling(self, traded: Traded) -> int:
        if traded.fillings & 1:
            return self._constant("ORDER_FILLING_FOK")
        if traded.fillings & 2 or traded.by_market:
            return self._constant("ORDER_FILLING_IOC")
        return self._constant("ORDER_FILLING_RETURN")

    def _constant(self, name: str) -> int:
        return int(getattr(self._terminal, name))

    def _refuse(self, order: Order, code: int, text: str) -> NoReturn:
        why = REFUSALS.get(code, "the terminal's check")
        raise OrderRejected(f"order {order.id!r} for {order.symbol}: {code} {text} ({why})", code=str(code))
