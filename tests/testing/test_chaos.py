"""Chaos on real processes: a fund over a log outlives harm, and the checks find what they are there for."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agentfund.messages import Event, Filled, Intended, Led, Message, Started
from agentfund.testing.chaos.campaign import Campaign
from agentfund.testing.chaos.checks import faults
from agentfund.trading import Account, Fill, Order, Side
from tests.market import START

ORDER = Order("o1", "SIM", Side.BUY, Decimal(10), START, token=1)
FILL = Fill("f1", "o1", "SIM", Side.BUY, Decimal(10), Decimal(100), Decimal(0), START, Decimal(100))
HELD = Account(Decimal(99_000), {"SIM": Decimal(10)})
BEGUN = Started("run", "fund", "autonomous", (), {}, {}, {}, Decimal(100_000), "0")
LED = Led("a process", 1, START + timedelta(seconds=9))


def log(*events: Event, token: int = 1) -> list[Message]:
    """Return a log of these events, each in a cycle of its own."""
    told = [
        Message.of(event, id=f"m{number}", stream="fund", producer="p", time=START, cycle=number, token=token).at(number)
        for number, event in enumerate((LED, BEGUN, *events), 1)
    ]
    return [replace(one, offset=number) for number, one in enumerate(told, 1)]


def arrived(*orders: Order) -> list[dict[str, Any]]:
    """Return what reached the exchange."""
    return [{"id": order.id, "token": order.token, "again": False} for order in orders]


GOOD = log(Intended(ORDER), Filled(FILL))


def test_a_log_that_agrees_with_the_exchange_has_no_fault() -> None:
    """An intent, an order, a fill, the same cash and position."""
    assert faults(GOOD, arrived(ORDER), [FILL], HELD, "fund") == []


@pytest.mark.parametrize(
    ("messages", "orders", "fills", "account", "words"),
    [
        pytest.param(log(Filled(FILL)), [ORDER], [FILL], HELD, "is not on the log", id="no-intent"),
        pytest.param(GOOD, [ORDER], [FILL, replace(FILL, id="f2")], HELD, "was dealt 2 times", id="twice"),
        pytest.param(log(Intended(ORDER)), [ORDER], [FILL], HELD, "fill f1 is not on the log", id="lost-fill"),
        pytest.param(GOOD, [ORDER], [], HELD, "never happened", id="invented-fill"),
        pytest.param(GOOD, [ORDER], [FILL], replace(HELD, cash=Decimal(1)), "the log holds", id="cash"),
        pytest.param([*GOOD, GOOD[-1]], [ORDER], [FILL], HELD, "is on the log 2 times", id="message-twice"),
        pytest.param(GOOD[:1] + GOOD[2:], [ORDER], [FILL], HELD, "without a gap", id="gap"),
        pytest.param(log(Intended(replace(ORDER, token=7)), Filled(FILL)), [ORDER], [FILL], HELD, "has token 7", id="token"),
    ],
)
def test_a_fault_is_found(messages: Any, orders: Any, fills: Any, account: Account, words: str) -> None:
    """Each of those that the campaign looks for."""
    assert any(words in fault for fault in faults(messages, arrived(*orders), fills, account, "fund"))


async def test_a_fund_of_processes_outlives_harm(tmp_path: Path) -> None:
    """Two orchestrators and two workers over a file, killed and frozen for a while; the log agrees with the exchange."""
    done: list[str] = []
    campaign = Campaign(f"sqlite:{tmp_path / 'fund.db'}", tmp_path, seed=2, seconds=4.0, bar_s=0.3, tell=done.append)
    outcome = await campaign.run()
    assert outcome.faults == [], str(outcome)
    assert outcome.orders > 3
    assert outcome.leaders > 0
    assert done
