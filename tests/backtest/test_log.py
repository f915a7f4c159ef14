"""The log of a run, put in order: what is told twice, and what is no single run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from agentfund.backtest.log import Log
from agentfund.errors import ConfigError
from agentfund.messages import Ended, Event, Filled, Message, Started
from agentfund.trading import Fill, Side

START = datetime(2024, 1, 2, tzinfo=UTC)


def message(event: Event, number: int) -> Message:
    return Message.of(event, id=f"{number}", stream="fund", producer="test", time=START + timedelta(hours=number))


def started(run: str) -> Started:
    return Started(run, "fund", "backtest", (), {}, {}, {}, Decimal(10_000), "0")


def test_a_fill_told_twice_happened_once() -> None:
    """A broker may tell a fill again; its id says that it is the same."""
    once = Filled(Fill("f1", "o1", "A", Side.BUY, Decimal(1), Decimal(1), Decimal(0), START, Decimal(1)))
    log = Log([message(started("r"), 0), message(once, 1), message(once, 2)])
    assert len(log.fills) == 1


def test_a_log_of_two_runs_or_of_none_is_refused() -> None:
    """A report is of one run, from its beginning."""
    with pytest.raises(ConfigError, match="the runs 'a' and 'b'"):
        Log([message(started("a"), 0), message(started("b"), 1)])
    with pytest.raises(ConfigError, match="no Started message"):
        Log([message(Ended(1, 1, {}, Decimal(10_000)), 0)])
