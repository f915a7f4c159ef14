"""The decision desk: six role cards, each with a rule twin, so that the desk runs with and without a language model."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from agentfund.core.agent import Abstain, Agent
from agentfund.core.context import Snapshot
from agentfund.specialists.measures import atr_pct, rsi, trend, volatility_ratio
from agentfund.trading import Decision, Direction, Proposal, Record, Verdict, View

if TYPE_CHECKING:
    from agentfund.protocols import LLM

FRAMES = (1, 4, 16)
"""Time frames as multiples of the bar: with 15-minute bars M15, H1 and H4."""

WARM_UP = 40 * FRAMES[-1]


class Trend(StrEnum):
    """What kind of market it is."""

    STRONG_TRENDING_BULLISH = "STRONG_TRENDING_BULLISH"
    TRENDING_BULLISH = "TRENDING_BULLISH"
    RANGING = "RANGING"
    TRENDING_BEARISH = "TRENDING_BEARISH"
    STRONG_TRENDING_BEARISH = "STRONG_TRENDING_BEARISH"

    @property
    def direction(self) -> Direction:
        """The direction in which the market goes; flat when it ranges."""
        if self.value.endswith("BULLISH"):
            return Direction.LONG
        return Direction.SHORT if self.value.endswith("BEARISH") else Direction.FLAT


class Regime(Record):
    """The state of the market over several time frames."""

    trend: Trend
    volatility: Literal["low", "normal", "high"]


class JournalEntry(Record):
    """What happened and why, in plain English, for whoever reads it a year later."""

    text: str


class RegimeClassifier(Agent[Regime]):
    """Says what kind of market it is, from three time frames."""

    instructions = (
        "You classify the market regime of one instrument. You are shown a trend score for three time frames, in standard"
        " deviations, and recent volatility as a multiple of the usual one. Call a trend strong only when all time frames"
        " agree. Volatility is high above 1.5 times the usual, low below 0.6. Abstain when the numbers contradict each other"
        " too much to name a regime."
    )
    sees_portfolio = False
    tier = "middle"
    max_output_tokens = 4096

    def inputs(self, context: Snapshot) -> Mapping[str, Any]:
        """Return the trend score of each time frame, volatility, and the usual market numbers."""
        shown = context.as_inputs()
        close = context.bars.close
        if len(close) >= WARM_UP:
            shown["trend_scores"] = {f"{step}_bars": round(trend(close, step), 3) for step in FRAMES}
            shown["volatility_ratio"] = round(volatility_ratio(close), 3)
        return shown

    def rule(self, context: Snapshot) -> Regime | Abstain:
        """Count the time frames that trend."""
        close = context.bars.close
        if len(close) < WARM_UP:
            return Abstain(f"needs {WARM_UP} bars, has {len(close)}")
        scores = [trend(close, step) for step in FRAMES]
        up, down = sum(score > 0.5 for score in scores), sum(score < -0.5 for score in scores)
        if up == 3:
            kind = Trend.STRONG_TRENDING_BULLISH
        elif down == 3:
            kind = Trend.STRONG_TRENDING_BEARISH
        elif up == 2 and not down:
            kind = Trend.TRENDING_BULLISH
        elif down == 2 and not up:
            kind = Trend.TRENDING_BEARISH
        else:
            kind = Trend.RANGING
        ratio = volatility_ratio(close)
        return Regime(trend=kind, volatility="high" if ratio > 1.5 else "low" if ratio < 0.6 else "normal")


class Strategist(Agent[Proposal]):
    """Proposes trades for the regime, from the lower time frame and volume.

    Args:
        llm: the language model to ask; without one the rule answers.
        name: its name in the log.
        allow_short: whether the rule proposes short positions too; the gate must allow them as well.
        sees_portfolio: whether it is shown what is held. Where it is not, it says at each bar what the market asks for,
            and can be asked about many bars of a backtest at once.
    """

    instructions = (
        "You propose trades in one instrument for the regime that you are given. Propose long only in a bullish regime and"
        " short only in a bearish one, when the newest bars and their volume confirm it; propose flat to close a position"
        " whose regime has ended. Distances are percent of the price: stop_pct 0.5 to 15, target_pct at least 1.5 times the"
        " stop. position_scale 1.0 is the standard size; go below it when unsure. Sizes, prices and orders are not yours."
        " Most of the time there is no trade: then abstain and say why."
    )
    reads = (Regime,)
    tier = "strong"
    max_output_tokens = 8192

    def __init__(
        self,
        llm: LLM | None = None,
        *,
        name: str | None = None,
        allow_short: bool = False,
        sees_portfolio: bool = True,
    ) -> None:
        super().__init__(llm, name=name)
        self.allow_short = allow_short
        self.sees_portfolio = sees_portfolio  # type: ignore[misc]  # a class attribute of role cards, an argument here

    def rule(self, context: Snapshot) -> Proposal | Abstain:
        """Enter on a break of the last 20 bars' range with volume, in the direction of the regime; leave when it turns."""
        regime = context.latest(Regime)
        bars = context.bars
        wanted = regime.trend.direction
        held = context.portfolio.direction(bars.symbol) if self.sees_portfolio else Direction.FLAT
        if held is not Direction.FLAT:
            if wanted not in (held, Direction.FLAT):
                return Proposal(
                    direction=Direction.FLAT, thesis=f"{held} in a market that turned {regime.trend}", confidence=0.7
                )
            return Abstain("the position has its stop and its target")
        if self.sees_portfolio and context.state.orders:
            return Abstain("an order is still working")
        if wanted is Direction.FLAT:
            return Abstain("the market ranges")
        if wanted is Direction.SHORT and not self.allow_short:
            return Abstain("the market falls and short positions are off")
        price = bars.price
        if len(bars.close) <= 20:
            return Abstain(f"needs more than 20 bars, has {len(bars.close)}")
        if wanted is Direction.LONG and price <= bars.high[-21:-1].max():
            return Abstain("no break of the 20-bar high")
        if wanted is Direction.SHORT and price >= bars.low[-21:-1].min():
            return Abstain("no break of the 20-bar low")
        usual = bars.volume[-20:].mean()
        if usual > 0 and bars.volume[-1] < usual:
            return Abstain("a break without volume")
        strong = regime.trend.startswith("STRONG")
        stop = max(0.5, round(3 * atr_pct(bars), 2))
        return Proposal(
            direction=wanted,
            thesis=f"{regime.trend} and a break of the 20-bar range on {'high' if usual > 0 else 'unknown'} volume",
            confidence=0.7 if strong else 0.55,
            stop_pct=stop,
            target_pct=round(2 * stop, 2),
            position_scale=1.0 if strong else 0.6,
        )


class RiskGate(Agent[Verdict]):
    """Judges a proposal by drawdown headroom, volatility and reward for risk; its no stands alone.

    Args:
        llm: the language model to ask; without one the rule answers.
        name: its name in the log.
        max_drawdown_pct: fall from the peak beyond which the rule approves no entry, in percent.
        max_day_loss_pct: loss of the day beyond which it approves none, in percent.
    """

    instructions = (
        "You are the risk gate of a trading desk. Approve a proposal only if drawdown and today's loss leave room for its"
        " stop to be hit, volatility is not high, and the target is at least 1.2 times as far as the stop. Closing a position"
        " is always approved. Say in one sentence what decided. When in doubt, do not approve."
    )
    reads = (Proposal, Regime)
    veto = True
    tier = "middle"
    max_output_tokens = 4096

    def __init__(
        self, llm: LLM | None = None, *, name: str | None = None, max_drawdown_pct: float = 10.0, max_day_loss_pct: float = 2.0
    ) -> None:
        super().__init__(llm, name=name)
        self.max_drawdown_pct = max_drawdown_pct
        self.max_day_loss_pct = max_day_loss_pct

    def rule(self, context: Snapshot) -> Verdict:
        """Check headroom, volatility, reward for risk."""
        proposal, regime, state = context.latest(Proposal), context.latest(Regime), context.state
        if proposal.direction is Direction.FLAT:
            return Verdict(approved=True, reason="closing reduces risk")
        fallen, lost = state.drawdown * 100, -state.day_return * 100
        target, stop = proposal.target_pct, proposal.stop_pct
        if fallen >= self.max_drawdown_pct:
            why = f"{fallen:.1f} % below the peak; no entries beyond {self.max_drawdown_pct:g} %"
        elif lost >= self.max_day_loss_pct:
            why = f"{lost:.1f} % lost today; no entries beyond {self.max_day_loss_pct:g} %"
        elif regime.volatility == "high":
            why = "volatility is more than 1.5 times the usual"
        elif target is not None and target < 1.2 * stop:
            why = f"a target of {target:g} % pays too little for a stop of {stop:g} %"
        else:
            return Verdict(approved=True, reason=f"{fallen:.1f} % below the peak, volatility {regime.volatility}")
        return Verdict(approved=False, reason=why)


class FactChecker(Agent[Verdict]):
    """Verifies the inputs again at signing time: did the market move while others were thinking? Its no stands alone."""

    instructions = (
        "You are the fact checker of a trading desk. You are shown the market that the strategist saw and the market as it is"
        " now. Approve only if every number that the proposal rests on still holds: the price moved by less than a third of"
        " the stop distance, and the newest bar is not a spike. Judge facts only, not whether the idea is good."
    )
    reads = (Proposal,)
    veto = True
    sees_portfolio = False
    tier = "small"

    def inputs(self, context: Snapshot) -> Mapping[str, Any]:
        """Return the usual numbers, and the prices now."""
        now = {symbol: window.price for symbol, window in context.market_now.windows.items()}
        return {**context.as_inputs(), "price_now": now}

    def rule(self, context: Snapshot) -> Verdict:
        """Compare the price that the strategist saw with the price now, and the newest bar with the usual one."""
        proposal = context.latest(Proposal)
        symbol = proposal.symbol or context.bars.symbol
        seen, now = context.market[symbol], context.market_now[symbol]
        moved = abs(now.price / seen.price - 1) * 100
        if proposal.direction is Direction.FLAT:
            return Verdict(approved=True, reason=f"closing; the price moved {moved:.2f} % since the strategist looked")
        if moved * 3 > proposal.stop_pct:
            return Verdict(approved=False, reason=f"the price moved {moved:.2f} % while the desk was thinking")
        last = seen.last
        span = (last.high - last.low) / last.close * 100
        if span > 4 * atr_pct(seen, 20):
            return Verdict(approved=False, reason=f"the newest bar spans {span:.2f} %, more than four times the usual")
        return Verdict(approved=True, reason=f"the price moved {moved:.2f} % since the strategist looked")


class DoubleChecker(Agent[View]):
    """Reaches its own conclusion, from another angle, without seeing the proposal."""

    instructions = (
        "You give a second opinion on one instrument. You do not know what was proposed, only that something was. From the"
        " numbers that you are shown, say what you would hold: long, short or flat, and how sure you are. Look at how far the"
        " price stands from its mean and whether the move is exhausted."
    )
    when = (Proposal,)
    sees_portfolio = False
    tier = "strong"
    max_output_tokens = 8192
    angle: ClassVar[int] = 100

    def rule(self, context: Snapshot) -> View | Abstain:
        """Look at exhaustion: with the long mean, unless the last moves went too far."""
        close = context.bars.close
        if len(close) <= self.angle:
            return Abstain(f"needs more than {self.angle} bars")
        strength = rsi(close)
        above = context.bars.price > float(close[-self.angle :].mean())
        side = "above" if above else "below"
        if 15 < strength < 85:
            direction = Direction.LONG if above else Direction.SHORT
            return View(direction=direction, confidence=0.6, reason=f"{side} the {self.angle}-bar mean, RSI {strength:.0f}")
        return View(direction=Direction.FLAT, confidence=0.6, reason=f"the move is exhausted, RSI {strength:.0f}")


class JournalWriter(Agent[JournalEntry]):
    """Writes down what was decided and why."""

    instructions = (
        "You keep the journal of a trading desk. In two or three sentences of plain English, without jargon and without"
        " praise, write what was decided, who decided it and why, and what would show that it was wrong."
    )
    reads = (Decision,)
    tier = "small"

    def rule(self, context: Snapshot) -> JournalEntry:
        """Put the decision into sentences."""
        decision = context.latest(Decision)
        proposed = f"{' and '.join(decision.proposed_by)} wanted to be {decision.direction} in {decision.symbol}"
        against = "; ".join(f"{name} objected ({why})" for name, why in decision.vetoes)
        ended = {
            "ordered": "an order was sent",
            "advised": "nothing was sent, the fund only advises",
            "vetoed": "the desk did not agree and nothing was sent",
            "denied": "the gate refused and nothing was sent",
            "declined": "no person approved and nothing was sent",
            "held": "there was nothing to do",
        }[decision.outcome]
        return JournalEntry(text=f"{proposed}; {ended}: {decision.reason}." + (f" {against}." if against else ""))


def desk(llm: LLM | None = None, *, sees_portfolio: bool = True, strategist: Agent[Proposal] | None = None) -> list[Agent[Any]]:
    """Return the whole desk in order: the six specialists with one language model, or with their rules.

    Args:
        llm: the language model, route or router that all of them ask; without one their rules answer.
        strategist: who proposes in the strategist's place, such as a rule strategy.
        sees_portfolio: whether the strategist is shown what is held; where it is not, all agents but the risk gate and
            the journal writer can be asked about many bars of a backtest at once.
    """
    return [
        RegimeClassifier(llm),
        strategist or Strategist(llm, sees_portfolio=sees_portfolio),
        RiskGate(llm),
        FactChecker(llm),
        DoubleChecker(llm),
        JournalWriter(llm),
    ]
