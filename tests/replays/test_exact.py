"""An exact rerun writes the same log, and finds the very message where a log was changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentfund import (
    Backtest,
    Consensus,
    Costs,
    Limits,
    MemoryBus,
    Orchestrator,
    PaperBroker,
    Router,
    SafetyLimits,
    Sizing,
    SqliteBus,
)
from agentfund.core.safety import BOUNDS
from agentfund.errors import ConfigError
from agentfund.feeds import SimulatedMarket
from agentfund.llms import ScriptedLLM
from agentfund.replays.exact import exact
from agentfund.replays.recorded import Recorded
from agentfund.specialists import desk
from agentfund.strategies import SmaCross
from tests.replays.making import (
    ASKED,
    Gate,
    Mood,
    Stricter,
    Watcher,
    crew,
    market,
    messages_of,
    recorded,
    run,
    tampered,
)


@pytest.mark.parametrize("ask", ["rules", "nobody", "all"])
async def test_the_desk_makes_the_same_log_again(tmp_path: Path, ask: Any) -> None:
    """From a file, byte for byte, with orders, stops and targets in it; whoever is asked."""
    feed, bus = SimulatedMarket("SIM", bars=1400, seed=5), SqliteBus(tmp_path / "fund.db")
    report = await Backtest(Orchestrator(desk(), bus=bus), feed, PaperBroker())
    was = await Recorded.read(bus)
    found = await exact(was, desk(), feed, ask=ask)
    await bus.close()
    assert report.orders > 3
    assert found, found
    assert found.compared == was.messages
    assert found.remarks == ()
    assert bool(found.tally.asked) is (ask != "nobody")
    assert bool(found.tally.given) is (ask == "nobody")


async def test_every_message_is_compared() -> None:
    """The first and the last among them."""
    was, feed = await recorded()
    found = await exact(was, crew(), feed)
    assert found.identical
    assert found.compared == was.messages
    assert found.cycles == 300


def scripted() -> Router:
    """Return a language model that likes two bars of three."""
    return Router([ScriptedLLM([Mood(good=bool(n % 3)) for n in range(80)], price_usd="0.02")])


async def test_language_models_are_not_asked_again() -> None:
    """What they said is on the log, with what it cost; nobody pays twice."""
    feed, again = market(80), scripted()
    was = await Recorded.read(await run(crew(Watcher(scripted())), feed))
    found = await exact(was, crew(Watcher(again)), feed)
    assert found, found
    assert found.tally.given == {"watcher": 80}
    assert found.tally.avoided.calls == 80
    assert str(found.tally.avoided.billed_usd) == "1.60"
    assert found.tally.made.calls == 0
    assert again.status()[0]["calls"] == 0


async def test_a_language_model_that_is_asked_again_and_says_the_same_makes_the_same_log() -> None:
    """Calls and prices too, where one insists on asking."""
    feed = market(80)
    was = await Recorded.read(await run(crew(Watcher(scripted())), feed))
    found = await exact(was, crew(Watcher(scripted())), feed, ask="all")
    assert found, found
    assert found.tally.made.calls == 80


def index(kind: str, number: int = 3) -> Callable[[list[Any]], int]:
    """Return a function that finds the place of a message by its kind."""
    return lambda messages: [at for at, message in enumerate(messages) if message.type == kind][number]


CHANGES: dict[str, tuple[Callable[[list[Any]], int], dict[str, Any], str]] = {
    "a fill": (index("Filled"), {"fill__price": "1.23"}, "payload.fill.price"),
    "an order": (index("Intended"), {"order__quantity": "7"}, "payload.order.quantity"),
    "a decision": (index("Decided"), {"decision__reason": "because"}, "payload.decision.reason"),
    "an opinion": (index("Opined", 20), {"opinion__answered_by": "somebody"}, "payload.opinion.answered_by"),
    "marks": (index("Observed", 9), {"equity": "1.00"}, "payload.equity"),
    "the cash": (lambda messages: 0, {"cash": "5.00"}, "payload.digest"),
    "a limit": (lambda messages: 0, {"settings__limits__max_positions": 3}, "payload.settings.limits_digest"),
    "the end": (index("Ended", 0), {"bars": 3}, "payload.bars"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_log_that_was_changed_is_found_out(change: str) -> None:
    """The very message, its field and both values are named."""
    feed = market()
    messages = await messages_of(await run(crew(), feed))
    find, payload, field = CHANGES[change]
    at = find(messages)
    found = await exact(await Recorded.read(tampered(messages, at, **payload)), crew(), feed)
    assert not found
    assert found.difference is not None
    assert (found.difference.offset, found.difference.message) == (messages[at].offset, messages[at].type)
    assert found.difference.field == field
    assert str(found.difference.recorded) in str(found)


async def test_a_message_that_is_missing_is_found_out() -> None:
    """As is one that was put in."""
    feed = market()
    messages = await messages_of(await run(crew(), feed))
    at = index("Decided")(messages)
    without = await exact(await Recorded.read([*messages[:at], *messages[at + 1 :]]), crew(), feed)
    assert without.difference is not None
    assert without.difference.cycle == messages[at].cycle
    last = next(at for at in range(at, len(messages)) if messages[at + 1].cycle > messages[at].cycle)
    shorter = await exact(await Recorded.read([*messages[:last], *messages[last + 1 :]]), crew(), feed)
    assert shorter.difference is not None
    assert (shorter.difference.message, shorter.difference.rerun) == (messages[last].type, "the message")
    twice = [*messages[: at + 1], replace(messages[at], id="once more"), *messages[at + 1 :]]
    more = await exact(await Recorded.read(twice), crew(), feed)
    assert more.difference is not None
    assert more.difference.cycle == messages[at].cycle


async def test_what_no_rerun_can_write_is_left_out_and_said() -> None:
    """A call that nobody waited for any more, and a route that rested."""
    feed = market(80)
    messages = await messages_of(await run(crew(Watcher(scripted())), feed))
    at = index("Called", 9)(messages)
    lost = replace(messages[at], id="lost")
    rests = replace(lost, id="rests", type="Tripped", payload={"route": "x", "state": "open", "retry_after": 1.0}, _event=None)
    was = await Recorded.read([*messages[:at], lost, rests, *messages[at:]])
    found = await exact(was, crew(Watcher(scripted())), feed)
    assert found, found
    assert found.compared == len(messages)
    assert "1 calls that led to no opinion, 1 Tripped" in found.remarks[0]


async def test_an_opinion_from_the_log_is_believed_and_what_follows_from_it_is_not() -> None:
    """A gate's yes that was made a no does not fit the order after it."""
    feed = market()
    messages = await messages_of(await run(crew(), feed))
    yes = [at for at, m in enumerate(messages) if m.type == "Opined" and m.payload["opinion"]["agent"] == "gate"][4]
    found = await exact(
        await Recorded.read(tampered(messages, yes, opinion__value__approved=False)), crew(), feed, ask="nobody"
    )
    assert found.difference is not None
    assert found.difference.message == "Decided"
    assert found.difference.cycle == messages[yes].cycle


async def test_another_agent_is_found_before_anybody_is_asked() -> None:
    """By its description."""
    was, feed = await recorded(60)
    found = await exact(was, crew(Stricter(name="gate")), feed)
    assert found.difference is not None
    assert found.difference.field == "payload.agents[gate].class"
    assert not ASKED


async def test_an_agent_that_decides_otherwise_is_found_where_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code is the same, and what it depends on is not."""
    was, feed = await recorded()
    monkeypatch.setattr(Gate, "most", 0.01)
    found = await exact(was, crew(), feed)
    assert found.difference is not None
    assert found.difference.message in ("Opined", "Decided")
    assert found.difference.cycle > 1


async def test_a_window_is_compared_and_what_lies_before_it_is_believed() -> None:
    """Nobody is asked about it, and a change in it is not looked at."""
    feed = market()
    messages = await messages_of(await run(crew(), feed))
    early = index("Opined", 2)(messages)
    was = await Recorded.read(tampered(messages, early, opinion__answered_by="somebody"))
    found = await exact(was, crew(), feed, window=(150, 200))
    assert found, found
    assert found.cycles == 51
    assert 0 < found.compared < was.messages
    assert max(found.tally.asked.values()) <= 51
    assert not await exact(was, crew(), feed)


async def test_a_window_may_be_given_by_time() -> None:
    """From the first cycle at or after a moment to the last one at or before another."""
    was, feed = await recorded(100)
    closes = [message.time async for message in was.stream() if message.cycle in (40, 60)]
    found = await exact(was, crew(), feed, window=(min(closes), max(closes)))
    assert found.cycles == 21
    with pytest.raises(ConfigError, match="is empty or lies beyond"):
        await exact(was, crew(), feed, window=(60, 40))


async def test_a_run_that_was_killed_is_compared_as_far_as_it_came() -> None:
    """Its last cycle may be there in part."""
    feed = market()
    messages = await messages_of(await run(crew(), feed))
    for cut in (index("Decided", 5)(messages), index("Intended", 5)(messages), index("Observed", 30)(messages)):
        found = await exact(await Recorded.read(messages[: cut + 1]), crew(), feed)
        assert found, found
        assert found.compared == cut + 1


async def test_rule_strategies_that_slept_make_the_same_log_again() -> None:
    """A backtest does not ask them where they have nothing to say; a fund that is run by hand does."""
    feed = market(400)
    was = await Recorded.read(await run([SmaCross()], feed))
    assert await exact(was, [SmaCross()], feed)
    bus = MemoryBus()
    async for _ in Orchestrator([SmaCross()], bus=bus, mode="autonomous").run(feed, PaperBroker()):
        pass
    other = await Recorded.read(bus)
    assert await exact(other, [SmaCross()], feed)


async def test_agents_that_act_rarely_make_the_same_log_again() -> None:
    """With a schedule of their own."""

    def rare() -> list[Any]:
        watcher = Watcher()
        watcher.every = 4
        return crew(watcher)

    feed = market()
    was = await Recorded.read(await run(rare(), feed))
    for ask in ("rules", "nobody"):
        assert await exact(was, rare(), feed, ask=ask)


async def test_the_settings_of_a_run_are_read_from_its_log(tmp_path: Path) -> None:
    """Limits, sizes, consensus, bounds, costs and cash, each another than usual."""
    feed, bus = market(120), SqliteBus(tmp_path / "fund.db")
    options = {
        "limits": Limits(symbols=frozenset({"SIM", "OTHER"}), max_order_pct=70.5, allow_short=True),
        "sizing": Sizing(risk_pct=0.7),
        "consensus": Consensus(action=0.4),
        "safety": SafetyLimits(bounds={**BOUNDS, "stop_pct": (1.5, 9.0)}, time_limit_s=60),
    }
    broker = PaperBroker(54_321.5, costs=Costs(3, 1.25, 2.5, 0), max_volume_pct=5, max_leverage=1.5)
    await run(crew(), feed, bus, broker, **options)
    found = await exact(await Recorded.read(bus), crew(), feed)
    await bus.close()
    assert found, found
    assert found.remarks == ()


async def test_a_run_whose_settings_came_in_another_order_is_compared_under_its_own_name(tmp_path: Path) -> None:
    """A file sorts them; the run's name follows from the order in which they were given."""
    feed, bus = market(60), SqliteBus(tmp_path / "fund.db")
    bounds = {"zeal": (0.0, 1.0), **BOUNDS, "alarm": (0.0, 1.0)}
    await run(crew(), feed, bus, safety=SafetyLimits(bounds=bounds))
    found = await exact(await Recorded.read(bus), crew(), feed)
    await bus.close()
    assert found, found
    assert any("taken from the log" in remark for remark in found.remarks)


async def test_other_data_are_refused() -> None:
    """Both fingerprints are named."""
    was, feed = await recorded(60)
    other = market(60, seed=2)
    with pytest.raises(ConfigError) as refused:
        await exact(was, crew(), other)
    assert feed.fingerprint in str(refused.value)
    assert other.fingerprint in str(refused.value)


def test_what_an_exact_rerun_found_can_be_told() -> None:
    """As text and as JSON values."""
    was, feed = asyncio.run(recorded(60))
    found = asyncio.run(exact(was, crew(), feed))
    assert found.to_json()["identical"] is True
    assert "the same" in str(found)
