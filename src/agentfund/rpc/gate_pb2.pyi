from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Answer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ANSWER_UNSPECIFIED: _ClassVar[Answer]
    ANSWER_DENY: _ClassVar[Answer]
    ANSWER_ALLOW: _ClassVar[Answer]

class Side(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIDE_UNSPECIFIED: _ClassVar[Side]
    SIDE_BUY: _ClassVar[Side]
    SIDE_SELL: _ClassVar[Side]

class OrderType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORDER_TYPE_UNSPECIFIED: _ClassVar[OrderType]
    ORDER_TYPE_MARKET: _ClassVar[OrderType]
    ORDER_TYPE_LIMIT: _ClassVar[OrderType]
    ORDER_TYPE_STOP: _ClassVar[OrderType]

class OrderStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORDER_STATUS_UNSPECIFIED: _ClassVar[OrderStatus]
    ORDER_STATUS_INTENDED: _ClassVar[OrderStatus]
    ORDER_STATUS_WORKING: _ClassVar[OrderStatus]
    ORDER_STATUS_FILLED: _ClassVar[OrderStatus]
    ORDER_STATUS_CANCELLED: _ClassVar[OrderStatus]
    ORDER_STATUS_REJECTED: _ClassVar[OrderStatus]
    ORDER_STATUS_UNKNOWN: _ClassVar[OrderStatus]
ANSWER_UNSPECIFIED: Answer
ANSWER_DENY: Answer
ANSWER_ALLOW: Answer
SIDE_UNSPECIFIED: Side
SIDE_BUY: Side
SIDE_SELL: Side
ORDER_TYPE_UNSPECIFIED: OrderType
ORDER_TYPE_MARKET: OrderType
ORDER_TYPE_LIMIT: OrderType
ORDER_TYPE_STOP: OrderType
ORDER_STATUS_UNSPECIFIED: OrderStatus
ORDER_STATUS_INTENDED: OrderStatus
ORDER_STATUS_WORKING: OrderStatus
ORDER_STATUS_FILLED: OrderStatus
ORDER_STATUS_CANCELLED: OrderStatus
ORDER_STATUS_REJECTED: OrderStatus
ORDER_STATUS_UNKNOWN: OrderStatus

class CheckRequest(_message.Message):
    __slots__ = ("version", "nonce", "order", "scene", "limits_digest")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    SCENE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    version: int
    nonce: bytes
    order: Order
    scene: Scene
    limits_digest: str
    def __init__(self, version: _Optional[int] = ..., nonce: _Optional[bytes] = ..., order: _Optional[_Union[Order, _Mapping]] = ..., scene: _Optional[_Union[Scene, _Mapping]] = ..., limits_digest: _Optional[str] = ...) -> None: ...

class CheckReply(_message.Message):
    __slots__ = ("answer", "code", "reason", "limits_digest", "server", "request_sha256")
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LIMITS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    answer: Answer
    code: str
    reason: str
    limits_digest: str
    server: str
    request_sha256: bytes
    def __init__(self, answer: _Optional[_Union[Answer, str]] = ..., code: _Optional[str] = ..., reason: _Optional[str] = ..., limits_digest: _Optional[str] = ..., server: _Optional[str] = ..., request_sha256: _Optional[bytes] = ...) -> None: ...

class Order(_message.Message):
    __slots__ = ("id", "symbol", "side", "quantity", "time_us", "type", "limit_price", "stop_price", "stop_loss", "take_profit", "reduce_only", "decision", "token")
    ID_FIELD_NUMBER: _ClassVar[int]
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_PRICE_FIELD_NUMBER: _ClassVar[int]
    STOP_PRICE_FIELD_NUMBER: _ClassVar[int]
    STOP_LOSS_FIELD_NUMBER: _ClassVar[int]
    TAKE_PROFIT_FIELD_NUMBER: _ClassVar[int]
    REDUCE_ONLY_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    id: str
    symbol: str
    side: Side
    quantity: str
    time_us: int
    type: OrderType
    limit_price: str
    stop_price: str
    stop_loss: str
    take_profit: str
    reduce_only: bool
    decision: str
    token: int
    def __init__(self, id: _Optional[str] = ..., symbol: _Optional[str] = ..., side: _Optional[_Union[Side, str]] = ..., quantity: _Optional[str] = ..., time_us: _Optional[int] = ..., type: _Optional[_Union[OrderType, str]] = ..., limit_price: _Optional[str] = ..., stop_price: _Optional[str] = ..., stop_loss: _Optional[str] = ..., take_profit: _Optional[str] = ..., reduce_only: bool = ..., decision: _Optional[str] = ..., token: _Optional[int] = ...) -> None: ...

class OrderState(_message.Message):
    __slots__ = ("order", "status", "filled", "reason", "told")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    FILLED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TOLD_FIELD_NUMBER: _ClassVar[int]
    order: Order
    status: OrderStatus
    filled: str
    reason: str
    told: str
    def __init__(self, order: _Optional[_Union[Order, _Mapping]] = ..., status: _Optional[_Union[OrderStatus, str]] = ..., filled: _Optional[str] = ..., reason: _Optional[str] = ..., told: _Optional[str] = ...) -> None: ...

class OrderStates(_message.Message):
    __slots__ = ("states",)
    STATES_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedCompositeFieldContainer[OrderState]
    def __init__(self, states: _Optional[_Iterable[_Union[OrderState, _Mapping]]] = ...) -> None: ...

class Orders(_message.Message):
    __slots__ = ("orders",)
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    orders: _containers.RepeatedCompositeFieldContainer[Order]
    def __init__(self, orders: _Optional[_Iterable[_Union[Order, _Mapping]]] = ...) -> None: ...

class Instrument(_message.Message):
    __slots__ = ("symbol", "tick_size", "lot_size", "currency", "cents")
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    TICK_SIZE_FIELD_NUMBER: _ClassVar[int]
    LOT_SIZE_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    CENTS_FIELD_NUMBER: _ClassVar[int]
    symbol: str
    tick_size: str
    lot_size: str
    currency: str
    cents: str
    def __init__(self, symbol: _Optional[str] = ..., tick_size: _Optional[str] = ..., lot_size: _Optional[str] = ..., currency: _Optional[str] = ..., cents: _Optional[str] = ...) -> None: ...

class Position(_message.Message):
    __slots__ = ("symbol", "quantity", "average_price", "opened_us", "banked")
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_PRICE_FIELD_NUMBER: _ClassVar[int]
    OPENED_US_FIELD_NUMBER: _ClassVar[int]
    BANKED_FIELD_NUMBER: _ClassVar[int]
    symbol: str
    quantity: str
    average_price: str
    opened_us: int
    banked: str
    def __init__(self, symbol: _Optional[str] = ..., quantity: _Optional[str] = ..., average_price: _Optional[str] = ..., opened_us: _Optional[int] = ..., banked: _Optional[str] = ...) -> None: ...

class Positions(_message.Message):
    __slots__ = ("positions",)
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    positions: _containers.RepeatedCompositeFieldContainer[Position]
    def __init__(self, positions: _Optional[_Iterable[_Union[Position, _Mapping]]] = ...) -> None: ...

class Portfolio(_message.Message):
    __slots__ = ("cash", "positions", "realized", "fees", "trips", "wins")
    CASH_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    REALIZED_FIELD_NUMBER: _ClassVar[int]
    FEES_FIELD_NUMBER: _ClassVar[int]
    TRIPS_FIELD_NUMBER: _ClassVar[int]
    WINS_FIELD_NUMBER: _ClassVar[int]
    cash: str
    positions: Positions
    realized: str
    fees: str
    trips: int
    wins: int
    def __init__(self, cash: _Optional[str] = ..., positions: _Optional[_Union[Positions, _Mapping]] = ..., realized: _Optional[str] = ..., fees: _Optional[str] = ..., trips: _Optional[int] = ..., wins: _Optional[int] = ...) -> None: ...

class Price(_message.Message):
    __slots__ = ("symbol", "price")
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    symbol: str
    price: str
    def __init__(self, symbol: _Optional[str] = ..., price: _Optional[str] = ...) -> None: ...

class Prices(_message.Message):
    __slots__ = ("prices",)
    PRICES_FIELD_NUMBER: _ClassVar[int]
    prices: _containers.RepeatedCompositeFieldContainer[Price]
    def __init__(self, prices: _Optional[_Iterable[_Union[Price, _Mapping]]] = ...) -> None: ...

class Rates(_message.Message):
    __slots__ = ("second", "minute", "hour", "day")
    SECOND_FIELD_NUMBER: _ClassVar[int]
    MINUTE_FIELD_NUMBER: _ClassVar[int]
    HOUR_FIELD_NUMBER: _ClassVar[int]
    DAY_FIELD_NUMBER: _ClassVar[int]
    second: int
    minute: int
    hour: int
    day: int
    def __init__(self, second: _Optional[int] = ..., minute: _Optional[int] = ..., hour: _Optional[int] = ..., day: _Optional[int] = ...) -> None: ...

class Permit(_message.Message):
    __slots__ = ("level", "lease", "reason", "cause")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    level: int
    lease: bool
    reason: str
    cause: str
    def __init__(self, level: _Optional[int] = ..., lease: bool = ..., reason: _Optional[str] = ..., cause: _Optional[str] = ...) -> None: ...

class Hours(_message.Message):
    __slots__ = ("calendar", "since_us", "until_us", "opens_us", "closes_us", "covered")
    CALENDAR_FIELD_NUMBER: _ClassVar[int]
    SINCE_US_FIELD_NUMBER: _ClassVar[int]
    UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    OPENS_US_FIELD_NUMBER: _ClassVar[int]
    CLOSES_US_FIELD_NUMBER: _ClassVar[int]
    COVERED_FIELD_NUMBER: _ClassVar[int]
    calendar: str
    since_us: int
    until_us: int
    opens_us: _containers.RepeatedScalarFieldContainer[int]
    closes_us: _containers.RepeatedScalarFieldContainer[int]
    covered: bool
    def __init__(self, calendar: _Optional[str] = ..., since_us: _Optional[int] = ..., until_us: _Optional[int] = ..., opens_us: _Optional[_Iterable[int]] = ..., closes_us: _Optional[_Iterable[int]] = ..., covered: bool = ...) -> None: ...

class Blackout(_message.Message):
    __slots__ = ("start_us", "end_us", "symbols", "reason")
    START_US_FIELD_NUMBER: _ClassVar[int]
    END_US_FIELD_NUMBER: _ClassVar[int]
    SYMBOLS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    start_us: int
    end_us: int
    symbols: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    def __init__(self, start_us: _Optional[int] = ..., end_us: _Optional[int] = ..., symbols: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ...) -> None: ...

class Blackouts(_message.Message):
    __slots__ = ("windows", "until_us")
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    windows: _containers.RepeatedCompositeFieldContainer[Blackout]
    until_us: int
    def __init__(self, windows: _Optional[_Iterable[_Union[Blackout, _Mapping]]] = ..., until_us: _Optional[int] = ...) -> None: ...

class Quote(_message.Message):
    __slots__ = ("symbol", "bid", "ask", "last", "time_us")
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    BID_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    symbol: str
    bid: float
    ask: float
    last: float
    time_us: int
    def __init__(self, symbol: _Optional[str] = ..., bid: _Optional[float] = ..., ask: _Optional[float] = ..., last: _Optional[float] = ..., time_us: _Optional[int] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("symbol", "name")
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    symbol: str
    name: str
    def __init__(self, symbol: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class Groups(_message.Message):
    __slots__ = ("groups",)
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[Group]
    def __init__(self, groups: _Optional[_Iterable[_Union[Group, _Mapping]]] = ...) -> None: ...

class Scene(_message.Message):
    __slots__ = ("now_us", "decided_us", "instrument", "price", "quote_age_s", "portfolio", "prices", "equity", "peak_equity", "day_equity", "orders", "recent", "ordered_last_hour", "critical_last_day", "critical", "degraded", "blind", "live", "permit", "hours", "blackouts", "status", "quote", "min_notional", "volume", "sectors", "clusters", "buying_power", "margin_used", "rates", "agent_rates", "repeats", "day_peak_equity", "proposed_by", "decided_quantity")
    NOW_US_FIELD_NUMBER: _ClassVar[int]
    DECIDED_US_FIELD_NUMBER: _ClassVar[int]
    INSTRUMENT_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    QUOTE_AGE_S_FIELD_NUMBER: _ClassVar[int]
    PORTFOLIO_FIELD_NUMBER: _ClassVar[int]
    PRICES_FIELD_NUMBER: _ClassVar[int]
    EQUITY_FIELD_NUMBER: _ClassVar[int]
    PEAK_EQUITY_FIELD_NUMBER: _ClassVar[int]
    DAY_EQUITY_FIELD_NUMBER: _ClassVar[int]
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    RECENT_FIELD_NUMBER: _ClassVar[int]
    ORDERED_LAST_HOUR_FIELD_NUMBER: _ClassVar[int]
    CRITICAL_LAST_DAY_FIELD_NUMBER: _ClassVar[int]
    CRITICAL_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    BLIND_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    PERMIT_FIELD_NUMBER: _ClassVar[int]
    HOURS_FIELD_NUMBER: _ClassVar[int]
    BLACKOUTS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    QUOTE_FIELD_NUMBER: _ClassVar[int]
    MIN_NOTIONAL_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    SECTORS_FIELD_NUMBER: _ClassVar[int]
    CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    BUYING_POWER_FIELD_NUMBER: _ClassVar[int]
    MARGIN_USED_FIELD_NUMBER: _ClassVar[int]
    RATES_FIELD_NUMBER: _ClassVar[int]
    AGENT_RATES_FIELD_NUMBER: _ClassVar[int]
    REPEATS_FIELD_NUMBER: _ClassVar[int]
    DAY_PEAK_EQUITY_FIELD_NUMBER: _ClassVar[int]
    PROPOSED_BY_FIELD_NUMBER: _ClassVar[int]
    DECIDED_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    now_us: int
    decided_us: int
    instrument: Instrument
    price: str
    quote_age_s: float
    portfolio: Portfolio
    prices: Prices
    equity: str
    peak_equity: str
    day_equity: str
    orders: OrderStates
    recent: Orders
    ordered_last_hour: int
    critical_last_day: int
    critical: bool
    degraded: bool
    blind: str
    live: bool
    permit: Permit
    hours: Hours
    blackouts: Blackouts
    status: str
    quote: Quote
    min_notional: str
    volume: str
    sectors: Groups
    clusters: Groups
    buying_power: str
    margin_used: float
    rates: Rates
    agent_rates: Rates
    repeats: int
    day_peak_equity: str
    proposed_by: _containers.RepeatedScalarFieldContainer[str]
    decided_quantity: str
    def __init__(self, now_us: _Optional[int] = ..., decided_us: _Optional[int] = ..., instrument: _Optional[_Union[Instrument, _Mapping]] = ..., price: _Optional[str] = ..., quote_age_s: _Optional[float] = ..., portfolio: _Optional[_Union[Portfolio, _Mapping]] = ..., prices: _Optional[_Union[Prices, _Mapping]] = ..., equity: _Optional[str] = ..., peak_equity: _Optional[str] = ..., day_equity: _Optional[str] = ..., orders: _Optional[_Union[OrderStates, _Mapping]] = ..., recent: _Optional[_Union[Orders, _Mapping]] = ..., ordered_last_hour: _Optional[int] = ..., critical_last_day: _Optional[int] = ..., critical: bool = ..., degraded: bool = ..., blind: _Optional[str] = ..., live: bool = ..., permit: _Optional[_Union[Permit, _Mapping]] = ..., hours: _Optional[_Union[Hours, _Mapping]] = ..., blackouts: _Optional[_Union[Blackouts, _Mapping]] = ..., status: _Optional[str] = ..., quote: _Optional[_Union[Quote, _Mapping]] = ..., min_notional: _Optional[str] = ..., volume: _Optional[str] = ..., sectors: _Optional[_Union[Groups, _Mapping]] = ..., clusters: _Optional[_Union[Groups, _Mapping]] = ..., buying_power: _Optional[str] = ..., margin_used: _Optional[float] = ..., rates: _Optional[_Union[Rates, _Mapping]] = ..., agent_rates: _Optional[_Union[Rates, _Mapping]] = ..., repeats: _Optional[int] = ..., day_peak_equity: _Optional[str] = ..., proposed_by: _Optional[_Iterable[str]] = ..., decided_quantity: _Optional[str] = ...) -> None: ...

class JudgeRequest(_message.Message):
    __slots__ = ("version", "nonce", "agent", "output", "code", "market", "state", "opinions", "decision")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MARKET_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OPINIONS_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    version: int
    nonce: bytes
    agent: str
    output: str
    code: str
    market: bytes
    state: bytes
    opinions: bytes
    decision: bytes
    def __init__(self, version: _Optional[int] = ..., nonce: _Optional[bytes] = ..., agent: _Optional[str] = ..., output: _Optional[str] = ..., code: _Optional[str] = ..., market: _Optional[bytes] = ..., state: _Optional[bytes] = ..., opinions: _Optional[bytes] = ..., decision: _Optional[bytes] = ...) -> None: ...

class JudgeReply(_message.Message):
    __slots__ = ("opinion", "calls", "server", "request_sha256")
    OPINION_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    opinion: bytes
    calls: bytes
    server: str
    request_sha256: bytes
    def __init__(self, opinion: _Optional[bytes] = ..., calls: _Optional[bytes] = ..., server: _Optional[str] = ..., request_sha256: _Optional[bytes] = ...) -> None: ...
