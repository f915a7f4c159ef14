"""The router: an LLM made of routes, tried in order until one answers. The only place where a question is asked again."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, get_args

from agentfund.clock import SystemClock
from agentfund.core.breaker import BreakerState, CircuitBreaker
from agentfund.core.budget import Budget, Usd
from agentfund.core.ledger import record
from agentfund.core.route import Route, outcome_of, pure
from agentfund.errors import (
    BadRequest,
    CassetteMiss,
    CircuitOpen,
    ConfigError,
    InvalidOutput,
    LLMError,
    LLMUnavailable,
    Overloaded,
    RateLimited,
)
from agentfund.messages import Call
from agentfund.prompt import Completion, Prompt, Task, Tier
from agentfund.protocols import LLM, Priced, identity

if TYPE_CHECKING:
    from agentfund.protocols import Clock

Listener = Callable[[str, BreakerState, float], object]

unhurried: ContextVar[bool] = ContextVar("unhurried", default=False)
"""Set in a backtest: of a history nothing is late, so a question waits for a route that rests."""

UNHURRIED_S = 100.0
"""Seconds that it waits then: less than the time limit of an agent."""

_PASSING = (Overloaded, RateLimited, CircuitOpen)
_BACKOFF_S = 0.5
_STEEPEST = 4
_REAP_S = 0.1
_MANY = 1000
_SHOWN = 4_000


class Router:
    """An LLM made of routes: the first that answers wins, and a fault of one route is not a fault of the fund.

    Each route has a circuit breaker, a concurrency limit and a deadline. A rate limit or a usage cap rests the route for
    as long as the provider says; bad credentials switch it off; an invalid answer is shown to the language model once,
    with what is wrong. Every attempt is a row of the ledger, also a failed or cancelled one. A call that may have been
    billed without our knowing, because it was cut off, is booked at its worst case.

    Where every route failed and one of them failed by something that passes (no connection, a busy or failing server, a
    rate limit), all are tried once more after a pause, for nothing was decided yet.

    Args:
        routes: LLMs, best first; a router can be one of them, and then looks after its own budget. Among routes that
            say what they suit, those that suit the prompt's task change places with the others.
        name: its name in the ledger where it refused before choosing a route.
        budget: what may be spent; share one `Budget` among routers to share the money.
        budget_usd_per_call: instead of `budget`: most that one call can cost.
        budget_usd_per_run: instead of `budget`: most that this router spends.
        budget_usd_per_hour: instead of `budget`: most within 60 minutes.
        budget_usd_per_day: instead of `budget`: most within 24 hours.
        order: names of routes to try first, by task ("code"), tier ("small") or both ("code/small"); where several fit,
            both goes before task and task before tier. Routes that are not named follow in the order given.
        concurrency: most calls under way at once in an event loop, for each route, or by a route's name.
        deadline_s: seconds that a call may take, for each route, or by a route's name; waiting for a slot does not count.
        repair: whether an invalid answer is shown to the language model once.
        retries: how often all routes are tried again after failures that pass.
        patience_s: most seconds that a question may wait for that, pauses together.
        hedge_after_s: ask the next route too when one has not answered for so long, and take the first answer. What is
            cut off then may be billed, and is booked at its worst case. None: one route at a time.
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
        concurrency: int | Mapping[str, int] = 8,
        deadline_s: float | Mapping[str, float] = 30.0,
        repair: bool = True,
        retries: int = 1,
        patience_s: float = 10.0,
        hedge_after_s: float | None = None,
        failures: int = 5,
        cooldown_s: float = 30.0,
        cooldown_cap_s: float = 3600.0,
        on_transition: Listener | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(routes, Sequence) or not routes:
            raise ConfigError("a router needs a list of at least one route: Router([llm])")
        for llm in routes:
            if isinstance(llm, type) or not hasattr(llm, "complete"):
                raise ConfigError(f"{llm!r} is no route to a language model: pass an object such as Anthropic()")
        if retries < 0 or not 0 <= patience_s < math.inf:
            raise ConfigError(f"retries ({retries}) and patience_s ({patience_s}) must be zero or more")
        if hedge_after_s is not None and not 0 <= hedge_after_s < math.inf:
            raise ConfigError(f"hedge_after_s must be seconds from 0 up, or None, not {hedge_after_s}")
        self.name = name
        self.on_transition = on_transition
        self._listeners: list[Listener] = []
        self._clock = clock or SystemClock()
        self._repair = repair
        self._retries = retries
        self._patience_s = patience_s
        self._hedge_s = hedge_after_s
        limits = (budget_usd_per_call, budget_usd_per_run, budget_usd_per_hour, budget_usd_per_day)
        if any(limit is not None for limit in limits):
            if budget is not None:
                raise ConfigError("give either budget or budget_usd_per_..., not both")
            budget = Budget(*limits, clock=self._clock)
        self.budget = budget
        self._routes: dict[str, Route] = {}
        for llm in routes:
            if llm.name in self._routes:
                raise ConfigError(f"two routes are called {llm.name!r}: give one of them another name")
            most = _setting("concurrency", concurrency, llm.name, 8)
            if most < 1:
                raise ConfigError(f"concurrency must be at least 1, not {most}")
            seconds = _setting("deadline_s", deadline_s, llm.name, 30.0)
            if not 0 < seconds < math.inf:
                raise ConfigError(f"deadline_s must be a positive number of seconds, not {seconds}")
            breaker = CircuitBreaker(
                llm.name,
                failures=failures,
                cooldown=cooldown_s,
                cap=cooldown_cap_s,
                trial_timeout=seconds + 5.0,  # the deadline speaks first, so that a slow trial is a failure
                on_transition=partial(self._transition, llm.name),
                clock=self._clock,
            )
            self._routes[llm.name] = Route(
                llm,
                breaker,
                budget=budget,
                concurrency=most,
                deadline_s=seconds,
                cap_s=cooldown_cap_s,
                clock=self._clock,
            )
            if budget is not None:
                _require_prices(llm)
            if isinstance(llm, Router):
                llm.watch(self._tell)
        for given in (concurrency, deadline_s):
            if isinstance(given, Mapping) and (unknown := sorted(set(given) - set(self._routes))):
                raise ConfigError(f"there is no route {unknown[0]!r}; there is {', '.join(self._routes)}")
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

    def order(self, task: Task = "reasoning", tier: Tier = "middle") -> tuple[LLM, ...]:
        """Return the routes in the order in which they are tried for such a prompt."""
        return tuple(route.llm for route in self._orders[task, tier])

    def concurrency(self, task: Task = "reasoning", tier: Tier = "middle") -> int:
        """Return how many such prompts can be under way at once on the first route that is not off."""
        usable = [route for route in self._orders[task, tier] if not route.disabled and not self._impure(route)]
        return usable[0].concurrency if usable else 1

    def budgets(self) -> tuple[Budget, ...]:
        """Return the budgets that hold its calls: its own, and those of routers inside."""
        found = [] if self.budget is None else [self.budget]
        for route in self._routes.values():
            inside = getattr(route.llm, "budgets", None)  # a router, or a recording of one
            if callable(inside):
                found += inside()
        return tuple({id(budget): budget for budget in found}.values())

    def additions(self) -> dict[str, str]:
        """Return the routes that put facts of their own into prompts, such as today's date, and which."""
        found = {route.name: route.adds for route in self._routes.values() if route.adds}
        for route in self._routes.values():
            inside = getattr(route.llm, "additions", None)  # a router, or a recording of one
            if callable(inside):
                found |= inside()
        return found

    def identity(self, prompt: Prompt) -> str:
        """Return what may answer, for the keys of recordings: all routes in the order in which they are tried."""
        return f"{self.name}({', '.join(identity(llm, prompt) for llm in self.order(prompt.task, prompt.tier))})"

    def watch(self, listener: Listener) -> Callable[[], None]:
        """Call a listener, as `on_transition`, for every change of a breaker, also of routers inside.

        Returns:
            A function that ends it.
        """
        self._listeners.append(listener)

        def end() -> None:
            with suppress(ValueError):
                self._listeners.remove(listener)

        return end

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
        try:
            return await self._persist(prompt, rows)
        except BaseException as error:
            if not rows:
                rows.append(Call(prompt.agent, self.name, "", outcome_of(error)))
            raise
        finally:
            for row in rows:
                record(row)

    async def _persist(self, prompt: Prompt, rows: list[Call]) -> Completion:
        """Try all routes, and once more those whose failures pass."""
        routes = self._orders.get((prompt.task, prompt.tier), ())
        retries, patience_s = (
            (_MANY, max(self._patience_s, UNHURRIED_S)) if unhurried.get() else (self._retries, self._patience_s)
        )
        failed: dict[Route, BaseException] = {}
        waited, left = 0.0, routes
        for tries in range(retries + 1):
            answer = await (self._first if self._hedge_s is None else self._race)(left, prompt, rows, failed)
            if answer is not None:
                return answer
            left = tuple(route for route in left if isinstance(failed[route], _PASSING))
            ready = min((route.breaker.retry_after for route in left), default=math.inf)
            # Not all at the same moment: whoever was turned away together would come back together.
            pause = ready + _BACKOFF_S * 2 ** min(tries, _STEEPEST) * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
            if tries == retries or waited + pause > patience_s:
                break
            waited += pause
            await self._clock.sleep(pause)
        reasons = "; ".join(f"{route.name}: {route.why(error)}" for route, error in failed.items())
        raise LLMUnavailable(f"no route could answer {prompt.agent}: {reasons}")

    async def _first(
        self, routes: Iterable[Route], prompt: Prompt, rows: list[Call], failed: dict[Route, BaseException]
    ) -> Completion | None:
        """Ask one after the other; return the first answer, or None with what failed."""
        for route in routes:
            try:
                return await self._answer(route, prompt, rows)
            except (BadRequest, CassetteMiss):
                raise
            except Exception as error:
                failed[route] = error
        return None

    async def _race(
        self, routes: Iterable[Route], prompt: Prompt, rows: list[Call], failed: dict[Route, BaseException]
    ) -> Completion | None:
        """Ask the next route too whenever those that were asked are slow or have failed; return the first answer."""
        left = deque(routes)
        asked: dict[asyncio.Task[Completion], tuple[Route, list[Call]]] = {}
        won: list[Call] = []
        try:
            while left or asked:
                if left:
                    route, mine = left.popleft(), list[Call]()
                    asked[asyncio.ensure_future(self._answer(route, prompt, mine))] = (route, mine)
                wait_s = self._hedge_s if left else None
                done, _ = await asyncio.wait(asked, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                answers = []
                for task in done:
                    (route, mine), error = asked.pop(task), task.exception()
                    if error is None:
                        answers.append((task.result(), mine))
                        continue
                    rows.extend(mine)
                    if isinstance(error, BadRequest | CassetteMiss) or not isinstance(error, Exception):
                        raise error
                    failed[route] = error
                if answers:
                    for _, mine in answers[1:]:
                        rows.extend(mine)
                    answer, won = answers[0]
                    return answer
            return None
        finally:
            await _reaped(asked, rows)
            rows.extend(won)  # last, so that who reads the rows sees who answered

    async def _answer(self, route: Route, prompt: Prompt, rows: list[Call]) -> Completion:
        if why := self._impure(route):
            raise LLMError(why)
        try:
            return await route.attempt(prompt, rows)
        except InvalidOutput as error:
            if not self._repair:
                raise
            invalid = error
        try:
            return await route.attempt(_with_mistake(prompt, invalid), rows, repair=True)
        except BadRequest as error:  # the question was good; what is bad is what we made of it
            raise InvalidOutput(f"{invalid}; and it could not be repaired: {error}", text=invalid.text) from None

    def _impure(self, route: Route) -> str:
        """Return why a route is not asked about the past, empty where it is."""
        insisted = pure.get()
        if insisted is None or not route.adds or route.name in insisted:
            return ""
        return f"it puts {route.adds} into every prompt, so it is not asked about the past"

    def _transition(self, route: str, old: BreakerState, new: BreakerState, retry_after: float) -> None:
        self._tell(route, new, retry_after)

    def _tell(self, route: str, state: BreakerState, retry_after: float) -> None:
        for listener in (self.on_transition, *self._listeners):
            if listener is not None:
                listener(route, state, retry_after)

    def _arranged(self, order: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], tuple[Route, ...]]:
        kinds = list(product(get_args(Task), get_args(Tier)))
        known = {*get_args(Task), *get_args(Tier), *map("/".join, kinds)}
        for key, names in order.items():
            if key not in known:
                raise ConfigError(f"order: {key!r} is no task or tier; there is {', '.join(sorted(known))}")
            if isinstance(names, str) or (unknown := [name for name in names if name not in self._routes]):
                named = names if isinstance(names, str) else ", ".join(unknown)
                raise ConfigError(f"order[{key!r}] names {named}: give a list of names out of {', '.join(self._routes)}")
        arranged: dict[tuple[str, str], tuple[Route, ...]] = {}
        for task, tier in kinds:
            first = next((order[key] for key in (f"{task}/{tier}", task, tier) if key in order), None)
            names = self._suited(task) if first is None else [*first, *self._routes]
            arranged[task, tier] = tuple(self._routes[name] for name in dict.fromkeys(names))
        return arranged

    def _suited(self, task: str) -> list[str]:
        """Return the routes' names; of those that say what they suit, those that suit the task take the first places."""
        telling = sorted((route for route in self._routes.values() if route.suits), key=lambda route: route.suits != task)
        places = iter(telling)
        return [(next(places) if route.suits else route).name for route in self._routes.values()]


async def _reaped(asked: Mapping[asyncio.Task[Completion], tuple[Route, list[Call]]], rows: list[Call]) -> None:
    """Cut off who is still asked; what that took is a row now, or when it has come to an end."""
    for task in asked:
        task.cancel()
    if asked:
        await asyncio.wait(asked, timeout=_REAP_S)
    for task, (_, mine) in asked.items():
        if task.done():
            rows.extend(mine)
        else:  # nobody waits for a route that is slow to let go
            task.add_done_callback(partial(_late, mine))


def _late(rows: list[Call], task: asyncio.Task[Completion]) -> None:
    if not task.cancelled():
        task.exception()  # seen, so that nobody complains that it was not
    for row in rows:
        record(row)


def _setting(what: str, given: Any, route: str, default: Any) -> Any:
    """Return a setting for one route: a number for all, or a mapping by name."""
    value = given.get(route, default) if isinstance(given, Mapping) else given
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{what} must be a number, or numbers by the names of routes, not {value!r}")
    return value


def _with_mistake(prompt: Prompt, error: InvalidOutput) -> Prompt:
    shown = {"your_previous_answer": error.text[:_SHOWN], "what_was_wrong": str(error)[:_SHOWN]}
    return replace(prompt, inputs={**prompt.inputs, **shown})


def _require_prices(llm: LLM) -> None:
    if isinstance(llm, Router):
        if llm.budget is None:
            raise ConfigError(f"route {llm.name!r} is a router without a budget: share one, budget=Budget(...), between both")
    elif not isinstance(llm, Priced):
        raise ConfigError(f"route {llm.name!r} has no prices, so no budget can hold: give it worst_case_usd(prompt)")
