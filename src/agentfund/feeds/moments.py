"""Single moments as people write them, turned into aware UTC; what could mean two moments is refused."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from agentfund.errors import ConfigError

_DAY = timedelta(days=1)


def zone(tz: str | None) -> ZoneInfo | None:
    """Return a time zone by its name.

    Raises:
        ConfigError: there is no such zone.
    """
    try:
        return None if tz is None else ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # "America" is a folder of zones
        raise ConfigError(f"tz={tz!r} is no time zone; use a name such as 'America/New_York' or 'UTC'") from None


def moment(value: object, local: ZoneInfo | None, *, day_ends: bool = False) -> datetime:
    """Return the moment that a value means, aware UTC.

    A day without a time of day is its first moment; where `day_ends`, the moment at which it is over, because what
    is known "on that day" may be known only in its last minute.

    Args:
        value: a datetime, a date, or either as text in the form of ISO 8601.
        local: the zone of times that name none.
        day_ends: whether a day means its end.

    Raises:
        ValueError: it is no time, names no zone where none is given, or clocks skip or repeat it; says which.
    """
    found = _read(value)
    if not isinstance(found, datetime):
        found = datetime.combine(found + _DAY if day_ends else found, time())
    if found.tzinfo is None:
        if local is None:
            raise ValueError(f"{_shown(value)} has no time zone; write it with an offset, or give tz=, such as tz='UTC'")
        early, late = found.replace(tzinfo=local, fold=0), found.replace(tzinfo=local, fold=1)
        if early.utcoffset() != late.utcoffset():
            raise ValueError(
                f"{_shown(value)} occurs twice or never in {local.key}, when clocks change; write it with an offset"
            )
        found = early
    return found.astimezone(UTC)


def _read(value: object) -> date:
    if isinstance(value, date):
        if value != value:  # how pandas says that a time is missing
            raise ValueError("it is empty")
        plain = getattr(value, "to_pydatetime", None)  # pandas counts nanoseconds
        return plain(warn=False) if callable(plain) else value
    if isinstance(value, str):
        text = value.strip()
        for kind in (date, datetime):
            try:
                return kind.fromisoformat(text)
            except ValueError:
                continue
    raise ValueError(f"{_shown(value)} is no time; write it as 2024-05-02T20:05:00+00:00 or as a datetime")


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else str(value)
