"""Thirty-two agents in workers over Postgres, ten times as fast as 7,000 calls a day: nothing is lost, to the token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from contextlib import ExitStack
from datetime import timedelta

import asyncpg
import pytest

from agentfund import Orchestrator
from agentfund.buses import open_bus
from agentfund.core.ledger import Ledger
from agentfund.core.safety import SafetyLimits
from agentfund.prompt import Usage
from agentfund.testing.provider import Provider, Request
from agentfund.workers import Workers
from agentfund.workers.words import ASKED, REPLIED
from tests.buses.servers import service
from tests.market import bars, broker, wave
from tests.workers.many import ANSWERS, PRICE, many

CALLS_A_DAY = 7_000
HOUR = round(10 * CALLS_A_DAY / 24 / 32)
"""Bars in an hour at which 32 agents are asked, so that ten times the calls of a day's rate are made."""


def answer(request: Request) -> str:
    """Answer each role."""
    role = request.system.partition("Your role:")[2]
    value = next(value for word, value in ANSWERS.items() if word in role)
    return json.dumps({"value": value, "abstain": None})


@pytest.mark.parametrize(
    "count", [pytest.param(6, id="short"), pytest.param(HOUR, id="an-hour", marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
async def test_every_call_of_a_large_fund_is_on_the_log(count: int) -> None:
    """Each question has one answer, each call one row, and the rows add up to what the provider counted."""
    address = service("AGENTFUND_POSTGRES", 5432)
    if address is None:
        pytest.skip("no Postgres at its standard port")
    url, name = f"postgresql://postgres@{address}/test", f"scale_{uuid.uuid4().hex[:8]}"
    bus = open_bus(url, name=name, lease=timedelta(minutes=3))
    loose = SafetyLimits(
        time_limit_s=100, agent_consultations_per_hour=10**6, fund_consultations_per_hour=10**6, adjustment_pause_s=0.001
    )
    with Provider(answer) as provider, ExitStack() as stack:
        for part in ("first", "second"):
            command = [sys.executable, "-m", "tests.workers.host", url, name, part]
            variables = {**os.environ, "MANY_PROVIDER": provider.url}
            process = stack.enter_context(subprocess.Popen(command, env=variables))
            stack.callback(process.kill)
        fund = Orchestrator(many(), bus=bus, mode="autonomous", safety=loose, workers=Workers(grace=timedelta(seconds=30)))
        decisions = [one async for one in fund.run(bars(wave(count), minutes=1), broker())]
        served = list(provider.requests)
    log = [message async for message in bus.read()]
    await bus.close()
    connection = await asyncpg.connect(url)
    await connection.execute(f"DROP SCHEMA {name} CASCADE")
    await connection.close()
    assert len(decisions) == count
    assert [message.offset for message in log] == list(range(1, len(log) + 1))
    asked = {message.id for message in log if message.type == ASKED}
    replied = Counter(message.payload["ask"] for message in log if message.type == REPLIED)
    assert len(asked) == 32 * count
    assert set(replied) == asked
    ledger = Ledger.of(message for message in log if message.stream == "fund")
    assert ledger.total.calls == ledger.total.ok == len(served) == 32 * count
    counted = sum((one.usage for one in served), Usage())
    assert ledger.total.usage == counted
    assert ledger.billed_usd == (PRICE.input_usd * counted.input_tokens + PRICE.output_usd * counted.output_tokens) / 1_000_000
