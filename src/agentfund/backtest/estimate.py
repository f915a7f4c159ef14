"""What a backtest will ask of language models and what that costs, before the first call."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, TypedDict, Unpack

from agentfund.backtest.expected import Estimate as Estimate
from agentfund.backtest.expected import Expected as Expected
from agentfund.backtest.rehearsal import BLOCKS, Counter, Sample, twin
from agentfund.backtest.tally import ANSWER_SHARE, BYTES_PER_TOKEN, RECORDED, Count, Tally, borne, passed, tight
from agentfund.backtest.text import count
from agentfund.brokers.paper import PaperBroker
from agentfund.buses.memory import MemoryBus
from agentfund.clock import SystemClock
from agentfund.core.ahead import foreseen
from agentfund.core.ledger import EXACT, ZERO
from agentfund.core.route import mute
from agentfund.core.router import Router
from agentfund.core.session import closing
from agentfund.errors import ConfigError
from agentfund.llms.prices import ADDED_TOKENS, Prices
from agentfund.llms.rules import Rules
from agentfund.messages import Called, Ended, Observed, Opined
from agentfund.protocols import History, Simulated
from agentfund.trading import Mode

if TYPE_CHECKING:
    from agentfund.core.orchestrator import Orchestrator
    from agentfund.core.pipeline import Pipeline
    from agentfund.protocols import Broker, Feed

BARS = 300
"""Most bars that are rehearsed, unless said otherwise."""

MOST_BARS = 60
"""Most bars of the second rehearsal, in which every agent is asked at every bar."""

SECONDS_PER_CALL = 5.0

_MICRO = Decimal("0.000001")


class Options(TypedDict, total=False):
    """What can be said about an estimate; see `estimate`."""

    bars: int
    insist: Collection[str]
    without: Collection[str]
    seconds_per_call: float
    output_tokens: int | None
    prices: Prices | None


def estimate(fund: Orchestrator, feed: Feed, broker: Broker | None = None, **options: Unpack[Options]) -> Estimate:
    """Say what a backtest will ask of language models, what that costs, and whether a budget would stop it.

    Nobody is asked: the pipeline is rehearsed with each agent's rule twin in the language model's place, and a few bars
    once more with answers made up, so that every agent is asked at every bar: the most that a run can take. What a fund
    has on its log already is not counted. An agent that asks a router by itself is not answered, and a note says so;
    what it asks without a router is really asked.

    Args:
        fund: agents, limits and log.
        feed: history.
        broker: one like it is used; `PaperBroker()` where it is not given.
        **options: `bars`: most bars to rehearse; of a longer history a sample is taken. `insist`: as in `Backtest`.
            `without`: names of routes that cannot be used here; `await route.check()` tells. `seconds_per_call`: how long a
            call takes. `output_tokens`: tokens of an answer, thinking included, where they are known better than by the rule
            of thumb. `prices`: list prices, for routes that bring none of their own.

    Raises:
        ConfigError: the feed is not history, or a number cannot be.
    """
    work = estimated(fund, feed, broker, **options)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as apart:  # a notebook's loop is running already
        return apart.submit(asyncio.run, work).result()


async def estimated(
    fund: Orchestrator,
    feed: Feed,
    broker: Broker | None = None,
    *,
    bars: int = BARS,
    insist: Collection[str] = (),
    without: Collection[str] = (),
    seconds_per_call: float = SECONDS_PER_CALL,
    output_tokens: int | None = None,
    prices: Prices | None = None,
) -> Estimate:
    """Do as `estimate`, where an event loop is running."""
    if not isinstance(feed, History):
        raise ConfigError(f"an estimate needs a feed that holds its history, such as Bars; {type(feed).__name__} does not")
    if bars < 1 or not 0 < seconds_per_call < math.inf or (output_tokens is not None and output_tokens < 1):
        raise ConfigError(
            f"bars={bars}, seconds_per_call={seconds_per_call}, output_tokens={output_tokens}: all must be above zero"
        )
    insisted = None if getattr(feed, "simulated", False) else frozenset(insist)
    given = (insisted, output_tokens, prices or Prices(), now := SystemClock().now(), frozenset(without))
    tally, most = Tally(*given), Tally(*given, every=True)
    seen, spent = await _logged(fund)
    sample = Sample(feed, feed, bars, seen)
    if sample.taken and any(agent.llm or agent.answers_by == "function" for agent in fund.pipeline.agents):
        seen = await _rehearse(fund, sample, broker, tally, seen)
    part = Sample(feed, feed, min(bars, MOST_BARS), seen)
    if part.taken and tally.begun:
        await _rehearse(fund, part, broker, most, None)
        _told_of(fund.pipeline, tally, most)
    by, by_most = (Fraction(each.total, each.taken or 1) for each in (sample, part))
    lines = tuple(_lines(fund.pipeline, tally, by, most, by_most))
    bearing = tuple(borne(tally, by, most, by_most))
    hours = _seconds(fund.pipeline, lines, seconds_per_call) / 3600
    return Estimate(
        bars=sample.total,
        rehearsed=sample.taken,
        lines=lines,
        hours=hours,
        seconds_per_call=seconds_per_call,
        over_budget=tuple(told for one in bearing for told in passed(one, hours, now, spent)),
        notes=(
            *_notes(tally, most, sample, hours, seconds_per_call),
            *(told for one in bearing for told in tight(one, now, spent)),
        ),
    )


async def _logged(fund: Orchestrator) -> tuple[datetime | None, Decimal]:
    """Return how far a run has come by its log, and what it has spent."""
    seen, spent = None, ZERO
    async for message in fund.bus.read(fund.name):
        if message.type in (Observed.__name__, Ended.__name__):
            seen = message.time
        elif isinstance(event := message.event, Called):
            spent = EXACT.add(spent, event.call.billed_usd)
    return seen, spent


async def _rehearse(
    fund: Orchestrator, sample: Sample, broker: Broker | None, tally: Tally, settled: datetime | None
) -> datetime | None:
    """Run a fund's twin over a sample, and return up to where nobody is asked whose answer is not known."""
    bus = MemoryBus()
    double = twin(fund, bus, tally)
    paper = PaperBroker(broker.cash, costs=broker.costs) if isinstance(broker, Simulated) else PaperBroker()
    session = double.session(sample, paper, mode=Mode.AUTONOMOUS, sync=False, ahead=False)
    before = mute.set(True)
    try:
        async with closing(session.steps()) as steps:
            async for _ in steps:
                settled = settled if tally.begun else sample.latest().now
    finally:
        mute.reset(before)
    by_itself = False
    async for message in bus.read(fund.name):  # an agent's calls stand before its opinion
        if isinstance(event := message.event, Called):
            by_itself = by_itself or event.call.route != Counter.name
        elif isinstance(event, Opined):
            if by_itself:
                tally.lost[event.opinion.agent] = "it asks a language model by itself, which a rehearsal does not answer"
            by_itself = False
    return settled


def _told_of(pipeline: Pipeline, tally: Tally, most: Tally) -> None:
    """Take over what only the second rehearsal can tell: who cannot be counted, and who was reached by neither."""
    tally.lost.update({name: why for name, why in most.lost.items() if name not in tally.reached})
    for agent in pipeline.agents:
        asks = agent.llm is not None and not all(isinstance(route, Rules) for route in agent.llm.routes)
        if asks and agent.name not in {**tally.reached, **most.reached, **tally.lost}:
            tally.lost[agent.name] = "what it waits for was not given in the rehearsal"


def _lines(pipeline: Pipeline, tally: Tally, by: Fraction, most: Tally, by_most: Fraction) -> Iterator[Expected]:
    """Give what each agent takes; of one that was not reached it is what it takes when it is asked at every bar."""
    places = {agent.name: place for place, agent in enumerate(pipeline.agents)}
    for key in sorted({**tally.counts, **most.counts}, key=lambda key: (places[key[0]], *key)):
        least, upper = tally.counts.get(key, Count()).times(by), most.counts.get(key, Count()).times(by_most)
        one = (least if key[0] in tally.reached else upper).at_most(upper)
        yield Expected(
            *key,
            calls=one.calls,
            input_tokens=one.read,
            output_tokens=one.written,
            most_input_tokens=one.most_read,
            most_output_tokens=one.most_written,
            billed_usd=_rounded(one.billed),
            most_usd=_rounded(one.most),
            list_usd=_rounded(one.listed),
        )


def _rounded(amount: Decimal | None) -> Decimal | None:
    return None if amount is None else amount.quantize(_MICRO, context=EXACT)


def _seconds(pipeline: Pipeline, lines: Iterable[Expected], seconds: float) -> float:
    """Return how long the calls take.

    Agents that are asked ahead of time wait for nobody. The others wait, at each bar, for those that they read; of those
    that stand at the same depth the one with the most questions counts. No route is asked more at once than it may.
    """
    calls = dict.fromkeys((agent.name for agent in pipeline.agents), 0)
    for line in lines:
        calls[line.agent] += line.calls if line.route != RECORDED else 0
    ahead = {agent.name for agent in foreseen(pipeline)}
    depth: dict[str, int] = {}
    waves: dict[int, int] = {}
    busy: dict[int, float] = {}
    for agent in (*pipeline.before, *pipeline.after):
        waits = agent.llm is not None and agent.name not in ahead
        above = pipeline.givers(agent) if agent in pipeline.before else {one.name for one in pipeline.before}
        depth[agent.name] = max((depth[name] for name in above), default=0) + waits
        if waits:
            waves[depth[agent.name]] = max(waves.get(depth[agent.name], 0), calls[agent.name])
        if isinstance(agent.llm, Router):
            slots = agent.llm.concurrency(agent.task, agent.tier)
            busy[id(agent.llm)] = busy.get(id(agent.llm), 0.0) + calls[agent.name] / slots
    return max(sum(waves.values()), *busy.values(), 0.0) * seconds


def _notes(tally: Tally, most: Tally, sample: Sample, hours: float, seconds: float) -> Iterator[str]:
    for why in dict.fromkeys(tally.lost.values()):
        names = [name for name, reason in tally.lost.items() if reason == why]
        yield f"{_listed(names, 'is', 'are')} not counted, or not in full: {why}"
    if not tally.counts and not most.counts:
        return
    taken = f"all {sample.total:,} bars"
    if sample.taken < sample.total:
        taken = f"{sample.taken:,} of {sample.total:,} bars in {BLOCKS} places and scaled up"
    yield f"rehearsed over {taken}, each agent answering by its rule twin; a language model will decide otherwise"
    if missed := [name for name in most.reached if name not in {**tally.reached, **tally.lost}]:
        counted = "it is" if len(missed) == 1 else "they are"
        yield f"{_listed(missed, 'was', 'were')} not reached in the rehearsal, so {counted} counted at every bar"
    for name in tally.made_up:
        yield f"{name} has no rule twin and is taken to answer each time, so what waits for it is counted at most"
    answer = (
        f"1/{ANSWER_SHARE} of what an answer may have" if tally.output_tokens is None else f"{tally.output_tokens:,} a call"
    )
    yield f"tokens in: one for {BYTES_PER_TOKEN} bytes, nothing cached; tokens out: {answer}, thinking included"
    yield (
        "at most: every agent asked at every bar, whatever the others answer, with one token in for each byte and"
        f" {ADDED_TOKENS:,} more, and all tokens out that an answer may have; what is asked again after an invalid answer, or"
        " of another route, comes on top"
    )
    lasts = f"{hours:,.1f} hours" if hours >= 1 else count(math.ceil(hours * 60), "minute")
    yield f"about {lasts} at {seconds:g} s a call"


def _listed(names: Sequence[str], one: str, many: str) -> str:
    return f"{names[0]} {one}" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} {many}"
