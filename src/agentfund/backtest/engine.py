"""The event lane of the backtest: any agents, bar by bar, with nothing known before its time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Generator
from typing import TYPE_CHECKING, Any

from agentfund.backtest.report import Report
from agentfund.core.session import closing
from agentfund.errors import ConfigError
from agentfund.protocols import History, Simulated
from agentfund.trading import Mode

if TYPE_CHECKING:
    from agentfund.backtest.estimate import Estimate
    from agentfund.core.orchestrator import Orchestrator
    from agentfund.protocols import Broker, Feed

Progress = Callable[[int, int], None]
"""Called with (bars done, bars in all) now and then."""

EVERY = 512

_log = logging.getLogger("agentfund")


class Backtest:
    """Runs a fund over history, as if it had acted: decided at the close of a bar, filled no earlier than the next open.

    The fund's own mode does not matter here: a backtest shows what it would do by itself, on a paper broker.
    `Backtest(...).run()` works in a script and in a notebook; `await Backtest(...)` works too. Started again on the same
    log it carries on where it was stopped.

    Args:
        fund: agents, limits and log.
        feed: history: all its bars are there.
        broker: a paper broker.
        progress: called now and then with (bars done, bars in all).
        ahead: whether agents that do not see the portfolio are asked about many bars at once; the result is the same.
        insist: names of routes that are asked although they put facts of their own, such as today's date, into prompts;
            otherwise such routes are not asked about real data.

    Raises:
        ConfigError: the feed is not history, or the broker is not simulated.
    """

    def __init__(
        self,
        fund: Orchestrator,
        feed: Feed,
        broker: Broker,
        *,
        progress: Progress | None = None,
        ahead: bool = True,
        insist: Collection[str] = (),
    ) -> None:
        if not isinstance(feed, History):
            raise ConfigError(f"a backtest needs a feed that holds its history, such as Bars; {type(feed).__name__} does not")
        if not isinstance(broker, Simulated):
            raise ConfigError(f"a backtest needs a simulated broker, such as PaperBroker; {type(broker).__name__} is not")
        self.fund = fund
        self.feed = feed
        self.history: History = feed
        self.broker = broker
        self.progress = progress
        self.ahead = ahead
        self.insist = insist

    def run(self) -> Report:
        """Run to the end and return the report; works where an event loop is running already, too."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._run())
        result: list[Any] = []

        def apart() -> None:
            try:
                result.append(asyncio.run(self._run()))
            except BaseException as error:  # handed over to the caller's thread
                result.append(error)

        thread = threading.Thread(target=apart, name="backtest")
        thread.start()
        thread.join()
        if isinstance(result[0], BaseException):
            raise result[0]
        report: Report = result[0]
        return report

    def __await__(self) -> Generator[Any, None, Report]:
        return self._run().__await__()

    def estimate(self, **options: Any) -> Estimate:
        """Say before the run what it will ask of language models and what that costs; see `agentfund.backtest.estimate`."""
        from agentfund.backtest.estimate import estimate

        return estimate(self.fund, self.feed, self.broker, insist=self.insist, **options)

    async def _warn(self) -> None:
        """Say before the first call which budget the run would pass."""
        if self.fund.pipeline.budgets:
            from agentfund.backtest.estimate import estimated

            told = await estimated(self.fund, self.feed, self.broker, insist=self.insist)
            for sentence in told.over_budget:
                _log.warning("this backtest would pass a budget and go on without language models: %s", sentence)

    async def _run(self) -> Report:
        await self._warn()
        session = self.fund.session(
            self.feed, self.broker, mode=Mode.AUTONOMOUS, sync=False, ahead=self.ahead, insist=self.insist
        )
        total = len({int(start) for columns in self.history.columns.values() for start in columns.start})
        seen = 0
        async with closing(session.steps()) as steps:
            async for _ in steps:
                seen += 1
                if seen % EVERY == 0:
                    if self.progress is not None:
                        self.progress(session.cycle, total)
                    await asyncio.sleep(0)  # lets a notebook's loop breathe, and Ctrl-C through
        if self.progress is not None:
            self.progress(total, total)
        messages = [message async for message in self.fund.bus.read(self.fund.name)]
        return Report.of(messages, self.history)
