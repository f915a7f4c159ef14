"""One route in a router: the way to a language model, with its breaker, its slots, its deadline, and what it may spend."""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from agentfund.core.breaker import CircuitBreaker, Result
from agentfund.core.deadline import DeadlineExceeded, within
from agentfund.core.ledger import ZERO, add, calls
from agentfund.errors import (
    AgentFundError,
    BadCredentials,
    BadRequest,
    BudgetExceeded,
    CassetteMiss,
    CircuitOpen,
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
from agentfund.prompt import Completion, Prompt
from agentfund.protocols import LLM, Priced, language_model
from agentfund.secrets import any_secret, holds_secret, scrub

if TYPE_CHECKING:
    from agentfund.core.budget import Budget, Reservation
    from agentfund.protocols import Clock

_log = logging.getLogger("agentfund")

pure: ContextVar[frozenset[str] | None] = ContextVar("pure", default=None)
"""Set while the past is replayed: routes that put facts of their own into prompts are not asked, but for those named."""

mute: ContextVar[bool] = ContextVar("mute", default=False)
"""Set while a run is rehearsed: nobody is asked but those who rehearse."""

_NOT_SENT = (BudgetExceeded, CassetteMiss, LLMUnavailable)
_NOT_BILLED = (*_NOT_SENT, RateLimited, UsageCapped, Overloaded, BadCredentials, BadRequest)
_NEUTRAL = (*_NOT_SENT, RateLimited, UsageCapped, BadCredentials, BadRequest, Refused, InvalidOutput, CircuitOpen)
_PAUSE_S = 10.0
_LONGEST_CAP_S = 35 * 86_400.0  # no plan or spend limit lasts longer than a month
_LONG_TOKEN = re.compile(r"[\w+/=.%~-]{20,}")


class Route:
    """One way to a language model, with what guards it and what was counted.

    Args:
        llm: the way.
        breaker: opens when it keeps failing.
        budget: what may be spent; None where nothing is limited.
        concurrency: most calls under way at once in one event loop.
        deadline_s: seconds that a call may take; waiting for a free slot does not count.
        cap_s: longest rest after a rate limit, and the rest after a usage cap of unknown end.
        clock: where the time comes from.
    """

    def __init__(
        self,
        llm: LLM,
        breaker: CircuitBreaker,
        *,
        budget: Budget | None,
        concurrency: int,
        deadline_s: float,
        cap_s: float,
        clock: Clock,
    ) -> None:
        self.llm = llm
        self.name = breaker.name
        self.breaker = breaker
        self.concurrency = concurrency
        told = getattr(llm, "adds", "")
        self.adds = told if isinstance(told, str) else ""
        self.worst_case = llm.worst_case_usd if isinstance(llm, Priced) else None
        self.calls = 0
        self.failures = 0
        self.disabled = ""
        self.trouble = ""
        self._budget = budget
        self._deadline_s = deadline_s
        self._cap_s = cap_s
        self._clock = clock
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    @property
    def suits(self) -> str:
        """The task that it is best for, empty where it does not say."""
        told = getattr(self.llm, "suits", "")
        return told if isinstance(told, str) else ""

    async def attempt(self, prompt: Prompt, rows: list[Call], *, repair: bool = False) -> Completion:
        """Ask once; return the answer, parsed. Every attempt leaves a row, whatever becomes of it.

        Raises:
            CircuitOpen: the breaker refuses; nothing was sent.
            LLMError: no usable answer.
        """
        if mute.get() and not getattr(self.llm, "rehearses", False):
            raise LLMUnavailable("a rehearsal asks nobody")
        async with self._slot():  # first the queue, then the breaker: those who waited see what the others met
            permit = self.breaker.acquire()
            self.calls += 1
            held: Reservation | None = None
            got: Completion | None = None
            outcome, waited, lost = "ok", 0.0, False
            result: Result = "ok"
            inside: list[Call] = []
            outer = calls.set(inside)  # what a router inside records
            began = self._clock.monotonic()
            try:
                held = self._reserve(prompt)
                got = await self._ask(prompt)
                if got.answer is None:
                    got = replace(got, answer=prompt.parse(got.text))
                if self.adds or got.adds:
                    got = replace(got, adds=self.adds or got.adds)
                    if not _is_pure(got):
                        raise CassetteMiss(f"the recorded answer is by {got.route}, which puts {got.adds} into every prompt")
                if any_secret() and holds_secret(got.text, str(got.answer)):
                    raise InvalidOutput("the answer holds a key or a token, so it goes no further")
                return got
            except BaseException as error:
                outcome, result = outcome_of(error), "neutral"
                got = got or _completion(error)
                lost = got is None and not isinstance(error, _NOT_BILLED)
                waited = 0.0 if isinstance(error, _NOT_SENT) else self._clock.monotonic() - began
                result = self._judge(error)
                raise
            finally:
                self.breaker.report(permit, result)
                self.failures += outcome not in ("ok", "Cancelled")
                if not inside:  # else a router inside has written the rows of its attempts already
                    if got is None:
                        lost_usd = self._lost(prompt, held) if lost else ZERO
                        got = Completion("", self.name, _llm(self.llm, prompt), billed_usd=lost_usd, latency_s=waited)
                    inside.append(_row(prompt, outcome, got, repair))
                rows.extend(inside)
                if held is not None:
                    self._settle(held, add(row.billed_usd for row in inside))
                with suppress(ValueError):  # the collector ends an abandoned call in a context of its own
                    calls.reset(outer)

    def _slot(self) -> asyncio.Semaphore:
        """The concurrency limit of the running loop: a semaphore cannot outlive the loop in which tasks wait for it."""
        loop = asyncio.get_running_loop()
        found = self._slots.get(loop)
        if found is None:
            found = self._slots[loop] = asyncio.Semaphore(self.concurrency)
        return found

    async def _ask(self, prompt: Prompt) -> Completion:
        try:
            completion = await within(self._deadline_s, self.llm.complete(prompt))
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

    def _judge(self, error: BaseException) -> Result:
        if isinstance(error, RateLimited):
            wait = error.retry_after or _PAUSE_S
            self.breaker.open_for(min(wait, self._cap_s) if wait > 0 else _PAUSE_S)
        elif isinstance(error, UsageCapped):
            named = error.until is not None and error.until.tzinfo is not None  # a naive time names no moment
            wait = (error.until - self._clock.now()).total_seconds() if error.until and named else self._cap_s
            self.breaker.open_for(min(max(wait, _PAUSE_S), _LONGEST_CAP_S))
        elif isinstance(error, BadCredentials):
            self.breaker.disable()
            if not self.disabled:
                self.disabled = f"switched off, {told(error)}"
                _log.error("route %s is switched off: %s; fix the key or the login, then enable it", self.name, told(error))
        failed = isinstance(error, Exception) and not isinstance(error, _NEUTRAL)
        if failed or isinstance(error, RateLimited | UsageCapped):
            self.trouble = told(error)
        return "failure" if failed else "neutral"

    def why(self, error: BaseException) -> str:
        """Return why it did not answer; where it rests, also what it rests from."""
        if self.disabled:
            return self.disabled
        rests = isinstance(error, CircuitOpen) and self.trouble
        return f"{told(error)}, after {self.trouble}" if rests else told(error)

    def _reserve(self, prompt: Prompt) -> Reservation | None:
        if self._budget is None or self.worst_case is None:  # a router inside looks after its own budget
            return None
        inside = getattr(self.llm, "budgets", None)  # so does one behind a recording
        if callable(inside) and inside():
            return None
        try:
            worst_case = self.worst_case(prompt)
        except Exception as error:
            raise BudgetExceeded(f"what the call can cost is not known: {told(error)}") from error
        return self._budget.reserve(worst_case)

    def _settle(self, held: Reservation, billed: Decimal) -> None:
        assert self._budget is not None
        self._budget.settle(held, billed)
        if billed > held.worst_case:
            _log.warning(
                "route %s billed %s USD for a call that should cost %s USD at most: its prices are wrong, and the budget"
                " cannot hold",
                self.name,
                billed,
                held.worst_case,
            )

    def _lost(self, prompt: Prompt, held: Reservation | None) -> Decimal:
        if held is not None:
            return held.worst_case
        try:
            worst_case = self.worst_case(prompt) if self.worst_case is not None else ZERO
        except Exception:
            return ZERO  # without a budget prices are not needed, so they may be missing
        return worst_case if _is_money(worst_case) else ZERO


def _is_pure(got: Completion) -> bool:
    insisted = pure.get()
    return insisted is None or got.route in insisted


def told(error: BaseException) -> str:
    """Return an error's type and at most 200 characters of it; no key is among them, nor what may be one."""
    try:
        text = scrub(str(error))
    except Exception:
        text = ""
    if not isinstance(error, AgentFundError):
        text = _LONG_TOKEN.sub("***", text)
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def outcome_of(error: BaseException) -> str:
    """Return what the ledger calls it."""
    return "Cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__name__


def _llm(llm: LLM, prompt: Prompt) -> str:
    """Return the language model's name for a row, whatever a route's own method does: the row must be written."""
    try:
        return language_model(llm, prompt)
    except Exception:
        return ""


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
