"""The event lane of the backtest: any agents, bar by bar, with nothing known before its time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Generator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentfund.backtest.report import Report
from agentfund.backtest.signals import wakes
from agentfund.backtest.trials import TrialLedger
from agentfund.core.session import closing
from agentfund.errors import ConfigError
from agentfund.protocols import History, Simulated
from agentfund.secrets import scrub
from agentfund.strategies import Strategy
from agentfund.trading import Mode

if TYPE_CHECKING:
    from agentfund.backtest.estimate import Estimate
    from agentfund.core.orchestrator import Orchestrator
    from agentfund.protocols import Broker, Feed

Progress = Callable[[int, int], None]
"""Called with (bars done, bars in all) now and then."""

EVERY = 512

_OURS = TrialLedger()
"""What this process has run, where no ledger was given."""

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
        through_outages: whether to go on where no language model answers, without its opinion. Otherwise the run waits for
            routes that rest, up to 100 seconds a question, and then stops with `LLMUnavailable`; run again, it carries on.
        trials: where runs are counted, so that the report can say how much of a result is luck: a ledger or its file. What
            this process has run is counted where it is left out.

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
        through_outages: bool = False,
        trials: TrialLedger | str | Path | None = None,
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
        self.through_outages = through_outages
        ours = _OURS if trials is None else trials  # a ledger that is still empty is a ledger
        self.trials = TrialLedger(ours) if isinstance(ours, (str, Path)) else ours

    def run(self) -> Report:
        """Run to the end and return the report; works where an event loop is running already, too."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._run())
        result: list[Any] = []
        under_way: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

        async def main() -> Report:
            task = asyncio.current_task()
            assert task is not None
            under_way.append((asyncio.get_running_loop(), task))
            return await self._run()

        def apart() -> None:
            try:
                result.append(asyncio.run(main()))
            except BaseException as error:  # handed over to the caller's thread
                result.append(error)

        thread = threading.Thread(target=apart, name="backtest")
        thread.start()
        try:
            thread.join()
        except BaseException:  # Ctrl-C in a notebook: the run must not go on, and spend, without anybody
            for loop, task in under_way:
                with suppress(RuntimeError):  # it ended by itself just now
                    loop.call_soon_threadsafe(task.cancel)
            thread.join()
            raise
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

            try:
                told = await estimated(self.fund, self.feed, self.broker, insist=self.insist)
            except Exception as error:  # a warning that cannot be given must not stop the run
                _log.warning("what this backtest will cost cannot be estimated: %s", scrub(f"{type(error).__name__}: {error}"))
                return
            for sentence in told.over_budget:
                _log.warning("this backtest would pass a budget and go on without language models: %s", sentence)

    async def _run(self) -> Report:
        await self._warn()
        for each in self.fund.pipeline.before:
            if isinstance(each.agent, Strategy):
                each.agent.restart()
        session = self.fund.session(
            self.feed,
            self.broker,
            mode=Mode.AUTONOMOUS,
            sync=False,
            ahead=self.ahead,
            insist=self.insist,
            through_outages=self.through_outages,
            due=wakes([agent.agent for agent in self.fund.pipeline.before], self.history.columns),
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
        report = Report.of(messages, self.history, trials=self.trials)
        if report.log.ended is not None:
            self.trials.add(report.trial)
        return report
