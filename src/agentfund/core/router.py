"""The router: an LLM made of routes, tried in order until one answers. The only place where a question is asked again."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, get_args
from weakref import WeakKeyDictionary

from agentfund.clock import SystemClock
from agentfund.core.breaker import BreakerState, CircuitBreaker, Result
from agentfund.core.budget import Budget, Reservation, Usd
from agentfund.core.deadline import DeadlineExceeded, within
from agentfund.core.ledger import ZERO, add, calls, record
from agentfund.errors import (
    AgentFundError,
    BadCredentials,
    BadRequest,
    BudgetExceeded,
    CassetteMiss,
    CircuitOpen,
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
from agentfund.messages import Call
from agentfund.prompt import Completion, Prompt, Task, Tier
from agentfund.protocols import LLM, Priced, language_model

if TYPE_CHECKING:
    from agentfund.protocols import Clock

_log = logging.getLogger("agentfund")

_NOT_SENT = (BudgetExceeded, CassetteMiss, LLMUnavailable)
_NOT_BILLED = (*_NOT_SENT, RateLimited, UsageCapped, Overloaded, BadCredentials, BadRequest)
_NEUTRAL = (*_NOT_SENT, RateLimited, UsageCapped, BadCredentials, BadRequest, Refused, InvalidOutput, CircuitOpen)
_PAUSE_S = 10.0
_SHOWN = 4_000
_LONG_TOKEN = re.compile(r"[\w+/=.%~-]{20,}")


class _Route:
    """One way to a language model, with what guards it and what was counted."""

    __slots__ = ("_concurrency", "_slots", "breaker", "calls", "disabled", "failures", "llm", "name", "worst_case")

    def __init__(self, llm: LLM, breaker: CircuitBreaker, concurrency: int) -> None:
        self.llm = llm
        self.name = breaker.name
        self.breaker = breaker
        self.worst_case = llm.worst_case_usd if isinstance(llm, Priced) else None
        self.calls = 0
        self.failures = 0
        self.disabled = ""
        self._concurrency = concurrency
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    def slots(self) -> asyncio.Semaphore:
        """The concurrency limit of the running loop: a semaphore cannot outlive the loop in which tasks wait for it."""
        loop = asyncio.get_running_loop()
        found = self._slots.get(loop)
        if found is None:
            found = self._slots[loop] = asyncio.Semaphore(self._concurrency)
        return found


class Router:
    """An LLM made of routes: the first that answers wins, and a fault of one route is not a fault of the fund.

    Each route has a circuit breaker, a concurrency limit and a deadline. A rate limit or a usage cap rests the route for
    as long as the provider says; bad credentials switch it off; an invalid answer is shown to the language model once,
    with what is wrong. Every attempt is a row of the ledger, also a failed or cancelled one. A call that may have been
    billed without our knowing, because it was cut off, is booked at its worst case.

    Args:
        routes: LLMs, best first; a router can be one of them, and then looks after its own budget.
        name: its name in the ledger where it refused before choosing a route.
        budget: what may be spent; share one `Budget` among routers to share the money.
        budget_usd_per_call: instead of `budget`: most that one call can cost.
        budget_usd_per_run: instead of `budget`: most that this router spends.
        budget_usd_per_hour: instead of `budget`: most within 60 minutes.
        budget_usd_per_day: instead of `budget`: most within 24 hours.
        order: names of routes to try first, by task ("code"), tier ("small") or both ("code/small"); where several fit,
            both goes before task and task before tier. Routes that are not named follow in the order given.
        concurrency: most calls under way at once, for each route and event loop.
        deadline_s: seconds that a call may take; waiting for a free slot does not count.
        repair: whether an invalid answer is shown to the language model once.
        failures: so many failures in a row open a route's circuit.
        cooldown_s: seconds the first time it opens; doubled each time the trial fails.
        cooldown_cap_s: longest cool-down, and longest rest after a rate limit or a usage cap of unknown end.
        on_transition: called with route, new state and seconds until the next trial when a breaker changes its state.
        clock: where the time comes from.

    Raises:
        ConfigError: no routes, two of one name, an unknown name in `order`, a budget over a route without prices.
    """

    def __init__(
        self,
        routes: Sequence[LLM],
        *,
        name: str = "router",
        budget: Budget | None = None,
        budget_usd_per_call: Usd | None = None,
        budget_usd_per_run: Usd | None = None,
        budget_usd_per_hour: Usd | None = None,
        budget_usd_per_day: Usd | None = None,
        order: Mapping[str, Sequence[str]] | None = None,
        concurrency: int = 8,
        deadline_s: float = 30.0,
        repair: bool = True,
        failures: int = 5,
        cooldown_s: float = 30.0,
        cooldown_cap_s: float = 3600.0,
        on_transition: Callable[[str, BreakerState, float], object] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(routes, Sequence) or not routes:
            raise ConfigError("a router needs a list of at least one route: Router([llm])")
        if concurrency < 1:
            raise ConfigError(f"concurrency must be at least 1, not {concurrency}")
        if not 0 < deadline_s < math.inf:
            raise ConfigError(f"deadline_s must be a positive number of seconds, not {deadline_s}")
        self.name = name
        self.on_transition = on_transition
        self._clock = clock or SystemClock()
        self._deadline_s = deadline_s
        self._repair = repair
        self._cap_s = cooldown_cap_s
        limits = (budget_usd_per_call, budget_usd_per_run, budget_usd_per_hour, budget_usd_per_day)
        if any(limit is not None for limit in limits):
            if budget is not None:
                raise ConfigError("give either budget or budget_usd_per_..., not both")
            budget = Budget(*limits, clock=self._clock)
        self.budget = budget
        self._routes: dict[str, _Route] = {}
        for llm in routes:
            if llm.name in self._routes:
                raise ConfigError(f"two routes are called {llm.name!r}: give one of them another name")
            breaker = CircuitBreaker(
                llm.name,
                failures=failures,
                cooldown=cooldown_s,
                cap=cooldown_cap_s,
                trial_timeout=deadline_s + 5.0,  # the deadline speaks first, so that a slow trial is a failure
                on_transition=partial(self._transition, llm.name),
                clock=self._clock,
            )
            self._routes[llm.name] = _Route(llm, breaker, concurrency)
            if budget is not None:
                _require_prices(llm)
        self._orders = self._arranged(order or {})

    def __repr__(self) -> str:
        return f"<Router {self.name!r}: {', '.join(f'{route.name} {route.breaker.state}' for route in self._routes.values())}>"

    @property
    def label(self) -> str:
        """The route's name where there is only one, else the router's."""
        return next(iter(self._routes)) if len(self._routes) == 1 else self.name

    @property
    def routes(self) -> tuple[LLM, ...]:
        """The routes in the order given."""
        return tuple(route.llm for route in self._routes.values())

    def status(self) -> list[dict[str, Any]]:
        """Return name, state, seconds until the next trial, attempts, failed attempts and why it is off, for each route."""
        return [
            {
                "name": route.name,
                "state": str(route.breaker.state),
                "retry_after": route.breaker.retry_after,
                "calls": route.calls,
                "failures": route.failures,
                "disabled": route.disabled,
            }
            for route in self._routes.values()
        ]

    def enable(self, route: str) -> None:
        """Switch a route on again, once its key or login is fixed.

        Raises:
            ConfigError: there is no such route.
        """
        if route not in self._routes:
            raise ConfigError(f"there is no route {route!r}; there is {', '.join(self._routes)}")
        self._routes[route].disabled = ""
        self._routes[route].breaker.reset()

    async def complete(self, prompt: Prompt) -> Completion:
        """Ask the routes in order; return the first answer, parsed.

        Raises:
            BadRequest: the prompt itself is wrong.
            CassetteMiss: a replay has no recording of the prompt.
            LLMUnavailable: no route could answer; the message says why, route by route.
        """
        rows: list[Call] = []
        outer = calls.set(rows)  # what a router inside records comes here first
        try:
            return await self._first(prompt, rows)
        except BaseException as error:
            if not rows:
                rows.append(Call(prompt.agent, self.name, "", _outcome(error)))
            raise
        finally:
            calls.reset(outer)
            for row in rows:
                record(row)

    async def _first(self, prompt: Prompt, rows: list[Call]) -> Completion:
        reasons: list[str] = []
        for route in self._orders.get((prompt.task, prompt.tier), ()):
            try:
                return await self._answer(route, prompt, rows)
            except (BadRequest, CassetteMiss):
                raise
            except Exception as error:
                reasons.append(f"{route.name}: {route.disabled or _told(error)}")
        raise LLMUnavailable(f"no route could answer {prompt.agent}: " + "; ".join(reasons))

    async def _answer(self, route: _Route, prompt: Prompt, rows: list[Call]) -> Completion:
        try:
            return await self._attempt(route, prompt, rows)
        except InvalidOutput as error:
            if not self._repair:
                raise
            prompt = _with_mistake(prompt, error)
        return await self._attempt(route, prompt, rows, repair=True)

    async def _attempt(self, route: _Route, prompt: Prompt, rows: list[Call], *, repair: bool = False) -> Completion:
        async with route.slots():  # first the queue, then the breaker: those who waited see what the others met
            permit = route.breaker.acquire()
            route.calls += 1
            held: Reservation | None = None
            got: Completion | None = None
            outcome, waited, lost = "ok", 0.0, False
            result: Result = "ok"
            before, began = len(rows), self._clock.monotonic()
            try:
                held = self._reserve(route, prompt)
                got = await self._ask(route, prompt)
                if got.answer is None:
                    got = replace(got, answer=prompt.parse(got.text))
                return got
            except BaseException as error:
                outcome, result = _outcome(error), "neutral"
                got = got or _completion(error)
                lost = got is None and not isinstance(error, _NOT_BILLED)
                waited = 0.0 if isinstance(error, _NOT_SENT) else self._clock.monotonic() - began
                result = self._judge(route, error)
                raise
            finally:
                route.breaker.report(permit, result)
                route.failures += outcome not in ("ok", "Cancelled")
                if len(rows) == before:  # else a router inside has written the rows of its attempts already
                    if got is None:
                        lost_usd = self._lost(route, prompt, held) if lost else ZERO
                        got = Completion(
                            "", route.name, language_model(route.llm, prompt), billed_usd=lost_usd, latency_s=waited
                        )
                    rows.append(_row(prompt, outcome, got, repair))
                if held is not None and self.budget is not None:
                    self._settle(route, held, add(row.billed_usd for row in rows[before:]))

    async def _ask(self, route: _Route, prompt: Prompt) -> Completion:
        try:
            completion = await within(self._deadline_s, route.llm.complete(prompt))
        except DeadlineExceeded as late:
            error = LLMTimeout(str(late))
            error.completion = late.value  # too late to be used, but it was billed
            raise error from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():  # nobody cancelled us: it must not look as if somebody had
                raise LLMError("the route cancelled itself") from None
            raise
        if not isinstance(completion, Completion) or not _is_money(completion.billed_usd):
            raise TypeError("a route must return a Completion whose billed_usd is a Decimal from 0 up")
        return completion

    def _judge(self, route: _Route, error: BaseException) -> Result:
        if isinstance(error, RateLimited):
            wait = error.retry_after or _PAUSE_S
            route.breaker.open_for(min(wait, self._cap_s) if wait > 0 else _PAUSE_S)
        elif isinstance(error, UsageCapped):
            named = error.until is not None and error.until.tzinfo is not None  # a naive time names no moment
            wait = (error.until - self._clock.now()).total_seconds() if error.until and named else self._cap_s
            route.breaker.open_for(max(wait, _PAUSE_S))
        elif isinstance(error, BadCredentials):
            route.breaker.disable()
            if not route.disabled:
                route.disabled = f"switched off, {_told(error)}"
                _log.error("route %s is switched off: %s; fix the key or the login, then enable it", route.name, _told(error))
        return "failure" if isinstance(error, Exception) and not isinstance(error, _NEUTRAL) else "neutral"

    def _reserve(self, route: _Route, prompt: Prompt) -> Reservation | None:
        if self.budget is None or route.worst_case is None:  # a router inside looks after its own budget
            return None
        try:
            worst_case = route.worst_case(prompt)
        except Exception as error:
            raise BudgetExceeded(f"what the call can cost is not known: {_told(error)}") from error
        return self.budget.reserve(worst_case)

    def _settle(self, route: _Route, held: Reservation, billed: Decimal) -> None:
        assert self.budget is not None
        self.budget.settle(held, billed)
        if billed > held.worst_case:
            _log.warning(
                "route %s billed %s USD for a call that should cost %s USD at most: its prices are wrong, and the budget"
                " cannot hold",
                route.name,
                billed,
                held.worst_case,
            )

    def _lost(self, route: _Route, prompt: Prompt, held: Reservation | None) -> Decimal:
        if held is not None:
            return held.worst_case
        try:
            worst_case = route.worst_case(prompt) if route.worst_case is not None else ZERO
        except Exception:
            return ZERO  # without a budget prices are not needed, so they may be missing
        return worst_case if _is_money(worst_case) else ZERO

    def _transition(self, route: str, old: BreakerState, new: BreakerState, retry_after: float) -> None:
        if self.on_transition is not None:
            self.on_transition(route, new, retry_after)

    def _arranged(self, order: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], tuple[_Route, ...]]:
        kinds = list(product(get_args(Task), get_args(Tier)))
        known = {*get_args(Task), *get_args(Tier), *map("/".join, kinds)}
        for key, names in order.items():
            if key not in known:
                raise ConfigError(f"order: {key!r} is no task or tier; there is {', '.join(sorted(known))}")
            if isinstance(names, str) or (unknown := [name for name in names if name not in self._routes]):
                named = names if isinstance(names, str) else ", ".join(unknown)
                raise ConfigError(f"order[{key!r}] names {named}: give a list of names out of {', '.join(self._routes)}")
        arranged: dict[tuple[str, str], tuple[_Route, ...]] = {}
        for task, tier in kinds:
            first = next((order[key] for key in (f"{task}/{tier}", task, tier) if key in order), ())
            arranged[task, tier] = tuple(self._routes[name] for name in dict.fromkeys([*first, *self._routes]))
        return arranged


def _told(error: BaseException) -> str:
    """Return an error in at most 200 characters and its type; one that is not ours shows nothing that may be a key."""
    try:
        text = str(error)
    except Exception:
        text = ""
    if not isinstance(error, AgentFundError):
        text = _LONG_TOKEN.sub("***", text)
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _outcome(error: BaseException) -> str:
    return "Cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__name__


def _completion(error: BaseException) -> Completion | None:
    found = getattr(error, "completion", None)
    return found if isinstance(found, Completion) and _is_money(found.billed_usd) else None


def _row(prompt: Prompt, outcome: str, got: Completion, repair: bool) -> Call:
    return Call(
        prompt.agent,
        got.route,
        got.llm,
        outcome,
        got.usage,
        got.billed_usd,
        got.notional_usd,
        got.latency_s,  # the route's own time where it answered: a replay must give the same row
        vars(prompt).get("digest", ""),  # where a route has hashed the question; hashing it here would cost more than the rest
        repair,
        got.request_id,
    )


def _is_money(amount: object) -> bool:
    return isinstance(amount, Decimal) and amount.is_finite() and amount >= 0


def _with_mistake(prompt: Prompt, error: InvalidOutput) -> Prompt:
    shown = {"your_previous_answer": error.text[:_SHOWN], "what_was_wrong": str(error)[:_SHOWN]}
    return replace(prompt, inputs={**prompt.inputs, **shown})


def _require_prices(llm: LLM) -> None:
    if isinstance(llm, Router):
        if llm.budget is None:
            raise ConfigError(f"route {llm.name!r} is a router without a budget: share one, budget=Budget(...), between both")
    elif not isinstance(llm, Priced):
        raise ConfigError(f"route {llm.name!r} has no prices, so no budget can hold: give it worst_case_usd(prompt)")
