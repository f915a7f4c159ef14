"""Constants and named tuples of the package MetaTrader5, as far as they are needed."""

from __future__ import annotations

from typing import Any, NamedTuple

CONSTANTS = {
    "ACCOUNT_MARGIN_MODE_RETAIL_NETTING": 0,
    "ACCOUNT_MARGIN_MODE_RETAIL_HEDGING": 2,
    "DEAL_ENTRY_IN": 0,
    "DEAL_ENTRY_OUT": 1,
    "DEAL_ENTRY_INOUT": 2,
    "DEAL_ENTRY_OUT_BY": 3,
    "DEAL_REASON_CLIENT": 0,
    "DEAL_REASON_EXPERT": 3,
    "DEAL_REASON_SL": 4,
    "DEAL_REASON_SO": 6,
    "DEAL_REASON_TP": 5,
    "DEAL_TYPE_BALANCE": 2,
    "DEAL_TYPE_BUY": 0,
    "DEAL_TYPE_SELL": 1,
    "ORDER_FILLING_FOK": 0,
    "ORDER_FILLING_IOC": 1,
    "ORDER_FILLING_RETURN": 2,
    "ORDER_STATE_CANCELED": 2,
    "ORDER_STATE_EXPIRED": 6,
    "ORDER_STATE_FILLED": 4,
    "ORDER_STATE_PARTIAL": 3,
    "ORDER_STATE_PLACED": 1,
    "ORDER_STATE_REJECTED": 5,
    "ORDER_TIME_GTC": 0,
    "ORDER_TYPE_BUY": 0,
    "ORDER_TYPE_SELL": 1,
    "ORDER_TYPE_BUY_LIMIT": 2,
    "ORDER_TYPE_SELL_LIMIT": 3,
    "ORDER_TYPE_BUY_STOP": 4,
    "ORDER_TYPE_SELL_STOP": 5,
    "POSITION_TYPE_BUY": 0,
    "POSITION_TYPE_SELL": 1,
    "SYMBOL_TRADE_EXECUTION_MARKET": 2,
    "TRADE_ACTION_DEAL": 1,
    "TRADE_ACTION_PENDING": 5,
    "TRADE_ACTION_REMOVE": 8,
    "TRADE_ACTION_SLTP": 6,
}


class AccountInfo(NamedTuple):
    """What `account_info` gives."""

    login: int
    trade_allowed: bool
    trade_expert: bool
    margin_mode: int
    balance: float
    credit: float
    profit: float
    equity: float
    margin: float
    margin_free: float
    currency: str


class TerminalInfo(NamedTuple):
    """What `terminal_info` gives."""

    connected: bool
    trade_allowed: bool
    tradeapi_disabled: bool
    commondata_path: str


class SymbolInfo(NamedTuple):
    """What `symbol_info` gives."""

    name: str
    visible: bool
    digits: int
    point: float
    trade_tick_size: float
    trade_contract_size: float
    trade_calc_mode: int
    trade_exemode: int
    trade_stops_level: int
    trade_freeze_level: int
    filling_mode: int
    volume_min: float
    volume_max: float
    volume_step: float
    currency_profit: str


class Tick(NamedTuple):
    """What `symbol_info_tick` gives; the time is the broker's wall time, counted as if it were UTC."""

    time: int
    bid: float
    ask: float
    last: float
    time_msc: int


class TradePosition(NamedTuple):
    """One of what `positions_get` gives."""

    ticket: int
    time: int
    time_msc: int
    type: int
    magic: int
    identifier: int
    reason: int
    volume: float
    price_open: float
    sl: float
    tp: float
    price_current: float
    swap: float
    profit: float
    symbol: str
    comment: str


class TradeOrder(NamedTuple):
    """One of what `orders_get` and `history_orders_get` give."""

    ticket: int
    time_setup: int
    time_setup_msc: int
    time_done_msc: int
    type: int
    state: int
    magic: int
    position_id: int
    volume_initial: float
    volume_current: float
    price_open: float
    sl: float
    tp: float
    symbol: str
    comment: str


class TradeDeal(NamedTuple):
    """One of what `history_deals_get` gives."""

    ticket: int
    order: int
    time: int
    time_msc: int
    type: int
    entry: int
    magic: int
    position_id: int
    reason: int
    volume: float
    price: float
    commission: float
    swap: float
    profit: float
    fee: float
    symbol: str
    comment: str


class OrderCheckResult(NamedTuple):
    """What `order_check` gives."""

    retcode: int
    comment: str


class OrderSendResult(NamedTuple):
    """What `order_send` gives."""

    retcode: int
    deal: int
    order: int
    volume: float
    price: float
    comment: str
    request: dict[str, Any]
