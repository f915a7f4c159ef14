"""Orders that wait for a person, and what answers count."""

from __future__ import annotations

import asyncio
import io
import os
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from agentfund.approvals.board import Board
from agentfund.approvals.page import application
from agentfund.approvals.terminal import TerminalApprover
from agentfund.core.approval import Approval, ApprovalRequest, ask, order_hash
from agentfund.serving import served
from agentfund.trading import Decision, Direction, Order, Outcome, Side
from tests.flowing import RunningClock
from tests.market import START

TOKEN = "a-token-that-nobody-guesses"
CODE = "another-code"


def request(
    clock: Any, *, seconds: float = 60, vetoes: tuple[tuple[str, str], ...] = (), thesis: str = "up", quantity: int = 5
) -> ApprovalRequest:
    """Return an order that waits for a person."""
    order = Order("a1b2", "SIM", Side.BUY, Decimal(quantity), START, stop_loss=Decimal(95), decision="d1")
    decision = Decision(
        id="d1",
        cycle=3,
        time=START,
        outcome=Outcome.ORDERED,
        decided_by="consensus",
        reason=thesis,
        symbol="SIM",
        direction=Direction.LONG,
        proposed_by=("strategist",),
        vetoes=vetoes,
    )
    return ApprovalRequest(order, order_hash(order), decision, clock.now() + timedelta(seconds=seconds))


async def test_an_answer_counts_for_the_exact_order_once() -> None:
    """Of two answers the first counts; one for another hash never does."""
    clock = RunningClock()
    board, one = Board(clock), request(clock)
    waiting = asyncio.ensure_future(ask(board, one, 5))
    await asyncio.sleep(0)
    while not board.waiting():
        await asyncio.sleep(0.001)
    assert not board.answer("another hash", True, "Ada").taken
    assert not board.answer(one.order_hash, True, "  ").taken
    assert board.answer(one.order_hash, True, "Ada").taken
    assert not board.answer(one.order_hash, False, "Bob").taken
    assert await waiting == Approval(True, one.order_hash, "Ada")
    assert board.waiting() == []


async def test_silence_is_a_no_and_an_expired_order_cannot_be_approved() -> None:
    """After the time is over nothing waits, and a late yes is refused."""
    clock = RunningClock()
    board, one = Board(clock), request(clock, seconds=0.05)
    answer = await ask(board, one, 0.05)
    assert not answer.approved
    assert not board.answer(one.order_hash, True, "Ada").taken


async def test_overriding_a_veto_needs_evidence() -> None:
    """A yes against a gate agent is not taken without a sentence."""
    clock = RunningClock()
    board, one = Board(clock), request(clock, vetoes=(("risk_gate", "too large"),))
    waiting = asyncio.ensure_future(ask(board, one, 5))
    while not board.waiting():
        await asyncio.sleep(0.001)
    assert "evidence" in board.answer(one.order_hash, True, "Ada", "because").reason
    assert board.answer(one.order_hash, True, "Ada", "the gate read yesterday's news").taken
    assert (await waiting).approved


async def test_the_page_shows_the_exact_order_and_takes_an_answer_with_the_token_only() -> None:
    """Without the token nobody sees or answers; what an agent wrote is never HTML; the page loads and runs nothing."""
    clock = RunningClock()
    board, one = Board(clock), request(clock, thesis="<script>alert(1)</script>")
    app = application(board, TOKEN, fund="fund", code=CODE, clock=clock)
    async with served(app, "127.0.0.1:0") as (address, _), httpx2.AsyncClient(base_url=f"http://{address}") as browser:
        waiting = asyncio.ensure_future(ask(board, one, 10))
        while not board.waiting():
            await asyncio.sleep(0.001)
        assert (await browser.get("/")).status_code == 401
        assert (await browser.post("/answer", data={"hash": one.order_hash, "answer": "yes", "by": "Eve"})).status_code == 401
        assert (await browser.get("/enter", params={"code": "wrong"})).status_code == 401
        entered = await browser.get("/enter", params={"code": CODE})
        assert entered.status_code == 303
        assert CODE not in entered.headers["location"]
        cookie = browser.cookies["agentfund"]
        assert TOKEN not in entered.headers["set-cookie"]
        shown = await browser.get("/")
        assert "buy 5 SIM" in shown.text
        assert one.order_hash in shown.text
        assert "<script>" not in shown.text
        assert "default-src 'none'" in shown.headers["content-security-policy"]
        assert "script-src" not in shown.headers["content-security-policy"]
        form = {"hash": one.order_hash, "answer": "yes", "by": "Ada"}
        assert (await browser.post("/answer", data=form)).status_code == 403, "a form of another page knows no token"
        elsewhere = await browser.get("/", headers={"host": "evil.example"})
        assert elsewhere.status_code == 403
        other = {"origin": "http://127.0.0.1:9999"}
        form |= {"ticket": cookie}
        assert (await browser.post("/answer", data=form, headers=other)).status_code == 403, "another page of this machine"
        bare = {"hash": one.order_hash, "approved": True, "by": "Eve"}
        assert (await browser.post("/orders", json=bare)).status_code == 401, "a cookie is no token"
        told = await browser.post("/answer", data=form)
        assert told.status_code == 200
        assert (await waiting) == Approval(True, one.order_hash, "Ada")
        assert (await browser.post("/answer", data=form)).status_code == 409


async def test_programs_answer_with_the_token_as_well() -> None:
    """The same as JSON: what waits, and an answer that is a true yes."""
    clock = RunningClock()
    board, one = Board(clock), request(clock)
    app = application(board, TOKEN, fund="fund", code=CODE, clock=clock)
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with served(app, "127.0.0.1:0") as (address, _), httpx2.AsyncClient(base_url=f"http://{address}") as browser:
        assert (await browser.get("/orders")).status_code == 401
        waiting = asyncio.ensure_future(ask(board, one, 10))
        while not board.waiting():
            await asyncio.sleep(0.001)
        (listed,) = (await browser.get("/orders", headers=headers)).json()
        assert listed["hash"] == one.order_hash
        wrong = await browser.post("/orders", headers=headers, content=b"{")
        assert wrong.status_code == 400
        no = {"hash": one.order_hash, "approved": "yes", "by": "Ada"}
        assert (await browser.post("/orders", headers=headers, json=no)).json()["reason"] == "declined"
        assert not (await waiting).approved


HASH = request(RunningClock()).order_hash
OTHER = request(RunningClock(), quantity=6).order_hash


@pytest.mark.parametrize(
    ("typed", "approved"),
    [
        (f"{HASH[:6]}\n", True),
        (f"{HASH}\n", True),
        (f"yes\ny\n{HASH[:6]}\n", True),
        ("yes\n", False),
        ("yes\nyes\nno\n", False),
        (f"{HASH[:5]}\n", False),
        (f"{OTHER[:6]}\n", False),
        (f"{HASH[:6]}{OTHER[:6]}\n", False),
        ("no\n", False),
        ("\n", False),
        ("", False),
    ],
)
def test_only_the_hash_of_the_order_approves_it(typed: str, approved: bool) -> None:
    """At a terminal a person sees the order and types what names it; a yes is told what to type, an end of input is a no."""
    clock, out = RunningClock(), io.StringIO()
    told = TerminalApprover("Ada", stdin=io.StringIO(typed), stdout=out, clock=clock)(request(clock))
    assert told.approved is approved
    assert told.by == "Ada"
    assert "buy 5 SIM" in out.getvalue()
    assert (f"type {HASH[:6]}:" in out.getvalue()) == ("y" in typed)


def test_a_terminal_at_which_nobody_types_is_a_no_in_time() -> None:
    """It does not wait beyond the order's end."""
    clock = RunningClock()
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin, os.fdopen(writing, "w"):
        told = TerminalApprover("Ada", stdin=stdin, stdout=io.StringIO(), clock=clock)(request(clock, seconds=0.05))
    assert not told.approved
    assert told.evidence == "no answer in time"


def test_what_was_typed_for_an_order_before_is_no_answer_to_the_next() -> None:
    """A yes that came too late for one order does not send another one that nobody has seen."""
    clock, out = RunningClock(), io.StringIO()
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin, os.fdopen(writing, "w") as typing:
        approver = TerminalApprover("Ada", stdin=stdin, stdout=out, clock=clock)
        assert not approver(request(clock, seconds=0.05)).approved
        typing.write(f"yes\n{HASH[:6]}\n")
        typing.flush()
        assert not approver(request(clock, seconds=0.05, thesis="\x1b[2Jnothing to see")).approved
    assert "\x1b" not in out.getvalue()
