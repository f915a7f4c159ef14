"""From opinions to a decision: consensus, sizing, gate and person, in this order; whatever says no ends it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agentfund.core.approval import NOBODY, ApprovalRequest, ask, order_hash
from agentfund.core.consensus import Judgement
from agentfund.core.context import DAY, HOUR
from agentfund.core.gate import Denial, Scene, check, check_closing
from agentfund.core.scene import Rates
from agentfund.core.sizing import plan
from agentfund.market import decimal
from agentfund.messages import Approved, stable_id
from agentfund.trading import Decision, Direction, Mode, Order, OrderStatus, Outcome, Permit, Proposal

if TYPE_CHECKING:
    from agentfund.core.context import State
    from agentfund.core.dealing import Dealing
    from agentfund.core.elsewhere import Gatekeeper
    from agentfund.core.orchestrator import Orchestrator
    from agentfund.core.scene import Status
    from agentfund.market import Market, Quote, Window
    from agentfund.messages import Opinion
    from agentfund.protocols import Clock, Feed


VOLUMES = 20
"""Bars whose volume makes the average one."""

LIMITS_ALONE = Judgement(True, "consensus", "plain rules, which the limits alone judge", ())


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a fund stands when it decides.

    Args:
        cycle: number of the cycle.
        state: the fund.
        market: the market as the agents saw it.
        began: when they began to look, aware UTC.
    """

    cycle: int
    state: State
    market: Market
    began: datetime


class Deciding:
    """What plain code makes of the agents' opinions.

    Args:
        fund: agents, limits and who approves.
        market_now: gives the market now.
        dealing: the line to the broker.
        mode: how much the fund may do by itself.
        clock: where the time comes from.
        note: writes what a person said on the log.
        permit: says what the fund may do now.
        feed: where the market comes from; it may know quotes, and whether an instrument is halted.
        state_now: gives the fund at this moment: fills may have come while a person was reading.
    """

    def __init__(
        self,
        fund: Orchestrator,
        market_now: Callable[[], Market],
        dealing: Dealing,
        *,
        mode: Mode,
        clock: Clock,
        note: Callable[[Approved], None],
        permit: Callable[[], Permit],
        feed: Feed,
        state_now: Callable[[], State],
    ) -> None:
        self.fund = fund
        self._market_now = market_now
        self.dealing = dealing
        self.mode = mode
        self.clock = clock
        self._permit = permit
        self._state_now = state_now
        self._quote: Callable[[str], Quote | None] | None = getattr(feed, "quote", None)
        self._status: Callable[[str], Status | None] | None = getattr(feed, "status", None)
        self._note = note
        self._feed = feed

    async def conclude(
        self, moment: Moment, proposed: Mapping[str, Proposal], missing: str, opinions: Mapping[str, Opinion]
    ) -> tuple[Decision, Order | None]:
        """Return the cycle's decision, and the order that it intends.

        Args:
            moment: where the fund stands.
            proposed: what agents propose, by name; at least one.
            missing: a proposer that is unavailable, empty where none is.
            opinions: all opinions of the cycle, by agent.
        """
        market, state = moment.market, moment.state
        proposal = min(proposed.values(), key=lambda one: one.position_scale)  # the most cautious of those that agree
        symbol = proposal.symbol or market.bars.symbol
        known = market.windows.get(symbol)
        critical = self.fund.consensus.is_critical(proposal)

        def decide(outcome: Outcome, by: str, reason: str, **more: Any) -> Decision:
            return Decision(
                id=stable_id(state.run, moment.cycle),
                cycle=moment.cycle,
                time=self.clock.now(),
                outcome=outcome,
                decided_by=by,
                reason=reason,
                symbol=symbol,
                direction=proposal.direction,
                proposed_by=tuple(proposed),
                price=known.price if known else None,
                critical=critical,
                **more,
            )

        if missing:
            return decide(Outcome.HELD, missing, f"{missing} is unavailable, so nothing moves"), None
        if len({one.symbol or market.bars.symbol for one in proposed.values()}) > 1:
            return decide(Outcome.HELD, "consensus", "the proposals name different instruments"), None
        if len({one.direction for one in proposed.values()}) > 1:
            return decide(Outcome.HELD, "consensus", f"{' and '.join(proposed)} contradict each other"), None
        if known is None:
            return decide(Outcome.DENIED, "gate", f"the feed has no bars of {symbol}", code="unknown_symbol"), None
        gates = self.fund.pipeline.gates
        # A pipeline without a gate agent was only built because none of its proposers needs one.
        judgement = self.fund.consensus.judge(gates, opinions, proposal, market.bars.symbol) if gates else LIMITS_ALONE
        vetoes = judgement.vetoes
        if not judgement.approved and self.mode is not Mode.SUPERVISED:
            return decide(Outcome.VETOED, judgement.decided_by, judgement.reason, vetoes=vetoes), None
        price = decimal(known.price)
        draft = decide(Outcome.ORDERED, "consensus", judgement.reason, vetoes=vetoes)
        working = [
            s
            for s in state.orders.values()
            if s.order.symbol == symbol and not s.order.reduce_only and s.status is not OrderStatus.UNKNOWN
        ]
        if working and proposal.direction is not Direction.FLAT:
            return decide(Outcome.HELD, "sizing", f"an order for {symbol} is still working", vetoes=vetoes), None
        flat = not state.portfolio.quantity(symbol)
        if working and flat and judgement.approved and self.mode is not Mode.ADVISORY:
            # Taking an entry back only ever reduces risk, so no person has to be asked.
            reason = f"take back {len(working)} working order{'s' if len(working) > 1 else ''}; {judgement.reason}"
            return decide(Outcome.ORDERED, "consensus", reason, vetoes=vetoes), None
        order = plan(
            proposal,
            decision=draft.id,
            time=draft.time,
            price=price,
            equity=state.equity,
            portfolio=state.portfolio,
            instrument=known.instrument,
            sizing=self.fund.sizing,
        )
        if isinstance(order, str):
            return decide(Outcome.HELD, "sizing", order, vetoes=vetoes), None
        if state.token:
            order = replace(order, token=state.token)
        degraded = any(opinion.degraded for opinion in opinions.values())
        if denial := await self._gate(moment, order, draft, degraded):
            return decide(Outcome.DENIED, "gate", denial.reason, code=denial.code, vetoes=vetoes), None
        if self.mode is Mode.ADVISORY:
            return decide(Outcome.ADVISED, "consensus", f"would {told(order)}; {judgement.reason}", vetoes=vetoes), None
        if self.mode is Mode.SUPERVISED:
            blocked = () if judgement.approved else vetoes
            answer = await self._ask(order, draft.model_copy(update={"vetoes": blocked}))
            if not answer.approved:
                reason = f"{answer.by} did not approve" + (f": {answer.evidence}" if answer.evidence else "")
                reason = answer.evidence if answer.by == NOBODY and answer.evidence else reason
                return decide(Outcome.DECLINED, "person", reason, vetoes=vetoes), None
            # The person has just decided anew, but the market has moved on while they were reading.
            draft = draft.model_copy(update={"time": self.clock.now()})
            if denial := await self._gate(replace(moment, began=draft.time), order, draft, degraded, anew=True):
                return decide(Outcome.DENIED, "gate", denial.reason, code=denial.code, vetoes=vetoes), None
            return decide(Outcome.ORDERED, "person", f"{told(order)}; {answer.by} approved", vetoes=vetoes), order
        return decide(Outcome.ORDERED, "consensus", f"{told(order)}; {judgement.reason}", vetoes=vetoes), order

    async def _gate(
        self, moment: Moment, order: Order, decision: Decision, degraded: bool, *, anew: bool = False
    ) -> Denial | None:
        """Return the gate's denial; `anew` once a person has decided on the market as it is now."""
        seen = None if anew else moment.market.windows.get(order.symbol)
        try:
            window = self._market_now().windows.get(order.symbol)
        except Exception as error:
            return Denial("quote", f"the market cannot be seen now: {type(error).__name__}: {error}")
        state, now = self._state_now() if anew else moment.state, self.clock.now()
        # Neither what the agents saw when they began nor what the market shows now may be old.
        ages = [(then - one.now).total_seconds() for then, one in ((moment.began, seen), (now, window)) if one is not None]
        beyond = window.interval.total_seconds() if window else 0.0
        age = min(ages) if ages and min(ages) < 0 else max(max(ages, default=0.0) - beyond, 0.0)
        scene = Scene(
            now=now,
            decided=moment.began,
            instrument=window.instrument if window else None,
            price=decimal(window.price) if window else decimal("nan"),
            quote_age_s=age,
            portfolio=state.portfolio,
            prices=state.prices,
            equity=state.equity,
            peak_equity=state.peak_equity,
            day_equity=state.day_equity,
            orders=tuple(state.orders.values()),
            recent=state.recent,
            ordered_last_hour=sum(1 for time, _, _ in state.acted if time > now - HOUR),
            critical_last_day=sum(1 for time, critical, _ in state.acted if critical and time > now - DAY),
            critical=decision.critical,
            degraded=degraded,
            blind=self.dealing.blind,
            permit=self._permit(),
            hours=self.fund.hours,
            blackouts=self.fund.blackouts,
            sectors=self.fund.sectors,
            clusters=self.fund.clusters,
            proposed_by=decision.proposed_by,
            decided_quantity=order.quantity,
            **(self._live(order, state, window, now) if self.dealing.paper is None else {}),
        )
        denial = check(order, scene, self.fund.limits)
        if denial is not None or self.fund.gate is None:
            return denial
        return await _second(self.fund.gate, order, scene)

    def denies_closing(self, order: Order) -> Denial | None:
        """Return why an order may not leave by which a position is closed at level 4, None where it may.

        A feed that is dead must not hold it up, so it is judged by what the log knows.
        """
        state, now = self._state_now(), self.clock.now()
        scene = Scene(
            now=now,
            decided=order.time,
            instrument=next((one for one in self._feed.instruments if one.symbol == order.symbol), None),
            price=state.prices.get(order.symbol, decimal("nan")),
            quote_age_s=0.0,
            portfolio=state.portfolio,
            prices=state.prices,
            equity=state.equity,
            peak_equity=state.peak_equity,
            day_equity=state.day_equity,
            orders=tuple(mine for mine in state.orders.values() if mine.order.id != order.id),
            recent=tuple(other for other in state.recent if other.id != order.id),
            live=self.dealing.paper is None,
        )
        return check_closing(order, scene, self.fund.limits)

    def _live(self, order: Order, state: State, window: Window | None, now: datetime) -> dict[str, Any]:
        """Return what the gate looks at besides where real orders follow."""
        account = self.dealing.seen
        volume = float(window.volume[-VOLUMES:].mean()) if window is not None else 0.0
        quote = self._quote(order.symbol) if self._quote is not None else None
        status = self._status(order.symbol) if self._status is not None else None
        return {
            "live": True,
            "quote": quote,
            "status": status,
            "volume": decimal(volume) if volume > 0 else None,
            "buying_power": account.buying_power if account is not None else None,
            "margin_used": account.margin_used if account is not None else None,
            "rates": Rates.of((time for time, _, _ in state.acted), now),
            "agent_rates": _busiest(state, now),
            "repeats": _repeats(order, state),
            "day_peak_equity": state.day_peak_equity or None,
        }

    async def _ask(self, order: Order, decision: Decision) -> Any:
        assert self.fund.approver is not None
        expires = self.clock.now() + self.fund.approval_timeout
        request = ApprovalRequest(order, order_hash(order), decision, expires)
        answer = await ask(self.fund.approver, request, self.fund.approval_timeout.total_seconds())
        self._note(Approved(request.order_hash, answer.approved, answer.by, answer.evidence))
        return answer


def _busiest(state: State, now: datetime) -> Rates:
    """Return how often the busiest proposing agent has had its way of late."""
    agents = {name for _, _, names in state.acted for name in names}
    rates = [Rates.of((time for time, _, names in state.acted if agent in names), now) for agent in sorted(agents)]
    parts = ("second", "minute", "hour", "day")
    return Rates(*(max((getattr(rate, part) for rate in rates), default=0) for part in parts))


def _repeats(order: Order, state: State) -> int:
    """Return how many orders like this one there were since a fill changed the book of its instrument."""
    filled = max((fill.time for fill in state.fills if fill.symbol == order.symbol), default=None)
    alike = (o for o in state.recent if (o.symbol, o.side) == (order.symbol, order.side) and o.id != order.id)
    return sum(1 for other in alike if filled is None or other.time > filled)


async def _second(gate: Gatekeeper, order: Order, scene: Scene) -> Denial | None:
    """Return the denial of a gate elsewhere; whatever is no clear yes is one."""
    try:
        denial: object = await gate.ask(order, scene)
    except Exception as error:
        return Denial("gate_error", f"{gate!r} could not judge: {type(error).__name__}: {error}")
    if denial is None or isinstance(denial, Denial):
        return denial
    return Denial("gate_error", f"{gate!r} gave {denial!r}, which is no answer")


def told(order: Order) -> str:
    """Return an order in words."""
    words = f"{order.side} {order.quantity.normalize():f} {order.symbol}"
    if order.reduce_only:
        return f"{words} to close"
    if order.stop_loss is not None:
        words += f", stop {order.stop_loss}"
    if order.take_profit is not None:
        words += f", target {order.take_profit}"
    return words
