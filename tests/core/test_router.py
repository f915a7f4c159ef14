from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.clock import SimulatedClock
from agentfund.core.breaker import BreakerState
from agentfund.core.budget import Budget
from agentfund.core.ledger import Ledger, Row, collecting
from agentfund.core.route import mute, pure
from agentfund.core.router import Router
from agentfund.errors import (
    BadCredentials,
    BadRequest,
    CassetteMiss,
    ConfigError,
    InvalidOutput,
    LLMError,
    LLMTimeout,
    LLMUnavailable,
    Overloaded,
    RateLimited,
    Refused,
    UsageCapped,
)
from agentfund.llms import RecordedLLM, Rules, ScriptedLLM
from agentfund.messages import Call
from agentfund.prompt import Completion, Prompt, Usage
from agentfund.protocols import LLM
from agentfund.secrets import Secret
from agentfund.testing.llm import LLMContract
from agentfund.trading import Direction, Proposal

LONG = Proposal(direction=Direction.LONG)
CENT = Decimal("0.01")
ZERO = Decimal(0)


def asked(**change: Any) -> Prompt:
    return replace(Prompt("strategist", "Trade.", {"price": 1.0}, Proposal), **change)


def llm(*answers: object, name: str = "a", **more: Any) -> ScriptedLLM:
    """Give these answers, then go on with good ones."""
    return ScriptedLLM(chain(answers, repeat(LONG)), name=name, **more)  # type: ignore[arg-type]


async def rows_of(router: Router, prompt: Prompt | None = None) -> tuple[object, list[Call]]:
    with collecting() as rows:
        try:
            got: object = await router.complete(prompt or asked())
        except Exception as error:
            got = error
    return got, rows


def state(router: Router, route: int = 0) -> tuple[str, float]:
    status = router.status()[route]
    return status["state"], round(status["retry_after"])


class Hanging:
    """A route that never answers; cancelled, it says so."""

    name = "a"
    cancelled = 0

    async def complete(self, prompt: Prompt) -> Completion:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled += 1
        raise AssertionError

    def worst_case_usd(self, prompt: Prompt) -> Decimal:
        return CENT


class TestRouterIsAnLLM(LLMContract):
    def make_llm(self) -> LLM:
        self.inner = llm(price_usd="0.01")
        return Router([self.inner])

    def make_failing_llm(self) -> LLM:
        self.inner = ScriptedLLM(repeat(Overloaded("busy")))
        return Router([self.inner], retries=0)

    def make_slow_llm(self) -> LLM:
        return Router([Hanging()])

    def requests(self) -> int:
        return len(self.inner.prompts)


async def test_the_first_route_that_answers_wins() -> None:
    """The answer comes parsed; later routes are not asked; the row says what it took."""
    first, second = llm(price_usd="0.01", usage=Usage(10, 5, 2)), llm(name="b")
    got, rows = await rows_of(Router([first, second]))
    assert isinstance(got, Completion)
    assert got.answer is not None
    assert got.answer.value == LONG
    assert rows == [Call("strategist", "a", "a", "ok", Usage(10, 5, 2), CENT, CENT)]
    assert second.prompts == []


# What the first route does; its outcome in the ledger; its breaker's state, and for how many seconds.
DRILL: list[tuple[str, BaseException, str, float]] = [
    ("RateLimited", RateLimited("slow down", retry_after=42), "open", 42),
    ("RateLimited", RateLimited("slow down"), "open", 10),
    ("RateLimited", RateLimited("forever", retry_after=1e9), "open", 3600),
    ("RateLimited", RateLimited("odd", retry_after=float("nan")), "open", 10),
    ("UsageCapped", UsageCapped("spent"), "open", 3600),
    ("UsageCapped", UsageCapped("spent", until=SimulatedClock().now() + timedelta(hours=5)), "open", 5 * 3600),
    ("UsageCapped", UsageCapped("clocks differ", until=SimulatedClock().now() - timedelta(hours=5)), "open", 10),
    ("UsageCapped", UsageCapped("no zone", until=datetime(1970, 1, 1, 5)), "open", 3600),  # noqa: DTZ001 - the fault
    ("Refused", Refused("I would rather not"), "closed", 0),
    ("LLMUnavailable", LLMUnavailable("nobody home"), "closed", 0),
    ("Overloaded", Overloaded("busy"), "open", 30),
    ("LLMTimeout", LLMTimeout("too slow"), "open", 30),
    ("ConnectionError", ConnectionError("reset"), "open", 30),
    ("TimeoutError", TimeoutError(), "open", 30),
]


@pytest.mark.parametrize(("outcome", "error", "breaker", "seconds"), DRILL)
async def test_after_each_failure_the_next_route_answers(
    outcome: str, error: BaseException, breaker: str, seconds: float
) -> None:
    """A rate limit and a cap rest the route, a fault counts, a refusal does not; each is a row."""
    router = Router([llm(error), llm(name="b")], failures=1, clock=SimulatedClock())
    got, rows = await rows_of(router)
    assert isinstance(got, Completion)
    assert [(row.route, row.outcome) for row in rows] == [("a", outcome), ("b", "ok")]
    assert state(router) == (breaker, seconds)


async def test_five_failures_in_a_row_open_the_circuit_and_one_trial_closes_it() -> None:
    """An open route is not asked; transitions are told with route, state and seconds."""
    clock, told = SimulatedClock(), []
    broken = llm(*[Overloaded("busy")] * 5)
    router = Router(
        [broken, llm(name="b")], clock=clock, on_transition=lambda *change: told.append((change[0], str(change[1]), change[2]))
    )
    for _ in range(7):
        await router.complete(asked())
    assert len(broken.prompts) == 5
    clock.advance(30)
    assert (await router.complete(asked())).route == "a"
    assert told == [("a", "open", 30.0), ("a", "half_open", 35.0), ("a", "closed", 0.0)]


async def test_bad_credentials_switch_a_route_off_and_say_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """Eight calls under way do not say it eight times; it stays off until it is enabled."""
    first = llm(*[BadCredentials("key is wrong")] * 8, latency_s=0.001)
    router = Router([first, llm(name="b")])
    await asyncio.gather(*(router.complete(asked()) for _ in range(20)))
    assert len(first.prompts) == 8
    assert [record.levelno for record in caplog.records if record.name == "agentfund"] == [logging.ERROR]
    assert router.status()[0]["disabled"] == "switched off, BadCredentials: key is wrong"
    assert router.status()[0]["retry_after"] == float("inf")
    router.enable("a")
    assert (await router.complete(asked())).route == "a"
    with pytest.raises(ConfigError, match="no route 'x'; there is a, b"):
        router.enable("x")


@pytest.mark.parametrize("error", [BadRequest("no such field"), CassetteMiss("not recorded")])
async def test_the_callers_bug_goes_to_no_other_route(error: Exception) -> None:
    """Neither would a second route do better, nor may a replay turn into a call."""
    second = llm(name="b")
    router = Router([llm(error), second], failures=1)
    got, rows = await rows_of(router)
    assert got is error
    assert second.prompts == []
    assert [row.outcome for row in rows] == [type(error).__name__]
    assert state(router) == ("closed", 0)


async def test_an_invalid_answer_is_shown_once_with_what_is_wrong() -> None:
    """Same route, same question, the mistake among the inputs; both answers are paid for and two rows."""
    first = llm("LONG!", price_usd="0.01")
    got, rows = await rows_of(Router([first], budget_usd_per_day=1))
    assert isinstance(got, Completion)
    assert [(row.outcome, row.repair, row.billed_usd) for row in rows] == [("InvalidOutput", False, CENT), ("ok", True, CENT)]
    shown = first.prompts[1].inputs
    assert shown["price"] == 1.0
    assert shown["your_previous_answer"] == "LONG!"
    assert "not strict JSON" in shown["what_was_wrong"]


async def test_a_second_invalid_answer_goes_to_the_next_route() -> None:
    """It is no fault of the route, so its breaker stays closed; without repair there is no second question."""
    for repair, expected in [(True, ["a", "a", "b"]), (False, ["a", "b"])]:
        router = Router([llm("?", "?"), llm(name="b")], failures=1, repair=repair)
        _, rows = await rows_of(router)
        assert [row.route for row in rows] == expected
        assert state(router) == ("closed", 0)


async def test_when_all_are_down_the_message_names_each_and_why() -> None:
    """Also routes that were not asked: open, switched off, or out of money."""
    routes = [
        llm(Overloaded("busy"), name="a"),
        llm(BadCredentials("no key"), name="b"),
        llm(name="c", price_usd=5),
        llm("?", "?", "?", "?", name="d"),
    ]
    router = Router(routes, budget_usd_per_call=1, failures=1, clock=SimulatedClock())
    with pytest.raises(LLMUnavailable) as first:
        await router.complete(asked())
    assert str(first.value) == (
        "no route could answer strategist: a: Overloaded: busy; b: switched off, BadCredentials: no key;"
        " c: BudgetExceeded: usd_per_call is 1 USD: this call could cost 5 USD;"
        " d: InvalidOutput: not strict JSON: Expecting value: line 1 column 1 (char 0)"
    )
    with pytest.raises(
        LLMUnavailable,
        match=r"a: CircuitOpen: circuit 'a' is open; try again in 30\.0 s, after Overloaded: busy; b: switched off",
    ):
        await router.complete(asked())


async def test_a_call_that_nobody_was_asked_is_a_row_of_the_router() -> None:
    """A refused call is in the ledger too, under the router's own name."""
    router = Router([llm(RateLimited("slow"))])
    await rows_of(router)
    got, rows = await rows_of(router)
    assert isinstance(got, LLMUnavailable)
    assert [(row.route, row.outcome, row.billed_usd) for row in rows] == [("router", "LLMUnavailable", ZERO)]


async def test_rules_go_on_when_every_language_model_is_down() -> None:
    """The last route is the agent's own rule, and the row says who answered."""
    router = Router([llm(Overloaded("busy")), Rules()], budget_usd_per_day=0)
    got, rows = await rows_of(router, asked(rule=lambda: LONG))
    assert isinstance(got, Completion)
    assert got.route == rows[-1].route == "rules"


async def test_a_slow_call_fails_at_the_deadline_and_counts_at_its_worst_case() -> None:
    """It is cancelled, it may still be billed, and it counts against the route."""
    slow = Hanging()
    for budget in (Budget(usd_per_day=1), None):
        router = Router([slow, llm(name="b")], deadline_s=0.02, failures=1, budget=budget)
        got, rows = await rows_of(router)
        assert isinstance(got, Completion)
        assert [(row.outcome, row.billed_usd) for row in rows] == [("LLMTimeout", CENT), ("ok", ZERO)]
        assert rows[0].latency_s >= 0.02
        assert state(router)[0] == "open"
        assert budget is None or (budget.spent_usd, budget.reserved_usd) == (CENT, ZERO)
    assert slow.cancelled == 2


async def test_an_answer_after_the_deadline_is_too_late_but_paid() -> None:
    """A route that swallows the cancellation gains nothing by it, and its usage is not lost."""

    class Stubborn(Hanging):
        async def complete(self, prompt: Prompt) -> Completion:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return Completion('{"value":null,"abstain":"late"}', "a", "m", Usage(9, 9, 9), Decimal("0.003"))
            raise AssertionError

    got, rows = await rows_of(Router([Stubborn()], deadline_s=0.02, budget_usd_per_day=1))
    assert isinstance(got, LLMUnavailable)
    assert [(row.outcome, row.billed_usd, row.usage.output_tokens) for row in rows] == [("LLMTimeout", Decimal("0.003"), 9)]


async def test_cancellation_passes_at_once_and_leaves_a_row() -> None:
    """The call may be billed, so its worst case is booked; the route is not to blame."""
    slow, budget = Hanging(), Budget(usd_per_day=1)
    router = Router([slow, llm(name="b")], failures=1, budget=budget)
    with collecting() as rows:
        task = asyncio.ensure_future(router.complete(asked()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [(row.route, row.outcome, row.billed_usd) for row in rows] == [("a", "Cancelled", CENT)]
    assert (budget.spent_usd, budget.reserved_usd, slow.cancelled) == (CENT, ZERO, 1)
    assert state(router) == ("closed", 0)
    assert router.status()[0]["failures"] == 0


async def test_a_call_cancelled_in_the_queue_costs_nothing() -> None:
    """It waited for a free slot, so no byte left; it is a row all the same."""
    router = Router([Hanging()], concurrency=1, budget_usd_per_day=1)
    ahead = asyncio.ensure_future(router.complete(asked()))
    await asyncio.sleep(0)
    with collecting() as rows:
        waiting = asyncio.ensure_future(router.complete(asked()))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
    ahead.cancel()
    await asyncio.wait([ahead])
    assert [(row.route, row.outcome, row.billed_usd) for row in rows] == [("router", "Cancelled", ZERO)]


async def test_a_route_that_cancels_itself_does_not_cancel_the_fund() -> None:
    """A stray CancelledError from inside an SDK is that route's fault."""
    got, rows = await rows_of(Router([llm(asyncio.CancelledError()), llm(name="b")]))
    assert isinstance(got, Completion)
    assert [(row.route, row.outcome) for row in rows] == [("a", "LLMError"), ("b", "ok")]


async def test_usage_survives_a_failure_that_carries_its_completion() -> None:
    """A refusal is billed by most providers: the row shows what it took, not the worst case."""
    refused = Refused("no")
    refused.completion = Completion("", "a", "m", Usage(100, 3), Decimal("0.004"))
    _, rows = await rows_of(Router([llm(refused, price_usd=1), llm(name="b")], budget_usd_per_day=5))
    assert (rows[0].outcome, rows[0].usage, rows[0].billed_usd) == ("Refused", Usage(100, 3), Decimal("0.004"))


async def test_an_unexpected_error_shows_no_secret() -> None:
    """Only the type and 200 characters, without anything that may be a key."""
    leak = ConnectionError("GET https://api.example/v1?key=sk-ant-REDACTED-0123456789 failed " + "x " * 500)
    with pytest.raises(LLMUnavailable) as caught:
        await Router([ScriptedLLM([leak])]).complete(asked())
    assert "sk-ant" not in str(caught.value)
    assert "ConnectionError: GET https://api.example/v1?*** failed" in str(caught.value)
    assert len(str(caught.value)) < 300
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "given",
    [
        "a string",
        Completion("", "a", "m", billed_usd=0.1),  # type: ignore[arg-type]
    ],
)
async def test_a_route_that_returns_nonsense_is_a_failure(given: object) -> None:
    """Not a crash of the cycle."""

    class Odd(Hanging):
        async def complete(self, prompt: Prompt) -> Any:
            return given

    got, rows = await rows_of(Router([Odd(), llm(name="b")], budget_usd_per_day=1))
    assert isinstance(got, Completion)
    assert [(row.outcome, row.billed_usd) for row in rows] == [("TypeError", CENT), ("ok", ZERO)]


async def test_a_prompt_that_is_no_json_is_the_callers_bug() -> None:
    """The route that has to write it down finds it, and no other route is asked."""

    class Writing(ScriptedLLM):
        async def complete(self, prompt: Prompt) -> Completion:
            assert prompt.question
            return await super().complete(prompt)

    first, second = Writing([LONG], name="a"), llm(name="b")
    got, rows = await rows_of(Router([first, second]), asked(inputs={"when": object()}))
    assert isinstance(got, BadRequest)
    assert [(row.route, row.outcome) for row in rows] == [("a", "BadRequest")]
    assert first.prompts == second.prompts == []


async def test_a_storm_of_rate_limits_sends_no_more_than_the_slots() -> None:
    """Of 1,000 callers those in a slot meet the 429; the queue behind them sees the open circuit and sends nothing."""
    clock = SimulatedClock()
    limited = ScriptedLLM(repeat(RateLimited("slow down", retry_after=20)), clock=clock, latency_s=0.001)
    router = Router([limited], concurrency=8, clock=clock)
    results = await asyncio.gather(*(router.complete(asked()) for _ in range(1000)), return_exceptions=True)
    assert all(isinstance(result, LLMUnavailable) for result in results)
    assert len(limited.prompts) <= 8
    sent = len(limited.prompts)
    clock.advance(30)
    await asyncio.gather(*(router.complete(asked()) for _ in range(1000)), return_exceptions=True)
    assert len(limited.prompts) == sent + 1


async def test_a_thousand_calls_at_once_never_pass_the_concurrency() -> None:
    """All are answered, eight at a time, and each is one row."""
    now = most = 0

    class Crowded:
        name = "a"

        async def complete(self, prompt: Prompt) -> Completion:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1
            return Completion('{"value":null,"abstain":"x"}', "a", "m")

    router = Router([Crowded()], concurrency=8)
    with collecting() as rows:
        await asyncio.gather(*(router.complete(asked()) for _ in range(1000)))
    assert (most, len(rows), router.status()[0]["calls"]) == (8, 1000, 1000)


async def test_order_is_by_task_and_tier() -> None:
    """The most exact key wins; routes that are not named follow; other prompts keep the order given."""
    routes = [llm(name=name) for name in "abc"]
    router = Router(routes, order={"code": ["b"], "small": ["c"], "code/small": ["c", "b"]})
    wanted = {("reasoning", "middle"): "a", ("code", "strong"): "b", ("reasoning", "small"): "c", ("code", "small"): "c"}
    for (task, tier), name in wanted.items():
        assert (await router.complete(asked(task=task, tier=tier))).route == name
    down = Router([llm(Overloaded("x"), name="a"), llm(Overloaded("x"), name="b"), llm(name="c")], order={"code": ["b"]})
    _, rows = await rows_of(down, asked(task="code"))
    assert [row.route for row in rows] == ["b", "a", "c"]


async def test_a_router_in_a_router_is_counted_once() -> None:
    """The rows are those of the attempts; the outer router adds none, and money is booked once."""
    budget = Budget(usd_per_day=1)
    inner = Router([llm(Overloaded("x"), price_usd="0.01"), llm("?", name="b", price_usd="0.01")], name="in", budget=budget)
    outer = Router([inner, llm(name="c")], budget=budget)
    got, rows = await rows_of(outer)
    assert isinstance(got, Completion)
    assert [(row.route, row.outcome) for row in rows] == [("a", "Overloaded"), ("b", "InvalidOutput"), ("b", "ok")]
    assert budget.spent_usd == sum(row.billed_usd for row in rows) == 2 * CENT
    assert (await outer.complete(asked())).answer is not None


async def test_a_recorded_router_in_a_router_is_booked_once(tmp_path: Path) -> None:
    """It looks after its own budget, and one that both share books each call once."""
    budget = Budget(usd_per_day=1)
    inner = Router([llm(price_usd="0.25")], budget=budget)
    await Router([RecordedLLM(tmp_path / "c.db", inner)], budget=budget).complete(asked())
    assert (budget.spent_usd, budget.reserved_usd) == (Decimal("0.25"), ZERO)


async def test_when_the_inner_router_is_down_the_outer_goes_on() -> None:
    """The inner one's reasons are rows; its own breakers know, so the outer's stays closed."""
    outer = Router([Router([llm(*[Overloaded("x")] * 9)], name="in"), llm(name="c")], failures=1)
    for _ in range(3):
        assert (await outer.complete(asked())).route == "c"
    assert state(outer) == ("closed", 0)


UNPRICED: list[tuple[Callable[[], object], str]] = [
    (lambda: Router([]), "at least one route"),
    (lambda: Router(llm()), "list of at least one route"),  # type: ignore[arg-type]
    (lambda: Router([llm(), llm()]), "two routes are called 'a'"),
    (lambda: Router([llm()], concurrency=0), "concurrency must be at least 1"),
    (lambda: Router([llm()], deadline_s=0), "deadline_s must be a positive"),
    (lambda: Router([llm()], order={"poetry": ["a"]}), "'poetry' is no task or tier"),
    (lambda: Router([llm()], order={"code": ["z"]}), r"order\['code'\] names z"),
    (lambda: Router([llm()], order={"code": "a"}), r"give a list of names out of a"),
    (lambda: Router([llm()], budget=Budget(), budget_usd_per_day=1), "not both"),
    (lambda: Router([Unpriced()], budget_usd_per_day=1), "route 'free' has no prices"),
    (lambda: Router([Router([llm()])], budget_usd_per_day=1), "route 'router' is a router without a budget"),
]


class Unpriced:
    name = "free"

    async def complete(self, prompt: Prompt) -> Completion:
        raise AssertionError


@pytest.mark.parametrize(("make", "why"), UNPRICED)
def test_a_router_that_cannot_work_is_refused_when_it_is_built(make: Callable[[], object], why: str) -> None:
    """By name, with the cause."""
    with pytest.raises(ConfigError, match=why):
        make()


async def test_an_unknown_price_is_refused_where_a_budget_is_set() -> None:
    """A route whose price table does not know the language model is not asked; a cheaper one may answer."""

    class Unknown(Hanging):
        def worst_case_usd(self, prompt: Prompt) -> Decimal:
            raise KeyError("llm-9000")

    got, rows = await rows_of(Router([Unknown(), llm(name="b")], budget_usd_per_day=1))
    assert isinstance(got, Completion)
    assert [(row.outcome, row.billed_usd) for row in rows] == [("BudgetExceeded", ZERO), ("ok", ZERO)]


async def test_a_route_that_bills_more_than_its_worst_case_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """The money is booked as it was billed, and somebody is told that the prices are wrong."""
    dear = Completion('{"value":null,"abstain":"x"}', "a", "m", billed_usd=Decimal(2))
    budget = Budget(usd_per_day=3)
    await Router([llm(dear, price_usd=1)], budget=budget).complete(asked())
    assert budget.spent_usd == 2
    assert "route a billed 2 USD for a call that should cost 1 USD at most" in caplog.text


def test_one_router_serves_two_loops() -> None:
    """Also when the first was left with callers in the queue."""
    router = Router([llm(latency_s=0.001)], concurrency=1)

    async def crowd() -> None:
        await asyncio.gather(*(router.complete(asked()) for _ in range(5)))

    async def leave() -> None:
        asyncio.ensure_future(crowd())  # noqa: RUF006 - left behind on purpose
        await asyncio.sleep(0)

    for work in (crowd, leave, crowd):
        asyncio.run(work())
    assert router.status()[0]["state"] == BreakerState.CLOSED


def test_a_router_names_itself_by_its_only_route() -> None:
    """Reports say who answers."""
    assert (Router([llm()]).label, Router([llm(), llm(name="b")]).label) == ("a", "router")


class Billing:
    """A route that does what it is told and counts on its own side what it will send a bill for."""

    def __init__(self, name: str, moves: Iterable[tuple[str, Decimal]], worst: Decimal) -> None:
        self.name = name
        self.moves = iter(moves)
        self.worst = worst
        self.billed = ZERO
        self.asked = 0

    def worst_case_usd(self, prompt: Prompt) -> Decimal:
        return self.worst

    async def complete(self, prompt: Prompt) -> Completion:
        self.asked += 1
        move, share = next(self.moves, ("ok", Decimal(1)))
        price = self.worst * share
        if move in ("hang", "crash", "late"):
            self.billed += self.worst
            if move == "crash":
                raise ConnectionError("reset")
            if move == "late":
                raise LLMTimeout("too slow")
            await asyncio.Event().wait()
        if move == "busy":
            raise Overloaded("busy")
        if move == "limited":
            raise RateLimited("slow down", retry_after=1)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:  # on a busy machine the deadline may come first
            self.billed += self.worst
            raise
        self.billed += price
        text = "?" if move == "invalid" else '{"value":null,"abstain":"x"}'
        return Completion(text, self.name, "m", Usage(1, 1), price, price)


prices = st.decimals("0.0001", "0.5", places=4)
moves = st.tuples(
    st.sampled_from(["ok", "ok", "ok", "invalid", "busy", "limited", "crash", "late", "hang"]), st.decimals(0, 1, places=3)
)


@settings(deadline=None, max_examples=150)
@given(
    routes=st.lists(st.tuples(st.lists(moves, max_size=12), prices), min_size=1, max_size=3),
    limit=st.decimals("0.01", "3", places=2),
    waves=st.lists(st.integers(1, 6), min_size=1, max_size=4),
)
def test_no_budget_is_passed_and_no_cent_is_lost(
    routes: list[tuple[list[tuple[str, Decimal]], Decimal]], limit: Decimal, waves: list[int]
) -> None:
    """Whatever the routes do: bills stay within the budget; the ledger, the budget and the bills agree; rows = attempts."""
    clock = SimulatedClock()
    billing = [Billing(f"r{n}", script, worst) for n, (script, worst) in enumerate(routes)]
    router = Router(billing, budget_usd_per_run=limit, deadline_s=0.002, clock=clock)

    async def run() -> list[Call]:
        with collecting() as rows:
            for wave in waves:
                await asyncio.gather(*(router.complete(asked()) for _ in range(wave)), return_exceptions=True)
                clock.advance(1)
        return rows

    rows = asyncio.run(run())
    budget = router.budget
    assert budget is not None
    bills = sum((route.billed for route in billing), ZERO)
    ledger = Ledger(Row(row, clock.now()) for row in rows)
    assert ledger.billed_usd == budget.spent_usd == bills <= limit
    assert budget.reserved_usd == 0
    sent = [row for row in rows if row.route != "router" and row.outcome != "BudgetExceeded"]
    assert len(sent) == sum(route.asked for route in billing)
    for route in billing:
        told = ledger.by("route").get(route.name)
        assert (told.billed_usd if told else ZERO) == route.billed


def test_invalid_output_of_a_route_itself_is_repaired_too() -> None:
    """A route that validates by itself gets the same second chance."""
    first = llm(InvalidOutput("value: too long", text="x" * 9000))
    asyncio.run(Router([first]).complete(asked()))
    assert first.prompts[1].inputs["what_was_wrong"] == "value: too long"
    assert len(first.prompts[1].inputs["your_previous_answer"]) == 4000


async def test_what_passes_is_tried_again_after_a_pause() -> None:
    """A busy server is asked once more, not at once, and both attempts are rows."""
    clock = SimulatedClock()
    route = llm(Overloaded("529"))
    got, rows = await rows_of(Router([route], clock=clock))
    assert isinstance(got, Completion)
    assert [row.outcome for row in rows] == ["Overloaded", "ok"]
    assert 0.25 <= clock.monotonic() <= 0.75


async def test_a_rate_limit_that_ends_soon_is_waited_for() -> None:
    """The route rests as long as the provider says; then one trial answers."""
    clock = SimulatedClock()
    got, rows = await rows_of(Router([llm(RateLimited("slow down", retry_after=3))], clock=clock))
    assert isinstance(got, Completion)
    assert [row.outcome for row in rows] == ["RateLimited", "ok"]
    assert clock.monotonic() >= 3


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RateLimited("slow down", retry_after=60), "longer than anybody waits"),
        (UsageCapped("spent"), "the subscription is used up"),
        (LLMTimeout("late"), "it may have been billed"),
        (Refused("no"), "the answer is no"),
        (BadCredentials("401"), "the key is wrong"),
    ],
)
async def test_what_does_not_pass_is_not_tried_again(error: Exception, why: str) -> None:
    """One attempt, and no waiting."""
    clock = SimulatedClock()
    got, rows = await rows_of(Router([llm(error)], clock=clock))
    assert isinstance(got, LLMUnavailable), why
    assert len(rows) == 1
    assert clock.monotonic() == 0


async def test_patience_ends() -> None:
    """The pauses of one question never take longer than it says."""
    clock = SimulatedClock()
    router = Router([ScriptedLLM(repeat(Overloaded("busy")))], retries=50, patience_s=5, failures=100, clock=clock)
    with pytest.raises(LLMUnavailable, match="busy"):
        await router.complete(asked())
    assert 0 < clock.monotonic() <= 5


async def test_hedging_asks_the_next_route_when_one_is_slow_and_books_what_it_cuts_off() -> None:
    """The first answer wins; the slow call is cancelled and counts at its worst case."""
    slow, quick = Hanging(), llm(name="quick", price_usd="0.02")
    router = Router([slow, quick], hedge_after_s=0.01, budget_usd_per_day=1)
    got, rows = await rows_of(router)
    assert isinstance(got, Completion)
    assert got.route == "quick"
    assert slow.cancelled == 1
    assert sorted((row.route, row.outcome, row.billed_usd) for row in rows) == [
        ("a", "Cancelled", CENT),
        ("quick", "ok", Decimal("0.02")),
    ]
    assert router.budget is not None
    assert (router.budget.spent_usd, router.budget.reserved_usd) == (Decimal("0.03"), ZERO)


async def test_hedging_does_not_ask_twice_when_the_first_is_quick_enough() -> None:
    """It costs nothing as long as nobody is slow; a failure goes to the next route at once."""
    first, second = llm(), llm(name="b")
    router = Router([first, second], hedge_after_s=30)
    await router.complete(asked())
    assert second.prompts == []
    failing = Router([llm(Refused("no"), name="c"), second], hedge_after_s=30)
    got, rows = await rows_of(failing)
    assert isinstance(got, Completion)
    assert [row.outcome for row in rows] == ["Refused", "ok"]


async def test_hedging_ends_with_the_caller() -> None:
    """A question that is cancelled leaves no call running."""
    first, second = Hanging(), Hanging()
    second.name = "b"
    task = asyncio.ensure_future(Router([first, second], hedge_after_s=0.001).complete(asked()))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (first.cancelled, second.cancelled) == (1, 1)


def suited(name: str, suits: str = "") -> ScriptedLLM:
    route = llm(name=name)
    if suits:
        route.suits = suits  # type: ignore[attr-defined]
    return route


def test_routes_that_suit_the_task_take_the_first_places() -> None:
    """Those that say nothing stay where the user has put them."""
    router = Router([suited("mine"), suited("codex", "code"), suited("claude", "reasoning"), suited("last")])
    assert [route.name for route in router.order("reasoning")] == ["mine", "claude", "codex", "last"]
    assert [route.name for route in router.order("code", "small")] == ["mine", "codex", "claude", "last"]
    asked_first = Router([suited("codex", "code"), suited("claude", "reasoning")], order={"reasoning": ["codex"]})
    assert [route.name for route in asked_first.order("reasoning")] == ["codex", "claude"]


async def test_transitions_are_told_to_all_who_watch() -> None:
    """Also those of a router inside; a watcher that has left hears nothing."""
    heard: list[tuple[str, str]] = []
    inner = Router([llm(BadCredentials("401"))], name="inner")
    outer = Router([inner, llm(name="b")])
    end = outer.watch(lambda route, state, retry_after: heard.append((route, state)))
    await outer.complete(asked())
    assert heard == [("a", "open")]
    end()
    inner.enable("a")
    assert heard == [("a", "open")]


async def test_a_route_that_adds_facts_of_its_own_is_not_asked_about_the_past() -> None:
    """Unless its name is among those that the user insists on."""
    dated = llm(name="dated")
    dated.adds = "today's date"  # type: ignore[attr-defined]
    router = Router([dated, llm(name="b")])
    assert router.additions() == {"dated": "today's date"}
    for insisted, route in ((None, "dated"), (frozenset(), "b"), (frozenset({"dated"}), "dated")):
        token = pure.set(insisted)
        try:
            assert (await router.complete(asked())).route == route
        finally:
            pure.reset(token)


async def test_concurrency_and_deadline_can_be_said_for_each_route() -> None:
    """A local server takes one call at a time; the others keep the default."""
    router = Router([llm(), llm(name="b")], concurrency={"a": 1}, deadline_s={"b": 5})
    assert router.concurrency() == 1
    with pytest.raises(ConfigError, match="there is no route 'c'; there is a"):
        Router([llm()], concurrency={"c": 1})
    with pytest.raises(ConfigError, match="must be a number"):
        Router([llm()], concurrency={"a": "many"})  # type: ignore[dict-item]


async def test_no_key_is_in_what_the_router_says() -> None:
    """Neither plain nor encoded, also where it was cut off."""
    secret = Secret("sk-planted-0123456789abcdef")
    words = f"key {secret.reveal()} and {secret.reveal().encode().hex()} and {secret.reveal()[:20]}"
    with pytest.raises(LLMUnavailable) as caught:
        await Router([llm(Refused(words))]).complete(asked())
    assert "planted" not in str(caught.value)
    assert secret.reveal().encode().hex() not in str(caught.value)


class Broken:
    """A route whose every call is cut off after it was sent."""

    name = "a"

    async def complete(self, prompt: Prompt) -> Completion:
        await asyncio.sleep(0)
        raise LLMError("cut off after it was sent")

    def worst_case_usd(self, prompt: Prompt) -> Decimal:
        return CENT


async def test_a_route_that_cannot_name_its_language_model_still_leaves_a_row_and_is_settled() -> None:
    """Whatever a stranger's method does, the money is booked."""

    class Nameless(Broken):
        def llm(self, prompt: Prompt) -> str:
            raise KeyError("tier")

    router = Router([Nameless()], budget_usd_per_day=1)
    _, rows = await rows_of(router)
    assert [row.billed_usd for row in rows] == [CENT]
    assert router.budget is not None
    assert (router.budget.spent_usd, router.budget.reserved_usd) == (CENT, ZERO)


def test_a_call_that_was_abandoned_with_its_loop_is_settled() -> None:
    """The collector ends it in a context of its own, and may have no loop."""
    router = Router([Hanging()], budget_usd_per_day=1)

    async def begin() -> Any:
        call = router.complete(asked())
        copy_context().run(call.send, None)
        return call

    call = asyncio.run(begin())
    with suppress(ValueError):
        call.close()
    assert router.budget is not None
    assert (router.budget.spent_usd, router.budget.reserved_usd) == (CENT, ZERO)


async def test_only_routes_whose_failures_pass_are_tried_again() -> None:
    """The others have decided: what they said was paid for once."""
    poor = llm("?", "?", "?", "?", "?", name="poor", price_usd=1)
    busy = llm(Overloaded("busy"), name="busy")
    got, rows = await rows_of(Router([poor, busy], clock=SimulatedClock()))
    assert isinstance(got, Completion)
    assert [(row.route, row.outcome) for row in rows] == [
        ("poor", "InvalidOutput"),
        ("poor", "InvalidOutput"),
        ("busy", "Overloaded"),
        ("busy", "ok"),
    ]


async def test_a_repair_that_cannot_be_asked_goes_to_the_next_route() -> None:
    """The question was good; what was made of it is too long."""
    got, _ = await rows_of(Router([llm("garbage", BadRequest("prompt is too long")), llm(name="b")]))
    assert isinstance(got, Completion)
    assert got.route == "b"


async def test_of_two_hedged_answers_the_one_that_is_taken_has_the_last_row() -> None:
    """Whoever asks the ledger who answered is told the truth; the other one is paid for too."""
    for _ in range(20):
        first, second = llm(latency_s=0.002, price_usd=1), llm(name="b", latency_s=0.0, price_usd=1)
        got, rows = await rows_of(Router([first, second], hedge_after_s=0.001))
        assert isinstance(got, Completion)
        assert rows[-1].route == got.route
        assert rows[-1].outcome == "ok"


async def test_a_hedged_answer_does_not_wait_for_a_route_that_is_slow_to_let_go() -> None:
    """Its row comes when it has let go."""

    class Clings(Hanging):
        async def complete(self, prompt: Prompt) -> Completion:
            try:
                return await super().complete(prompt)
            finally:
                await asyncio.sleep(0.5)

    began = asyncio.get_running_loop().time()
    with collecting() as rows:
        await Router([Clings(), llm(name="b")], hedge_after_s=0.001).complete(asked())
        assert asyncio.get_running_loop().time() - began < 0.4
        assert [row.route for row in rows] == ["b"]
        await asyncio.sleep(0.6)
    assert [(row.route, row.outcome) for row in rows] == [("b", "ok"), ("a", "Cancelled")]


async def test_a_usage_cap_ends_within_five_weeks_whatever_is_said() -> None:
    """A date in the far future would switch a route off for good."""
    clock = SimulatedClock()
    router = Router([llm(UsageCapped("spent", until=datetime(9999, 1, 1, tzinfo=UTC)))], clock=clock)
    await rows_of(router)
    assert state(router) == ("open", 35 * 86_400)


@pytest.mark.parametrize("routes", [["anthropic"], "anthropic", [ScriptedLLM]])
def test_what_is_no_route_is_refused_when_the_router_is_built(routes: Any) -> None:
    """A name or a class is an easy slip."""
    with pytest.raises(ConfigError, match="is no route to a language model: pass an object"):
        Router(routes)


async def test_nobody_is_asked_in_a_rehearsal() -> None:
    """But who says that it rehearses."""
    real, twin = llm(), llm(name="b")
    twin.rehearses = True  # type: ignore[attr-defined]
    token = mute.set(True)
    try:
        assert (await Router([real, twin]).complete(asked())).route == "b"
    finally:
        mute.reset(token)
    assert real.prompts == []
