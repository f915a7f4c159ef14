"""A recorded run with something changed: who is asked, what comes out otherwise, and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from agentfund import (
    Agent,
    Approval,
    Backtest,
    Consensus,
    Costs,
    Direction,
    Limits,
    MemoryBus,
    Orchestrator,
    PaperBroker,
    Proposal,
    Router,
    SafetyLimits,
    Sizing,
    Verdict,
)
from agentfund.backtest import Report
from agentfund.core.gate import CHECKS
from agentfund.errors import ConfigError, LLMUnavailable
from agentfund.feeds import SimulatedMarket
from agentfund.llms import ScriptedLLM
from agentfund.replays.answers import Ask
from agentfund.replays.causes import LIMIT_OF
from agentfund.replays.counterfactual import counterfactual
from agentfund.replays.recorded import Recorded
from agentfund.specialists import RiskGate, desk
from agentfund.strategies import SmaCross
from tests.replays.making import (
    ASKED,
    Gate,
    Mood,
    Stricter,
    Trader,
    Watcher,
    crew,
    market,
    messages_of,
    plain,
    recorded,
    run,
)


class Picky(RiskGate):
    """The desk's risk gate, which refuses on odd bars."""

    def rule(self, context: Any) -> Verdict:
        ASKED[self.name] += 1
        return Verdict(approved=False, reason="it is odd") if context.state.cycle % 2 else super().rule(context)


async def test_one_changed_gate_is_asked_and_nobody_else() -> None:
    """Over a run of more than 1,000 bars; the log answers for the others, and says where the runs part and why."""
    was, feed = await recorded(1_200)
    found = await counterfactual(was, crew(Stricter(name="gate")), feed)
    decisions = found.diff.recorded.decisions
    assert {"gate": found.tally.asked["gate"]} == ASKED
    assert 20 < ASKED["gate"] <= decisions
    assert set(found.tally.asked) == {"gate"}
    assert found.diff.recorded.outcomes["ordered"] > found.diff.replayed.outcomes["ordered"]
    assert found.diff.first is not None
    assert found.diff.first.what == "decision"
    assert "gate says otherwise: approves (it looked at the drawdown); in the rerun vetoes" in found.diff.first.cause
    assert found.diff.first.recorded.startswith("ordered by consensus: sell ")
    assert found.diff.first.replayed == "vetoed by gate: it counts bars"
    assert found.book_since > found.diff.first.cycle
    assert min(found.tally.since["stands"].values()) >= found.diff.first.cycle


async def test_nothing_changed_changes_nothing() -> None:
    """Nobody is asked, no opinion is missing, and every figure is the same."""
    was, feed = await recorded(600)
    found = await counterfactual(was, crew(), feed)
    assert not ASKED
    assert not found.diff.changes
    assert found.diff.recorded == found.diff.replayed
    assert found.diff.equity_since is None
    assert (found.tally.stands, found.tally.missing, found.book_since) == ({}, {}, 0)
    assert "Nothing differs" in str(found)


@pytest.mark.parametrize("who", ["a rare watcher", "rules behind gates", "rules alone"])
async def test_agents_that_act_rarely_see_what_they_saw(who: str) -> None:
    """An opinion that stays in force is no other one; what was not asked then is not asked now."""
    makes: dict[str, Callable[[], list[Any]]] = {
        "a rare watcher": lambda: rare(crew()),
        "rules behind gates": lambda: led(Gate()),
        "rules alone": lambda: [SmaCross()],
    }
    make = makes[who]
    feed = market(400)
    was = await Recorded.read(await run(make(), feed))
    asks: tuple[Ask, ...] = ("changed", "affected")
    for ask in asks:
        found = await counterfactual(was, make(), feed, ask=ask)
        assert not found.diff.changes
        assert (found.tally.stands, found.tally.missing, found.tally.affected) == ({}, {}, {})
    assert found.diff.recorded.orders > 3


async def test_the_figures_are_those_of_a_report() -> None:
    """Of the recorded run and of the rerun, whose log can be kept."""
    was, feed = await recorded(400)
    before = Report.of([message async for message in was.stream()], feed)
    found = await counterfactual(was, crew(Stricter(name="gate")), feed, keep=True)
    after = Report.of(found.messages, feed)
    for figures, report in ((found.diff.recorded, before), (found.diff.replayed, after)):
        assert figures.equity == report.final_equity.quantize(Decimal("0.01"))
        assert (figures.orders, figures.fills) == (report.orders, len(report.executions))
        assert figures.trips == sum(trip.closed is not None for trip in report.round_trips)
        assert figures.max_drawdown_pct == pytest.approx(report.max_drawdown * 100)
    assert found.diff.frame["replayed"].iloc[-1] == pytest.approx(float(after.final_equity))


def rare(agents: list[Any]) -> list[Any]:
    agents[0].every = 4
    return agents


def led(gate: Gate, fast: int = 20) -> list[Any]:
    return crew(SmaCross(name="trader", fast=fast), gate)


def picky() -> list[Any]:
    return [Picky(name="risk_gate") if agent.name == "risk_gate" else agent for agent in desk()]


LAWS: dict[str, tuple[Any, Any, Any]] = {
    "a gate": (crew, lambda: crew(Stricter(name="gate")), dict),
    "a gate that is asked rarely": (lambda: rare(crew()), lambda: rare(crew(Stricter(name="gate"))), dict),
    "a gate of the desk": (desk, picky, dict),
    "a gate behind rules": (lambda: led(Gate()), lambda: led(Stricter(name="gate")), dict),
    "rules": (lambda: led(Gate()), lambda: led(Gate(), fast=5), dict),
    "an agent less": (crew, lambda: [agent for agent in crew() if agent.name != "second"], lambda: {"sizing": Sizing(0.7)}),
    "limits": (crew, crew, lambda: {"limits": Limits(max_order_pct=60)}),
    "sizes": (crew, crew, lambda: {"sizing": Sizing(risk_pct=0.3)}),
    "consensus": (crew, lambda: crew(Stricter(name="second")), lambda: {"consensus": Consensus(action=0.5)}),
    "costs": (crew, crew, lambda: {"broker": PaperBroker(costs=Costs(commission_bps=20))}),
    "limits of rules alone": (lambda: [SmaCross()], lambda: [SmaCross()], lambda: {"limits": Limits(max_order_pct=50)}),
}


@pytest.mark.parametrize("law", LAWS)
async def test_with_everybody_asked_whom_it_concerns_it_is_the_run_that_would_have_been(law: str) -> None:
    """Message for message: the log of a backtest with the change in it from the beginning."""
    before, after, options = LAWS[law]
    feed = SimulatedMarket("SIM", bars=1_400, seed=5) if before is desk else market(400)
    was = await Recorded.read(await run(before(), feed))
    found = await counterfactual(was, after(), feed, ask="affected", keep=True, **options())
    given = options()
    to = given.pop("broker", None)
    would = await messages_of(await run(after(), feed, to=to, **given))
    assert found.diff.changes
    assert plain(found.messages) == plain(would)


async def test_tighter_limits_make_fewer_orders_and_the_gates_code_is_named() -> None:
    """Nobody is asked; the cause is the limit, with both values."""
    was, feed = await recorded()
    found = await counterfactual(was, crew(), feed, limits=Limits(max_order_pct=60))
    assert not ASKED
    assert found.diff.replayed.orders < found.diff.recorded.orders
    assert found.diff.replayed.codes["order_size"] > 0
    assert found.diff.first is not None
    assert found.diff.first.cause == "the gate's order_size: limits.max_order_pct is 60 instead of 100"
    assert found.what_changed == ("limits.max_order_pct 100 -> 60",)
    assert "order_size" in str(found)


async def test_other_sizes_and_costs_are_named() -> None:
    """Sizes change orders, costs change fills."""
    was, feed = await recorded()
    sized = (await counterfactual(was, crew(), feed, sizing=Sizing(risk_pct=0.2))).diff
    assert sized.first is not None
    assert sized.first.cause == "sizing.risk_pct is 0.2 instead of 1"
    assert sized.recorded.decisions == sized.replayed.decisions
    found = await counterfactual(was, crew(), feed, broker=PaperBroker(costs=Costs(commission_bps=30)))
    assert found.diff.first is not None
    assert (found.diff.first.what, found.diff.first.cause) == ("fill", "the broker is another one")
    assert found.diff.replayed.costs > found.diff.recorded.costs
    assert "commission 30 bps" in found.broker


async def test_tighter_bounds_hold_for_recorded_opinions_too() -> None:
    """What an agent said passes its safety wrapper again, without asking it."""
    was, feed = await recorded()
    found = await counterfactual(was, crew(), feed, safety=SafetyLimits(bounds={"stop_pct": (3.0, 15.0)}))
    assert not ASKED
    assert found.diff.first is not None
    assert "trader says otherwise" in found.diff.first.cause
    assert "stop_pct 3.0" in found.diff.first.cause


async def test_an_agent_after_the_changed_one_keeps_its_word_or_is_asked_as_one_wishes() -> None:
    """A gate that reads a mood which is another now: its recorded word stands, and that is counted."""

    class Gloomy(Watcher):
        def rule(self, context: Any) -> Mood:
            ASKED[self.name] += 1
            return Mood(good=False)

    was, feed = await recorded()
    kept = await counterfactual(was, crew(Gloomy(name="watcher")), feed)
    assert set(ASKED) == {"watcher"}
    assert kept.tally.stands["trader"] > 0
    assert kept.tally.stands["second"] > 0
    assert not kept.diff.changes  # nobody else was asked, so nothing followed from it
    ASKED.clear()
    asked = await counterfactual(was, crew(Gloomy(name="watcher")), feed, ask="affected")
    assert set(ASKED) == {"watcher", "trader"}
    assert asked.tally.affected["trader"] > 0
    assert asked.diff.replayed.orders == 0


async def test_an_agent_that_was_not_asked_then_abstains_or_is_asked_as_one_wishes() -> None:
    """A proposal where the recorded run had none finds gates without a word."""

    class Eager(Trader):
        def rule(self, context: Any) -> Any:
            ASKED[self.name] += 1
            return super().rule(context) if context.state.cycle != 5 else BUY

    was, feed = await recorded()
    alone = await counterfactual(was, crew(Eager(name="trader")), feed)
    assert alone.tally.missing == {"gate": 1, "second": 1}
    assert alone.tally.since["missing"] == {"gate": 5, "second": 5}
    assert alone.diff.first is not None
    assert alone.diff.first.cycle == 5
    assert alone.diff.first.replayed.startswith("vetoed by gate")
    together = await counterfactual(was, crew(Eager(name="trader")), feed, ask="affected")
    assert not together.tally.missing
    assert together.diff.first is not None
    assert together.diff.first.replayed.startswith("ordered by consensus: buy")


BUY = Proposal(direction=Direction.LONG, stop_pct=1.0, target_pct=2.0)


async def test_an_agent_may_be_added_removed_or_renamed() -> None:
    """An added one is asked, a removed one has no say, a renamed one may be told to be the same."""
    was, feed = await recorded()
    added = await counterfactual(was, [*crew(), Stricter(name="third")], feed)
    assert set(added.tally.asked) == {"third"}
    assert added.what_changed == ("third: it was not in the recorded run",)
    assert any("third, which was not asked then: vetoes" in change.cause for change in added.diff.changes)

    removed = await counterfactual(was, [agent for agent in crew() if agent.name != "second"], feed)
    assert not removed.tally.asked
    assert removed.what_changed == ("second is not there any more",)

    named = crew(Gate(name="judge"))
    renamed = [agent for agent in named if agent.name != "gate"]
    new = await counterfactual(was, renamed, feed)
    assert set(new.tally.asked) == {"judge"}
    ASKED.clear()
    same = await counterfactual(was, renamed, feed, unchanged={"judge": "gate"})
    assert not ASKED
    assert same.diff.recorded.orders == same.diff.replayed.orders


async def test_a_window_begins_with_the_book_as_it_was() -> None:
    """Before it the log is believed; in it the changed gate is asked, as if it had come in at that bar."""
    was, feed = await recorded()

    class From150(Stricter):
        def rule(self, context: Any) -> Verdict:
            return super().rule(context) if context.state.cycle >= 150 else Gate.rule(self, context)

    found = await counterfactual(was, crew(Stricter(name="gate")), feed, window=(150, 250), keep=True)
    asked = ASKED["gate"]
    whole = await counterfactual(was, crew(From150(name="gate")), feed, keep=True)
    upto = [message for message in whole.messages if message.cycle <= 250]
    assert plain(found.messages) == plain(upto)
    assert 0 < asked < whole.tally.asked["gate"]
    assert found.diff.first is not None
    assert found.diff.first.cycle >= 150
    assert (found.first, found.last) == (150, 250)
    assert len(found.diff.ends) == 101
    before = Report.of([message async for message in was.stream()], feed)
    assert found.diff.equity[0] == pytest.approx(before.curve.equity[149:250])
    assert float(found.diff.recorded.profit) == pytest.approx(before.curve.equity[249] - before.curve.equity[148], abs=0.02)
    old, new = (frame.iloc[-1] for frame in (found.diff.frame["recorded"], found.diff.frame["replayed"]))
    assert float(found.diff.recorded.profit - found.diff.replayed.profit) == pytest.approx(old - new, abs=0.02)


@pytest.mark.parametrize("first", [1, 2, 3, 77, 151, 152, 153, 300])
async def test_a_window_in_which_nothing_is_changed_changes_nothing(first: int) -> None:
    """Wherever it begins: with a position, with an order on its way, before anything happened."""
    was, feed = await recorded()
    found = await counterfactual(was, crew(), feed, window=(first, None))
    assert not found.diff.changes
    assert found.book_since == 0
    assert not ASKED


def moody(price: str = "0.02") -> Router:
    """Return a language model that likes two bars of three."""
    return Router([ScriptedLLM([Mood(good=bool(n % 3)) for n in range(200)], price_usd=price)], budget_usd_per_run="4")


async def test_calls_that_are_made_and_avoided_are_counted_with_their_money() -> None:
    """A router that is another one is asked only where one says so."""
    feed = market(120)
    was = await Recorded.read(await run(crew(Watcher(moody())), feed))
    other = ScriptedLLM([Mood(good=True)] * 200, name="other", price_usd="0.03")
    routed = crew(Watcher(Router([other], budget_usd_per_run="4")))
    found = await counterfactual(was, routed, feed, limits=Limits(max_order_pct=50))
    assert other.prompts == []
    assert (found.tally.made.calls, found.tally.avoided.calls) == (0, 120)
    assert found.tally.avoided.billed_usd == Decimal("2.40")
    assert any("watcher is not asked, although who answers differs" in remark for remark in found.remarks)
    again = await counterfactual(was, routed, feed, changed={"watcher"})
    assert len(other.prompts) == 120
    assert (again.tally.made.calls, again.tally.avoided.calls) == (120, 0)
    assert again.tally.made.billed_usd == Decimal("3.60")
    assert "120 calls to language models made, 3.6000 USD billed" in str(again)


async def test_what_was_spent_before_a_window_is_not_spent_again() -> None:
    """A budget holds what the rerun spends, whatever the recorded run has spent."""
    feed = market(120)
    was = await Recorded.read(await run(crew(Watcher(moody())), feed))
    small = Router([ScriptedLLM([Mood(good=True)] * 200, price_usd="0.02")], budget_usd_per_run="0.50")
    found = await counterfactual(was, crew(Watcher(small)), feed, changed={"watcher"}, window=(101, None))
    assert found.tally.made.billed_usd == Decimal("0.40")
    assert found.tally.made.calls == 20


async def test_questions_of_the_recorded_run_count_against_the_rates_of_those_that_are_asked() -> None:
    """An agent that is asked again has no more room than it had then."""

    def pair(other: Router) -> list[Any]:
        return [Watcher(moody()), Watcher(other, name="second_watcher"), Trader(), Gate()]

    feed = market(40)
    was = await Recorded.read(await run(pair(moody()), feed, safety=SafetyLimits(fund_consultations_per_hour=6)))
    calls = [message.payload["call"]["agent"] async for message in was.stream() if message.type == "Called"]
    assert 0 < calls.count("second_watcher") < 40
    found = await counterfactual(was, pair(moody()), feed, changed={"second_watcher"})
    assert found.tally.made.calls == calls.count("second_watcher")
    assert not found.diff.changes


async def test_a_rerun_stops_where_nobody_answers_unless_told_to_go_on() -> None:
    """As a backtest does."""
    feed = market(60)
    was = await Recorded.read(await run(crew(Watcher(moody())), feed))

    def mute() -> Router:
        return Router([ScriptedLLM([LLMUnavailable("it is down")] * 500)])

    with pytest.raises(LLMUnavailable, match="nobody answered watcher"):
        await counterfactual(was, crew(Watcher(mute())), feed, changed={"watcher"})
    found = await counterfactual(was, crew(Watcher(mute())), feed, changed={"watcher"}, through_outages=True)
    assert found.tally.asked == {"watcher": 60}


async def test_a_persons_word_holds_for_the_order_that_it_was_about() -> None:
    """A supervised run is rerun with its approvals; an order that nobody has seen is not sent."""
    feed = market()
    bus = MemoryBus()

    async def approve(request: Any) -> Approval:
        return Approval(request.decision.cycle % 2 == 0, request.order_hash, "Ada", "")

    fund = Orchestrator(crew(), bus=bus, mode="supervised", approver=approve)
    async for _ in fund.run(feed, PaperBroker()):
        pass
    was = await Recorded.read(bus)
    same = await counterfactual(was, crew(), feed)
    assert not same.diff.changes
    assert same.diff.recorded.outcomes["declined"] > 0
    other = await counterfactual(was, crew(), feed, sizing=Sizing(risk_pct=0.5))
    assert other.diff.replayed.orders == 0
    assert "no person has seen this order" in other.diff.changes[0].replayed


async def test_names_that_are_not_known_are_refused() -> None:
    """Each with what there is."""
    was, feed = await recorded(30)
    for options, words in (
        ({"changed": {"nobody"}}, "changed: the rerun has no agent 'nobody'; there is watcher"),
        ({"unchanged": {"nobody"}}, "unchanged: the rerun has no agent"),
        ({"unchanged": {"gate": "nobody"}}, "the recorded run had no agent 'nobody'"),
        ({"changed": {"gate"}, "unchanged": {"gate"}}, "both among changed"),
        ({"unchanged": {"gate": "second"}}, "two agents cannot both be"),
        ({"ask": "everybody"}, "there is changed, affected"),
        ({"window": (31, None)}, "lies beyond the run"),
    ):
        with pytest.raises(ConfigError, match=words):
            await counterfactual(was, crew(), feed, **options)


async def test_an_opinion_that_no_longer_fits_its_type_is_named() -> None:
    """With the way out."""
    was, feed = await recorded(30)

    class Other(Agent[Verdict]):
        """Gives another type."""

        def rule(self, context: Any) -> Verdict:
            return Verdict(approved=True, reason="")

    with pytest.raises(ConfigError, match="name 'watcher' in changed="):
        await counterfactual(was, [Other(name="watcher")], feed, unchanged={"watcher"})


async def test_a_rerun_can_be_told_and_shown() -> None:
    """As text, as JSON values, and as a page that loads nothing."""
    was, feed = await recorded()
    found = await counterfactual(was, crew(Stricter(name="gate")), feed)
    told = json.loads(json.dumps(found.to_json()))
    assert told["diff"]["counts"]["decision"] == found.diff.counts["decision"] > 0
    assert told["asked"] == {"gate": found.tally.asked["gate"]}
    page = found.html()
    assert "<polyline" in page
    assert "http" not in page
    assert "gate says otherwise" in page


def test_every_limit_behind_a_code_is_one() -> None:
    """And every code is the gate's."""
    assert set(LIMIT_OF.values()) <= set(Limits.__dataclass_fields__)
    assert {one.code for one in CHECKS if one.limits} == set(LIMIT_OF)


async def test_the_run_that_was_recorded_is_left_alone() -> None:
    """Nothing is written to its log."""
    feed = market()
    bus = await run(crew(), feed)
    before = [message.line() for message in await messages_of(bus)]
    await counterfactual(await Recorded.read(bus), crew(Stricter(name="gate")), feed, ask="affected")
    assert [message.line() for message in await messages_of(bus)] == before
    report = await Backtest(Orchestrator(crew(), bus=bus), feed, PaperBroker())
    assert report.log.ended is not None
