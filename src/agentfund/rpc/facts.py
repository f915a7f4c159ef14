"""What is known beside the book (permit, hours, quote, rates and the like) as protobuf and back.

Of hours and blackouts only what concerns the order's instrument at this moment travels: the answer is the same.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from agentfund.clock import from_micros, to_micros
from agentfund.core.scene import Rates, Scene, Status
from agentfund.errors import ConfigError
from agentfund.hours import EVERY, Blackout, Blackouts, Hours, Schedule
from agentfund.market import Quote
from agentfund.rpc import gate_pb2 as pb
from agentfund.rpc.plain import Malformed, moment, name, number, told, words
from agentfund.trading import Level, Permit

if TYPE_CHECKING:
    from datetime import datetime

REQUIRED = ("live", "blackouts", "rates", "agent_rates", "repeats")
"""Left out, each of these would make an order look safer than it is."""

_SPANS = ("second", "minute", "hour", "day")


def dump_facts(scene: Scene) -> dict[str, Any]:
    """Return the fields of a scene's message that tell these facts.

    Raises:
        Malformed: one of them cannot be told exactly.
    """
    permit, status = scene.permit, scene.status
    if permit is not None and not (
        isinstance(permit, Permit) and isinstance(permit.level, Level) and isinstance(permit.lease, bool)
    ):  # a None would travel as the level zero
        raise Malformed(f"permit: {permit!r} is none")
    if status is not None and not isinstance(status, Status):
        raise Malformed(f"status: {status!r} is none")
    for flag in ("live", "critical", "degraded"):
        if not isinstance(getattr(scene, flag), bool):
            raise Malformed(f"{flag}: {getattr(scene, flag)!r} is neither True nor False")
    return {
        "live": scene.live,
        "permit": None
        if permit is None
        else pb.Permit(level=permit.level, lease=permit.lease, reason=words(permit.reason), cause=words(permit.cause)),
        "hours": _dump_hours(scene),
        "blackouts": _dump_blackouts(scene),
        "status": "" if status is None else status.value,
        "quote": _dump_quote(scene.quote),
        "min_notional": told(scene.min_notional, "min_notional"),
        "volume": _optional(scene.volume, "volume"),
        "sectors": _dump_groups(scene.sectors, "sectors"),
        "clusters": _dump_groups(scene.clusters, "clusters"),
        "buying_power": _optional(scene.buying_power, "buying_power"),
        "margin_used": scene.margin_used,
        "rates": _dump_rates(scene.rates),
        "agent_rates": _dump_rates(scene.agent_rates),
        "repeats": scene.repeats,
        "day_peak_equity": _optional(scene.day_peak_equity, "day_peak_equity"),
        "proposed_by": [name(one, "proposed_by") for one in scene.proposed_by],
        "decided_quantity": _optional(scene.decided_quantity, "decided_quantity"),
    }


def load_facts(message: pb.Scene) -> dict[str, Any]:
    """Return the fields of a scene that `dump_facts` told.

    Raises:
        Malformed: one of them is none.
    """
    try:
        return {
            "live": message.live,
            "permit": _load_permit(message.permit) if message.HasField("permit") else None,
            "hours": _load_hours(message) if message.HasField("hours") else None,
            "blackouts": _load_blackouts(message.blackouts),
            "status": Status(message.status) if message.status else None,
            "quote": _load_quote(message.quote) if message.HasField("quote") else None,
            "min_notional": number(message.min_notional, "min_notional"),
            "volume": _read(message.volume, "volume"),
            "sectors": _load_groups(message.sectors) if message.HasField("sectors") else None,
            "clusters": _load_groups(message.clusters) if message.HasField("clusters") else None,
            "buying_power": _read(message.buying_power, "buying_power"),
            "margin_used": message.margin_used if message.HasField("margin_used") else None,
            "rates": Rates(*(getattr(message.rates, span) for span in _SPANS)),
            "agent_rates": Rates(*(getattr(message.agent_rates, span) for span in _SPANS)),
            "repeats": message.repeats,
            "day_peak_equity": _read(message.day_peak_equity, "day_peak_equity"),
            "proposed_by": tuple(message.proposed_by),
            "decided_quantity": _read(message.decided_quantity, "decided_quantity"),
        }
    except (ConfigError, ValueError, OverflowError) as error:
        raise error if isinstance(error, Malformed) else Malformed(str(error)) from None


def _optional(value: Decimal | None, what: str) -> str:
    return "" if value is None else told(value, what)


def _read(text: str, what: str) -> Decimal | None:
    return number(text, what) if text else None


def _load_permit(message: pb.Permit) -> Permit:
    return Permit(Level(message.level), message.lease, message.reason, message.cause)


def _dump_hours(scene: Scene) -> pb.Hours | None:
    if scene.hours is None:
        return None
    if not isinstance(scene.hours, Hours):
        raise Malformed(f"hours: {scene.hours!r} are none")
    schedule = None if scene.instrument is None else scene.hours.of(scene.instrument.symbol)
    if schedule is None:
        return pb.Hours(covered=False)
    at = max(bisect_right(schedule.opens, moment(scene.now, "now")) - 1, 0)
    near = slice(at, at + 2)
    return pb.Hours(
        calendar=words(schedule.calendar),
        since_us=schedule.since,
        until_us=schedule.until,
        opens_us=schedule.opens[near],
        closes_us=schedule.closes[near],
        covered=True,
    )


def _load_hours(message: pb.Scene) -> Hours:
    one = message.hours
    if not one.covered:  # hours that say nothing of this moment
        return Hours({EVERY: Schedule("", (), (), message.now_us + 1, message.now_us + 2)})
    return Hours({EVERY: Schedule(one.calendar, tuple(one.opens_us), tuple(one.closes_us), one.since_us, one.until_us)})


def _dump_blackouts(scene: Scene) -> pb.Blackouts:
    known = scene.blackouts
    if not isinstance(known, Blackouts):
        raise Malformed(f"blackouts: {known!r} are none")
    moment(scene.now, "now")
    window = None if scene.instrument is None else known.at(scene.instrument.symbol, scene.now)
    until = None if known.until is None else to_micros(known.until)
    if window is None:
        return pb.Blackouts(until_us=until)
    one = pb.Blackout(
        start_us=to_micros(window.start),
        end_us=to_micros(window.end),
        symbols=sorted(name(symbol, "blackouts") for symbol in window.symbols),
        reason=words(window.reason),
    )
    return pb.Blackouts(windows=[one], until_us=until)


def _load_blackouts(message: pb.Blackouts) -> Blackouts:
    windows = tuple(
        Blackout(from_micros(one.start_us), from_micros(one.end_us), frozenset(one.symbols), one.reason)
        for one in message.windows
    )
    return Blackouts(windows, from_micros(message.until_us) if message.HasField("until_us") else None)


def _dump_quote(quote: Quote | None) -> pb.Quote | None:
    if quote is None:
        return None
    if not isinstance(quote, Quote):
        raise Malformed(f"quote: {quote!r} is none")
    time = moment(quote.time, "quote.time")
    return pb.Quote(symbol=name(quote.symbol, "quote.symbol"), bid=quote.bid, ask=quote.ask, last=quote.last, time_us=time)


def _load_quote(message: pb.Quote) -> Quote:
    if not message.HasField("time_us"):
        raise Malformed("quote.time is missing")
    bid, ask, last = (getattr(message, one) if message.HasField(one) else None for one in ("bid", "ask", "last"))
    time: datetime = from_micros(message.time_us)
    return Quote(message.symbol, bid, ask, last, time)


def _dump_rates(rates: Rates) -> pb.Rates:
    # A None would travel as zero.
    if not isinstance(rates, Rates) or any(type(getattr(rates, span)) is not int for span in _SPANS):
        raise Malformed(f"rates: {rates!r} are none")
    return pb.Rates(second=rates.second, minute=rates.minute, hour=rates.hour, day=rates.day)


def _dump_groups(groups: Mapping[str, str] | None, what: str) -> pb.Groups | None:
    if groups is None:
        return None
    return pb.Groups(groups=[pb.Group(symbol=name(symbol, what), name=name(one, what)) for symbol, one in groups.items()])


def _load_groups(message: pb.Groups) -> Mapping[str, str]:
    found = {one.symbol: one.name for one in message.groups}
    if len(found) != len(message.groups):
        raise Malformed("sectors or clusters: a symbol stands there twice")
    return MappingProxyType(found)
