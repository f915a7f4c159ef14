"""Everything that can be plugged in, on one page.

No base class and no registry: an object with these methods is enough. Each protocol says what its types cannot, and
`agentfund.testing` has a suite of tests for each that tells right from wrong.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol, runtime_checkable

from agentfund.market import Bar, Columns, Heard, Instrument, Market, Quote
from agentfund.messages import Durability, Message
from agentfund.prompt import Completion, Prompt
from agentfund.trading import Account, Book, Costs, Fill, Order, OrderState, Permit


class Clock(Protocol):
    """Where the time comes from; nothing else may ask the machine."""

    def now(self) -> datetime:
        """Return the wall time, aware UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that only go forward."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class LLM(Protocol):
    """A language model, or a way to one, or many of them behind a router.

    `complete` asks once: it does not retry, and it does not parse. It raises an `LLMError` and nothing else, except that
    cancellation passes through at once and leaves nothing running. What was paid for although it failed is attached to
    the error as `completion`.

    A route may say more of itself, and it is enough to have the attribute:

    - `llm`: the language model's name, a string, or a method of the prompt that gives it. It goes into
      ledgers where a call failed, and into the keys of recordings.
    - `settings`: what else an answer depends on, such as `effort=high`; into the keys of recordings.
    - `suits`: the task it is best for, "reasoning" or "code"; a router asks it first for that.
    - `adds`: what it puts into a prompt by itself that could spoil a backtest, such as "today's date"; empty where nothing.
    - `async check() -> str`: why it cannot be used here, empty where it can; asks nobody for an answer and costs nothing.
    """

    @property
    def name(self) -> str:
        """The route's name in ledgers and reports."""
        ...

    async def complete(self, prompt: Prompt) -> Completion:
        """Ask, and return the answer's text with its usage and price."""
        ...


@runtime_checkable
class Priced(Protocol):
    """An LLM that knows what a call can cost at most; a budget needs it."""

    def worst_case_usd(self, prompt: Prompt) -> Decimal:
        """Return the most that this prompt can be billed; zero on a flat-rate route."""
        ...


def language_model(llm: object, prompt: Prompt) -> str:
    """Return the name of the language model that a route would ask, empty where it does not say."""
    told = getattr(llm, "llm", "")
    if callable(told):
        told = told(prompt)
    return told if isinstance(told, str) else ""


def identity(llm: LLM, prompt: Prompt) -> str:
    """Return what an answer comes from: route, language model and settings; recordings are kept by it."""
    own = getattr(llm, "identity", None)
    if callable(own):
        return str(own(prompt))
    parts = (llm.name, language_model(llm, prompt), getattr(llm, "settings", ""))
    return "/".join(part for part in parts if isinstance(part, str) and part)


class Broker(Protocol):
    """Where orders go. Only the execution path holds one; agents never meet it.

    A failed query raises `BrokerUnavailable` and is never an empty answer. `submit` raises `OrderRejected` when the
    order certainly does not exist and `BrokerUnavailable` when nobody knows; it never retries by itself.

    A broker may say more of itself, and it is enough to have the attribute:

    - `brackets`: False where it cannot keep an entry's stop and target by itself; then somebody else has to (`Protected`).
    - `restore(orders, fills)`: told at the start, with what the log knows, where the broker keeps something by hand.
    - `async find(order) -> OrderState | None`: how one order stands, by its id; None where there is none.
    - `async price(symbol) -> Decimal`: the newest price.
    - `pace_s`: the least seconds between two looks of a watchdog.
    - `async suspend()`: has the broker refuse orders of the account.
    - `async busts() -> Sequence[str]`: execution ids that it has told and has taken back since.
    - `async close()`: lets go of connections. Orders and stops at the broker stay.
    - `wake`: an `asyncio.Event` that it sets when something has happened, so that nobody has to wait for a timer.
    """

    @property
    def dedupes_ids(self) -> bool:
        """Whether a second order with the same id is refused or ignored."""
        ...

    async def account(self) -> Account:
        """Return cash and positions by the broker's own books."""
        ...

    async def orders(self) -> Sequence[OrderState]:
        """Return every order that can still change the book, and those that ended since the session began.

        Legs of a bracket are not listed: they belong to their entry.
        """
        ...

    async def fills(self) -> Sequence[Fill]:
        """Return fills of this session, oldest first; a fill may be told more than once, always with the same id."""
        ...

    async def submit(self, order: Order) -> OrderState:
        """Send an order; return how it stands. A reduce-only one is cut to what is held, or refused."""
        ...

    async def cancel(self, order_id: str) -> OrderState:
        """Take an order back; return how it stands, FILLED where the cancel came too late."""
        ...


@runtime_checkable
class Watched(Protocol):
    """A broker session that looks and does nothing else: the watchdog has one of its own."""

    async def book(self) -> Book:
        """Return account and resting orders, asked for now.

        Raises:
            BrokerUnavailable: it does not answer; never an empty book.
        """
        ...


@runtime_checkable
class Permission(Protocol):
    """Says what a fund may do now. It costs microseconds and never raises: whatever it cannot read is no permission."""

    def now(self) -> Permit:
        """Return level and lease at this moment."""
        ...


@runtime_checkable
class Simulated(Protocol):
    """What a broker offers beyond `Broker` when its market is ours to move: backtests and paper trading need it."""

    @property
    def costs(self) -> Costs:
        """What trading costs here."""
        ...

    @property
    def cash(self) -> Decimal:
        """Cash at the beginning."""
        ...

    def advance(self, market: Market) -> Sequence[Fill]:
        """Let the bars that closed at `market.now` happen to the working orders; return what filled.

        An order fills no earlier than the open of the first bar that starts at or after the order's time. A bar
        that was seen before is not seen twice.
        """
        ...

    def restore(self, orders: Sequence[OrderState], fills: Sequence[Fill], as_of: datetime | None) -> None:
        """Stand where a broker stood that got these orders and made these fills, having seen bars up to `as_of`."""
        ...


@runtime_checkable
class Feed(Protocol):
    """Where market data comes from.

    `stream` ends when the data end; it raises `FeedError` when the source fails; it never gives a bar that closes
    after `Market.now`, never the same moment twice, and time only goes forward.
    """

    @property
    def instruments(self) -> Sequence[Instrument]:
        """What it has bars of."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of the data, or a name for a live source: the same data always have the same fingerprint."""
        ...

    def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        """Give the market at every moment at which a bar closes, after `after` or from the beginning."""
        ...

    def latest(self) -> Market:
        """Return the market now: what `stream` gave last, or newer where the source is live.

        Raises:
            FeedError: a history that has not streamed anything yet: its end would be the future.
        """
        ...


class Source(Protocol):
    """A provider of live data, behind a `Live` feed that reconnects, fills gaps and keeps the grid of bars.

    A source gives ticks, of which bars are made, or bars that have closed (never an unfinished one); quotes beside either.
    What `connect` gives first says that it is subscribed to everything. Trades told twice are its to leave out. `Alive`
    without a time must come from the wire, not from a timer of one's own. What no new connection can mend, such as a wrong
    key, is a `ConfigError`. It may have the attributes:

    - `silence`: how long it may be quiet while all is well; None for ever.
    - `over`: True once it has ended for good, as a recording does.
    - `lateness`: how long behind its end a closed bar may come; None where it gives trades.
    - `interval`: the length of the bars that it gives; None where it gives trades.
    """

    @property
    def name(self) -> str:
        """The provider's name."""
        ...

    @property
    def instruments(self) -> Sequence[Instrument]:
        """What is subscribed to."""
        ...

    def connect(self) -> AsyncIterator[Heard]:
        """Connect once, subscribe, and give what comes until the connection ends; reconnecting is the caller's.

        Raises:
            FeedError: it cannot connect, or the provider refuses; the message names the fix. Whoever leaves early closes it.
        """
        ...

    async def history(self, symbol: str, interval: timedelta, start: datetime, end: datetime) -> Sequence[Bar]:
        """Return the closed bars that start at or after `start` and end by `end`, oldest first, by the provider's REST API.

        Raises:
            FeedError: it does not answer, or has no such bars.
        """
        ...


@runtime_checkable
class Quoted(Protocol):
    """What a live feed offers beyond `Feed`: prices between bars, and how fresh they are."""

    def quote(self, symbol: str) -> Quote | None:
        """Return the newest quote or trade, None where nothing was heard yet."""
        ...

    @property
    def heard(self) -> datetime | None:
        """When anything came from the source last, by our clock, aware UTC; None before the first."""
        ...


@runtime_checkable
class History(Protocol):
    """A feed that holds all its bars already: backtests and their reports need it."""

    @property
    def columns(self) -> Mapping[str, Columns]:
        """All bars by symbol."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """What a user should know about the data, one sentence each."""
        ...

    @property
    def source(self) -> str:
        """Where the data came from, in words; says so where they are simulated."""
        ...


class Delivery(Protocol):
    """A message handed to a consumer, who must say what became of it."""

    @property
    def message(self) -> Message:
        """What was handed over."""
        ...

    @property
    def attempt(self) -> int:
        """1 the first time, more when it is handed over again."""
        ...

    async def ack(self) -> None:
        """Done: it is not handed to this group again."""
        ...

    async def nack(self, reason: str) -> None:
        """Failed: it is handed over again, and put among the dead letters after too many tries."""
        ...


class Bus(Protocol):
    """One durable, append-only, replayable log.

    Messages are kept once by id, in order within a key. A reader sees every message that was durable when it began and
    skips none. Fails with `BusUnavailable` when it cannot write; of a log on a server nobody knows then whether the batch is
    wholly there or not at all, and publishing it again is harmless.
    """

    @property
    def durability(self) -> Durability:
        """What a synced message survives: nothing, a killed process, or a loss of power."""
        ...

    async def publish(self, messages: Sequence[Message], *, sync: bool = True) -> int:
        """Append all or nothing; return the offset of the last.

        With `sync=False` a killed publisher loses nothing, but a loss of power may lose the newest messages, and where the
        log is on a server, so may its death.
        """
        ...

    def read(self, stream: str | None = None, *, after: int = 0, since: datetime | None = None) -> AsyncIterator[Message]:
        """Give what is in the log, oldest first: all streams or one, beyond an offset, from an event time on."""
        ...

    async def last(self, stream: str | None = None) -> Message | None:
        """Return the newest message of all streams or of one, None where there is none; without reading the whole log."""
        ...

    def consume(self, group: str, stream: str | None = None) -> AsyncIterator[Delivery]:
        """Give messages to one of a group's consumers as they come, from the beginning of the log, without end."""
        ...

    async def close(self) -> None:
        """Let go of files and connections; what was published stays."""
        ...
