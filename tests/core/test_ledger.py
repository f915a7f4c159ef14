from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.core.ledger import Ledger, Row, add, calls, collecting, record
from agentfund.messages import Call, Called, Ended, Message
from agentfund.prompt import Usage

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def call(**given: object) -> Call:
    return Call(**{"agent": "strategist", "route": "a", "llm": "m", "outcome": "ok", **given})  # type: ignore[arg-type]


def message(row: Call, at: datetime = NOON, cycle: int = 1) -> Message:
    return Message.of(Called(row), id=f"{at}{row.agent}{row.route}", stream="fund", producer="test", time=at, cycle=cycle)


def test_a_row_goes_to_whoever_collects_and_to_nobody_else() -> None:
    """Outside a collection nothing is kept."""
    record(call())
    with collecting() as rows:
        record(call(agent="inside"))
    record(call(agent="after"))
    assert [row.agent for row in rows] == ["inside"]
    assert calls.get() is None


async def test_tasks_collect_apart() -> None:
    """Two agents that run at the same time do not see each other's rows."""

    async def agent(name: str) -> list[str]:
        with collecting() as rows:
            record(call(agent=name))
            await asyncio.sleep(0)
            record(call(agent=name))
        return [row.agent for row in rows]

    assert list(await asyncio.gather(agent("a"), agent("b"))) == [["a", "a"], ["b", "b"]]


def test_the_ledger_is_a_fold_over_the_log() -> None:
    """Only `Called` events count, each with its cycle and time."""
    ended = Ended(1, 1, {}, Decimal(1))
    other = Message.of(ended, id="e", stream="fund", producer="test", time=NOON)
    foreign = Message.new("Weather", {"rain": True}, stream="fund", producer="test", time=NOON)
    ledger = Ledger.of([message(call(), cycle=7), other, foreign])
    assert ledger.rows == (Row(call(), NOON, 7),)
    assert len(ledger) == 1


def test_a_ledger_read_from_bytes_is_the_same_to_the_last_digit() -> None:
    """Money goes through JSON as text."""
    row = call(billed_usd=Decimal("0.1000000000000000000000000001"), notional_usd=None)
    sent = message(row)
    read = Message(sent.id, sent.stream, sent.key, sent.type, sent.payload, sent.producer, sent.time)
    assert Ledger.of([read]).rows[0].call == row


def test_sums_by_day_are_by_utc_day() -> None:
    """A day ends at midnight UTC, wherever the fund sits."""
    late = NOON.replace(hour=23, minute=59)
    rows = [Row(call(billed_usd=Decimal(1)), late), Row(call(billed_usd=Decimal(2)), late + timedelta(minutes=2))]
    assert {day: total.billed_usd for day, total in Ledger(rows).by("day").items()} == {
        "2026-03-02": Decimal(1),
        "2026-03-03": Decimal(2),
    }


def test_an_unknown_list_price_is_not_taken_for_zero() -> None:
    """It is left out of the sum, counted, and marked in the table."""
    ledger = Ledger([Row(call(notional_usd=Decimal("0.5")), NOON), Row(call(notional_usd=None), NOON)])
    assert ledger.notional_usd == Decimal("0.5")
    assert ledger.total.unpriced == 1
    assert "0.5000*" in ledger.as_text()
    assert "list price is not known" in ledger.as_text()


def test_the_table_reads_like_this() -> None:
    """One line for each agent, and a total; a call by subscription is there with its list price, and billed nothing."""
    usage = Usage(1200, 80, 1000, 150)
    rows = [
        Row(call(usage=usage, billed_usd=Decimal("0.0123"), notional_usd=Decimal("0.0123"), latency_s=2.0), NOON),
        Row(call(agent="risk_gate", outcome="LLMTimeout", notional_usd=Decimal(0)), NOON),
        Row(call(route="claude_cli", usage=usage, notional_usd=Decimal("0.02"), latency_s=4.0), NOON + timedelta(days=1)),
    ]
    note = "list price: what the tokens cost where they are paid one by one; a flat rate and a replay bill nothing"
    by_agent = """
agent       calls  ok  tokens in  cached  stored  tokens out  billed  list price  mean s
----------------------------------------------------------------------------------------
risk_gate       1   0          0       0       0           0  0.0000     0.0000     0.00
strategist      2   2      2,400   2,000     300         160  0.0123     0.0323     3.00
----------------------------------------------------------------------------------------
total           3   2      2,400   2,000     300         160  0.0123     0.0323     2.00
"""
    assert Ledger(rows).as_text("agent") == by_agent.strip() + "\n" + note
    by_the_rest = """
route       calls  ok  tokens in  cached  stored  tokens out  billed  list price  mean s
----------------------------------------------------------------------------------------
a               2   1      1,200   1,000     150          80  0.0123     0.0123     1.00
claude_cli      1   1      1,200   1,000     150          80  0.0000     0.0200     4.00

day         calls  ok  tokens in  cached  stored  tokens out  billed  list price  mean s
----------------------------------------------------------------------------------------
2026-03-02      2   1      1,200   1,000     150          80  0.0123     0.0123     1.00
2026-03-03      1   1      1,200   1,000     150          80  0.0000     0.0200     4.00
----------------------------------------------------------------------------------------
total           3   2      2,400   2,000     300         160  0.0123     0.0323     2.00
"""
    assert Ledger(rows).as_text().endswith(by_the_rest.strip() + "\n" + note)
    assert Ledger(rows).as_text().startswith("\n".join(by_agent.strip().splitlines()[:4]))
    assert Ledger().as_text() == "no language model was asked"


def test_rows_are_flat() -> None:
    """They go into a data frame as they are."""
    (row,) = Ledger([Row(call(usage=Usage(7, 2, 1, 4)), NOON, 4)]).as_rows()
    names = ("cycle", "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens")
    assert [row[name] for name in names] == [4, 7, 1, 4, 2]


money = st.builds(lambda digits, places: Decimal(digits).scaleb(-places), st.integers(0, 10**20), st.integers(0, 60))


@settings(deadline=None, max_examples=50)
@given(st.lists(money, max_size=20), st.randoms(use_true_random=False))
def test_money_is_added_exactly_in_any_order(amounts: list[Decimal], chance: object) -> None:
    """No digit is lost between the largest amount and the smallest, and each way of summing gives the same."""
    shuffled = list(amounts)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    rows = [Row(call(agent=f"a{n % 3}", billed_usd=amount), NOON) for n, amount in enumerate(amounts)]
    total = add(shuffled)
    assert Fraction(total) == sum(map(Fraction, amounts))
    assert Ledger(rows).billed_usd == total
    assert add(part.billed_usd for part in Ledger(rows).by("agent").values()) == total
