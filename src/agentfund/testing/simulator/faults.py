"""The kinds of faults: what can go wrong, and at which operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from agentfund.errors import ConfigError

POINTS: Mapping[str, str] = MappingProxyType(
    {
        "start": "a process of the fund starts",
        "stream": "the feed is opened",
        "bar": "the feed gives a bar",
        "latest": "the feed is asked for the market now",
        "publish": "messages are written to the log",
        "lease": "the lead is claimed, renewed or given up on the log",
        "read": "the log is read",
        "last": "the newest message is asked for",
        "account": "the broker is asked for cash and positions",
        "orders": "the broker is asked for the orders",
        "fills": "the broker is asked for the fills",
        "submit": "an order is sent",
        "cancel": "an order is taken back",
        "busts": "the broker is asked for the fills that it has taken back",
        "call": "the fund asks its execution in another process",
        "permit": "the watchdog's word is looked at",
        "ask": "a language model is asked",
        "step": "any step of any task",
    }
)
"""Operations at which something can go wrong."""

_BUS = ("publish", "lease", "read", "last")
_WRITES = ("publish", "lease")
_QUERIES = ("account", "orders", "fills", "busts")
_ORDERS = ("submit", "cancel")
_FEED = ("stream", "bar")
_IO = (*_FEED, *_BUS, *_QUERIES, *_ORDERS, "call", "ask")
_DOWN = (5, 100, 700)
_LONG = (30, 1000)
_HALTED = (300, 1500)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Args:
        points: where it can happen.
        means: what happens, in a sentence.
        arguments: values to draw from, the simplest first; empty where it takes none.
        drawn: whether schedules contain it unless it is named: what breaks the contract of a protocol is not drawn.
    """

    points: tuple[str, ...]
    means: str
    arguments: tuple[float, ...] = ()
    drawn: bool = True


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "crash_before": Kind(_IO, "the process is killed before it happens; started again after so many seconds", _DOWN),
        "crash_after": Kind(_IO, "the process is killed after it took effect, before it is told so", _DOWN),
        "cancel": Kind(
            ("step", *_BUS, *_QUERIES, *_ORDERS, "call", "ask"),
            "the fund is cancelled while it waits; started again after so many seconds",
            _DOWN,
        ),
        "power_before": Kind(_WRITES, "the machine loses power before the sync: what is not synced is gone", _DOWN),
        "power_after": Kind(_WRITES, "the machine loses power after the sync, before the acknowledgement", _DOWN),
        "freeze": Kind(
            (*_FEED, *_BUS, *_QUERIES, "call", "ask"),
            "the process stands still for so many seconds, and then goes on as if nothing was",
            _LONG,
        ),
        "fails": Kind((*_BUS, *_FEED, "latest"), "it fails, and nothing has happened"),
        "lost_ack": Kind(_WRITES, "it is written and synced, and the acknowledgement is lost"),
        "slow": Kind((*_BUS, *_QUERIES, *_ORDERS, "call", "ask"), "it takes so many seconds longer", (3, 8, 60)),
        "unavailable": Kind(
            (*_QUERIES, *_ORDERS, "call"), "the broker, or the execution, is not reached; an order or a cancel never arrives"
        ),
        "lost_reply": Kind((*_ORDERS, "call"), "it arrives and the answer is lost"),
        "hang": Kind((*_QUERIES, *_ORDERS, "call", "ask"), "it arrives and nobody ever answers; a language model bills it"),
        "garbage": Kind((*_QUERIES, *_ORDERS, "ask"), "it arrives and the answer cannot be understood"),
        "outage": Kind((*_QUERIES, *_ORDERS), "from here on the broker is not reached for so many seconds", _LONG),
        "down": Kind(_BUS, "from here on the log cannot be read or written for so many seconds", _LONG),
        "late": Kind(
            ("submit", "fills", "bar", "call"),
            "an order arrives, fills are told, a bar comes, an execution hears so many seconds late",
            (20, 50),
        ),
        "reject": Kind(("submit",), "the broker refuses the order"),
        "doubled": Kind(("submit", "fills"), "the network delivers an order twice; every fill is told twice"),
        "shuffled": Kind(("fills",), "fills are told in another order"),
        "partial": Kind(("submit",), "the order fills in so many pieces", (2, 5)),
        "slow_fill": Kind(("submit",), "the order fills so many seconds later", (60, 1000)),
        "no_fill": Kind(("submit",), "the order works until it is taken back"),
        "stale": Kind(("orders", "account"), "the answer is so many seconds old", (10, 1000)),
        "bust": Kind(
            ("submit",), "the broker takes the order's first fill back so many seconds after it", (30, 500), drawn=False
        ),
        "withheld": Kind(
            ("fills",),
            "the newest fill is told so many seconds late, later ones before it",
            (30, 900),
            drawn=False,
        ),
        "foreign": Kind(("orders",), "the broker lists an order of somebody else for so many seconds", (30, 500), drawn=False),
        "lost": Kind(("permit",), "the watchdog grants no lease for so many seconds", _HALTED),
        "reduce": Kind(("permit",), "the watchdog lets nothing add risk for so many seconds", _HALTED),
        "halt": Kind(("permit",), "the watchdog halts the fund, and an operator lifts it so many seconds later", _HALTED),
        "kill": Kind(("permit",), "the same at level 4, where positions are closed", _HALTED),
        "gap": Kind(("bar",), "so many bars never come", (1, 3)),
        "clock": Kind(("bar",), "the wall clock is set forward by so many seconds, or back", (1, -1, 3600, -3600)),
        "forget": Kind(("stream",), "a live source does not give the newest bar again after a restart"),
        "invalid": Kind(("ask",), "the answer is JSON that does not fit the schema"),
        "cut": Kind(("ask",), "the connection breaks after the answer was billed"),
        "overloaded": Kind(("ask",), "the provider is busy; nothing is billed"),
        "rate_limited": Kind(("ask",), "the provider asks to wait so many seconds", (1, 40, 4000)),
        "capped": Kind(("ask",), "the spend limit is used up for so many seconds", (100, 4000)),
        "refuses": Kind(("ask",), "the language model declines, and is paid for it"),
        "bad_key": Kind(("ask",), "the key does not work"),
        "repeat": Kind(("bar",), "the feed gives a moment that it has given already", drawn=False),
        "twin": Kind(
            ("start",), "a second process runs the same fund on the same log, so many seconds later", (1,), drawn=False
        ),
    }
)
"""All kinds by name."""


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that goes wrong, once.

    Args:
        point: where: a kind of operation, such as `publish`.
        number: at which of them, counted from 1 over the whole run, restarts included.
        kind: what happens, one of `KINDS`.
        argument: how long, how many; None for the kind's simplest.

    Raises:
        ConfigError: there is no such point, no such kind, or the kind does not happen there.
    """

    point: str
    number: int
    kind: str
    argument: float | None = None

    def __post_init__(self) -> None:
        if self.point not in POINTS:
            raise ConfigError(f"there is no point {self.point!r}; there is {', '.join(POINTS)}")
        if self.kind not in KINDS:
            raise ConfigError(f"there is no fault {self.kind!r}; there is {', '.join(KINDS)}")
        kind = KINDS[self.kind]
        if self.point not in kind.points:
            raise ConfigError(f"{self.kind} does not happen at {self.point}, only at {', '.join(kind.points)}")
        if self.number < 1:
            raise ConfigError(f"operations count from 1, so {self.point}#{self.number} never comes")
        if self.argument is None and kind.arguments:
            object.__setattr__(self, "argument", float(kind.arguments[0]))
        if self.argument is not None and not kind.arguments:
            raise ConfigError(f"{self.kind} takes no argument, not {self.argument:g}")

    @property
    def where(self) -> str:
        """The point and its number, `publish#12`."""
        return f"{self.point}#{self.number}"

    @property
    def seconds(self) -> float:
        """The argument as a number; zero where there is none."""
        return self.argument or 0.0

    def __str__(self) -> str:
        return f"{self.where}:{self.kind}" + (f"({self.argument:g})" if self.argument is not None else "")
