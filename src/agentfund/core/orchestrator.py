"""A fund: a list of agents, one log, and plain code around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, get_args

from agentfund.clock import SimulatedClock, SystemClock
from agentfund.core.approval import Approver
from agentfund.core.consensus import Consensus
from agentfund.core.context import SharedContext
from agentfund.core.gate import Limits
from agentfund.core.keeping import OnKill
from agentfund.core.pipeline import Pipeline
from agentfund.core.safety import SafetyLimits
from agentfund.core.session import NOBODY, Session, closing
from agentfund.core.sizing import Sizing
from agentfund.errors import ConfigError
from agentfund.hours import Blackouts
from agentfund.protocols import History
from agentfund.trading import Mode

if TYPE_CHECKING:
    from agentfund.core.agent import Agent
    from agentfund.core.elsewhere import Elsewhere, Gatekeeper
    from agentfund.core.waking import Due
    from agentfund.hours import Hours
    from agentfund.protocols import Broker, Bus, Clock, Feed, Permission
    from agentfund.trading import Decision


class Orchestrator:
    """Runs agents over a feed and brings what they agree on to a broker, through one gate.

    Args:
        agents: the pipeline, in order; each is wrapped in a `SafetyWrapper`.
        bus: the log. It has no default, because it must not be forgotten.
        mode: advisory unless said otherwise.
        limits: hard limits of the deterministic gate.
        sizing: how much to trade.
        consensus: how many gate agents must approve.
        safety: what each agent may do at most.
        approver: asks a person, in supervised mode.
        approval_timeout: silence for so long means no.
        broker_timeout: how long a broker may take to answer; an order that is not answered in time is UNKNOWN.
        broker_slow: an answer that takes longer puts the fund into degraded mode: no new positions until the broker is itself.
        reconcile: how often log and broker are compared between bars.
        settle: how far apart they must have agreed twice before anything adds risk.
        permission: says what the fund may do now, such as `LeaseFile(dir)` of a watchdog, or `UNWATCHED`. Without one
            nothing adds risk at a real broker.
        hours: when one may trade, such as `hours("XNYS", ...)` of `agentfund.feeds.calendars`.
        blackouts: windows in which nothing adds risk: news, earnings.
        sectors: sector of each instrument, by symbol.
        clusters: cluster of instruments that move together, by symbol.
        on_kill: what becomes of positions at level 4: they are closed at the market, or kept with their stops.
        lease: how long a process leads a live fund on a shared log unless it renews that; None where nobody else ever could.
        standby: whether to wait for a leader that is alive, and to take over when it dies.
        workers: asks agents that live in other processes, such as `Workers("strategist")`.
        gate: a second gate in another process, such as `RemoteGate(address)`, asked about each order that the limits allow.
        clock: where the time comes from; the market's own time when the feed is history.
        name: the fund's name: its stream on the bus.

    Raises:
        PipelineError: the list of agents cannot work.
        ConfigError: supervised mode without an approver.
    """

    def __init__(
        self,
        agents: Sequence[Agent[Any]],
        *,
        bus: Bus,
        mode: Mode | str = Mode.ADVISORY,
        limits: Limits | None = None,
        sizing: Sizing | None = None,
        consensus: Consensus | None = None,
        safety: SafetyLimits | None = None,
        approver: Approver | None = None,
        approval_timeout: timedelta = timedelta(minutes=5),
        broker_timeout: timedelta = timedelta(seconds=10),
        broker_slow: timedelta = timedelta(seconds=2),
        reconcile: timedelta = timedelta(seconds=5),
        settle: timedelta = timedelta(seconds=1),
        permission: Permission | None = None,
        hours: Hours | None = None,
        blackouts: Blackouts | None = None,
        sectors: Mapping[str, str] | None = None,
        clusters: Mapping[str, str] | None = None,
        on_kill: OnKill = "close",
        lease: timedelta | None = timedelta(seconds=30),
        standby: bool = False,
        workers: Elsewhere | None = None,
        gate: Gatekeeper | None = None,
        clock: Clock | None = None,
        name: str = "fund",
    ) -> None:
        for given, kind, what in (
            (limits, Limits, "limits=Limits(...)"),
            (sizing, Sizing, "sizing=Sizing(...)"),
            (consensus, Consensus, "consensus=Consensus(...)"),
            (safety, SafetyLimits, "safety=SafetyLimits(...)"),
        ):
            if given is not None and not isinstance(given, kind):
                raise ConfigError(f"{given!r} is no {kind.__name__}: write {what}")
        if isinstance(bus, type) or not hasattr(bus, "publish"):
            raise ConfigError(f'bus={bus!r} is no log: write bus=SqliteBus("fund.db") or bus=MemoryBus()')
        if not isinstance(agents, Sequence):
            raise ConfigError(f"agents={agents!r} is no list of agents: write [RegimeClassifier(), ...], or desk()")
        if mode not in list(Mode):
            raise ConfigError(f"mode={mode!r}: there is {', '.join(Mode)}")
        if approver is not None and not callable(approver):
            raise ConfigError(f"approver={approver!r} cannot be called: it is asked about each order")
        if gate is not None and not callable(getattr(gate, "ask", None)):
            raise ConfigError(f'gate={gate!r} cannot be asked: write gate=RemoteGate("127.0.0.1:50051")')
        if permission is not None and not callable(getattr(permission, "now", None)):
            raise ConfigError(f"permission={permission!r} says nothing: write LeaseFile(dir) or UNWATCHED")
        if on_kill not in get_args(OnKill):
            raise ConfigError(f"on_kill={on_kill!r}: there is {', '.join(get_args(OnKill))}")
        if not name:
            raise ConfigError("a fund needs a name")
        self.bus = bus
        self.mode = Mode(mode)
        self.limits = limits or Limits()
        self.sizing = sizing or Sizing()
        self.consensus = consensus or Consensus()
        self.safety = safety or SafetyLimits()
        self.approver = approver
        self.approval_timeout = approval_timeout
        self.broker_timeout = broker_timeout
        self.broker_slow = broker_slow
        self.reconcile = reconcile
        self.settle = settle
        self.permission = permission
        self.hours = hours
        self.blackouts = blackouts or Blackouts()
        self.sectors = sectors
        self.clusters = clusters
        self.on_kill: OnKill = on_kill
        self.lease = lease
        self.standby = standby
        self.workers = workers
        self.gate = gate
        self.clock = clock
        self.name = name
        self.pipeline = Pipeline(agents, self.safety, SystemClock())
        self.context = SharedContext(self.pipeline.outputs)
        if self.mode is Mode.SUPERVISED and approver is None:
            raise ConfigError("supervised mode needs approver=..., who is asked about each order")

    def __repr__(self) -> str:
        return f"<Orchestrator {self.name!r}: {len(self.pipeline.agents)} agents, {self.mode}>"

    def describe(self) -> dict[str, Any]:
        """Return everything about the fund that a result depends on, as JSON values."""
        return {
            "agents": [
                {
                    "name": agent.name,
                    "class": type(agent.agent).__qualname__,
                    "output": agent.output.__name__,
                    "answers_by": agent.answers_by,
                    "instructions": agent.agent.role if agent.llm is not None else agent.instructions,
                    "code": agent.agent.digest,
                    "reads": [kind.__name__ for kind in agent.reads],
                    "sees_portfolio": agent.sees_portfolio,
                }
                for agent in self.pipeline.agents
            ],
            "settings": {
                "limits": {k: sorted(v) if isinstance(v, frozenset) else v for k, v in asdict(self.limits).items()},
                "limits_digest": self.limits.digest,
                "loosened": list(self.limits.loosened()),
                "sizing": asdict(self.sizing),
                "consensus": asdict(self.consensus),
                "safety": asdict(self.safety),
                **({} if self.gate is None else {"gate": type(self.gate).__name__}),
                **({} if self.permission is None else {"permission": type(self.permission).__name__, "on_kill": self.on_kill}),
            },
        }

    def session(
        self,
        feed: Feed,
        broker: Broker,
        *,
        mode: Mode | None = None,
        sync: bool = True,
        ahead: bool = True,
        insist: Collection[str] = (),
        through_outages: bool = True,
        due: Mapping[str, Due] = NOBODY,
    ) -> Session:
        """Return one run of this fund, to be driven bar by bar; `run` and `Backtest` are made of it."""
        clock = self.clock or (SimulatedClock() if isinstance(feed, History) else SystemClock())
        return Session(
            self,
            feed,
            broker,
            mode=mode or self.mode,
            clock=clock,
            sync=sync,
            ahead=ahead,
            insist=insist,
            through_outages=through_outages,
            due=due,
        )

    async def run(self, feed: Feed, broker: Broker) -> AsyncIterator[Decision]:
        """Run over a feed and give each decision as it is made; carries on from the log where it was stopped."""
        session = self.session(feed, broker)
        async with closing(session.steps()) as steps:
            async for decision in steps:
                if decision is not None:
                    yield decision
