"""Questions that are in no hurry, collected into batches: half the price, an answer within a day."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

from agentfund.clock import SystemClock
from agentfund.errors import BudgetExceeded, ConfigError, LLMError
from agentfund.prompt import Completion, Prompt
from agentfund.protocols import Priced, language_model

if TYPE_CHECKING:
    from agentfund.protocols import Clock


class Many(Protocol):
    """A route that takes many questions at once: `Anthropic` and `OpenAI` do."""

    @property
    def name(self) -> str:
        """The route's name in ledgers."""
        ...

    async def complete_many(
        self, prompts: Sequence[Prompt], *, poll_s: float = ..., deadline_s: float = ...
    ) -> list[Completion | LLMError]:
        """Return an answer or an error for each question, in order."""
        ...


class Batched:
    """A route that collects what is asked within `gather_s` seconds into one batch of another route.

    It is for what can be asked ahead of time: the questions of a backtest, recorded by `RecordedLLM`, a nightly review. Ask
    many at once, and give a router around it the patience and the width: `Router([Batched(Anthropic())],
    deadline_s=86_400, concurrency=1000)`. An answer is that of the route itself, so recordings of one replay for the other.

    When all who wait for a batch have gone, it is cancelled.

    Args:
        route: the route that is asked.
        gather_s: seconds from the first question to the batch.
        most: so many questions are a batch at once, without waiting for more.
        poll_s: seconds between two looks at a batch.
        deadline_s: most seconds that a batch may take.
        name: its name in ledgers; None for the route's own.
        clock: where the time comes from.

    Raises:
        ConfigError: the route takes no batches, or a number makes no sense.
    """

    def __init__(
        self,
        route: Many,
        *,
        gather_s: float = 1.0,
        most: int = 1000,
        poll_s: float = 30.0,
        deadline_s: float = 86_400.0,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not callable(getattr(route, "complete_many", None)):
            raise ConfigError(f"{route.name} takes no batches: it has no complete_many; Anthropic and OpenAI do")
        if gather_s < 0 or most < 1 or poll_s <= 0 or deadline_s <= 0:
            raise ConfigError("gather_s must be from 0 up, most from 1 up, poll_s and deadline_s above 0")
        self.name = name or route.name
        self.suits: str = getattr(route, "suits", "")
        self.adds: str = getattr(route, "adds", "")
        self.settings: str = getattr(route, "settings", "")
        self._route = route
        self._gather_s = gather_s
        self._most = most
        self._poll_s = poll_s
        self._deadline_s = deadline_s
        self._clock = clock or SystemClock()
        self._open: WeakKeyDictionary[asyncio.AbstractEventLoop, _Group] = WeakKeyDictionary()

    def llm(self, prompt: Prompt) -> str:
        """Return the language model that a prompt goes to."""
        return language_model(self._route, prompt)

    async def check(self) -> str:
        """Return why it cannot be used here, with the fix; empty where it can."""
        check = getattr(self._route, "check", None)
        return str(await check()) if check is not None else ""

    def worst_case_usd(self, prompt: Prompt) -> Decimal:
        """Return the most that a prompt can be billed: what the route says, as if it were asked alone.

        Raises:
            BudgetExceeded: no price is known.
        """
        if not isinstance(self._route, Priced):
            raise BudgetExceeded(f"{self.name} has no prices: give it worst_case_usd(prompt)")
        return self._route.worst_case_usd(prompt)

    async def complete(self, prompt: Prompt) -> Completion:
        """Ask with others that come soon, and wait until the batch has ended.

        Raises:
            LLMError: no usable answer.
        """
        loop = asyncio.get_running_loop()
        group = self._open.get(loop)
        if group is None or group.full.is_set():
            group = self._open[loop] = _Group()
            group.task = loop.create_task(self._ask(group))
        place = group.join(prompt, self._most)
        try:
            answers = await asyncio.shield(group.task)
        except asyncio.CancelledError:
            await group.leave(place)
            raise
        answer = answers[place]
        if isinstance(answer, LLMError):
            if answer.completion is not None:
                answer.completion = replace(answer.completion, route=self.name)
            raise answer
        return replace(answer, route=self.name)

    async def _ask(self, group: _Group) -> dict[int, Completion | LLMError]:
        waiting = asyncio.ensure_future(self._clock.sleep(self._gather_s))
        full = asyncio.ensure_future(group.full.wait())
        try:
            await asyncio.wait((waiting, full), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            full.cancel()
        group.full.set()
        asked = dict(group.prompts)  # without those that have gone meanwhile
        answers = await self._route.complete_many(list(asked.values()), poll_s=self._poll_s, deadline_s=self._deadline_s)
        return dict(zip(asked, answers, strict=True))


@dataclass
class _Group:
    """Questions that go into one batch, by number, as long as somebody waits for their answer."""

    prompts: dict[int, Prompt] = field(default_factory=dict)
    full: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[dict[int, Completion | LLMError]] = field(init=False)
    joined: int = 0

    def join(self, prompt: Prompt, most: int) -> int:
        place, self.joined = self.joined, self.joined + 1
        self.prompts[place] = prompt
        if len(self.prompts) >= most:
            self.full.set()
        return place

    async def leave(self, place: int) -> None:
        del self.prompts[place]
        if not self.prompts and not self.task.done():
            self.full.set()  # nobody may join any more
            self.task.cancel()
            await asyncio.wait((self.task,))
