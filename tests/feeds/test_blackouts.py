"""Blackouts from files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agentfund.errors import BadData, ConfigError
from agentfund.feeds.blackouts import read_blackouts
from agentfund.hours import Blackout


def written(folder: Path, text: str) -> Path:
    """Return a file that says this."""
    path = folder / "news.csv"
    path.write_text(text)
    return path


def test_windows_and_events_are_read(tmp_path: Path) -> None:
    """An event has the time around it; symbols are separated by spaces or semicolons; a day that ends a window is in it."""
    path = written(
        tmp_path,
        "start,end,time,symbols,reason\n"
        ",,2026-03-18T18:00:00Z,,rates\n"
        "2026-03-04T20:00:00+00:00,2026-03-05,,AAPL; MSFT,earnings\n",
    )
    found = read_blackouts(path, before=timedelta(hours=1), tz="UTC").windows
    assert found == (
        Blackout(datetime(2026, 3, 18, 17, tzinfo=UTC), datetime(2026, 3, 18, 18, 30, tzinfo=UTC), frozenset(), "rates"),
        Blackout(
            datetime(2026, 3, 4, 20, tzinfo=UTC),
            datetime(2026, 3, 6, tzinfo=UTC),
            frozenset({"AAPL", "MSFT"}),
            "earnings",
        ),
    )


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("time\n2026-03-18T18:00:00\n", "news.csv, row 2, time: .* has no time zone"),
        ("start,end\n2026-03-18,\n", "news.csv, row 2, end: it is empty"),
        ("start,end\n2026-03-18T10:00Z,2026-03-18T10:00Z\n", "news.csv, row 2, end: .* does not lie after"),
        ("time,start,end\n2026-03-18T10:00Z,2026-03-18T10:00Z,2026-03-19\n", "row 2, time: .* not both"),
        ("time,symbols\n2026-03-18T10:00Z\n", "news.csv, row 2: there are 1 values"),
        ("when\n2026-03-18T10:00Z\n", "no column is one of start, end, time"),
        ("time\nsoon\n", "row 2, time: 'soon' is no time"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, match: str) -> None:
    """By file, row and field."""
    with pytest.raises(BadData, match=match):
        read_blackouts(written(tmp_path, text), tz="UTC" if "start" in text else None)


def test_an_event_needs_a_window(tmp_path: Path) -> None:
    """And `tz` a zone."""
    path = written(tmp_path, "time\n2026-03-18T18:00:00Z\n")
    with pytest.raises(ConfigError, match="needs a time before or after"):
        read_blackouts(path, before=timedelta(0), after=timedelta(0))
    with pytest.raises(ConfigError, match="no time zone"):
        read_blackouts(path, tz="Nowhere")
