"""Compose LLM trading agents: agents propose, plain code disposes, one durable log remembers everything.

Names are loaded when they are first used, so that `import agentfund` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentfund.version import __version__

if TYPE_CHECKING:
    from agentfund.backtest.engine import Backtest as Backtest
    from agentfund.backtest.report import Report as Report
    from agentfund.brokers.paper import PaperBroker as PaperBroker
    from agentfund.buses.memory import MemoryBus as MemoryBus
    from agentfund.buses.sqlite import SqliteBus as SqliteBus
    from agentfund.clock import SimulatedClock as SimulatedClock
    from agentfund.clock import SystemClock as SystemClock
    from agentfund.core.agent import Abstain as Abstain
    from agentfund.core.agent import Agent as Agent
    from agentfund.core.agent import agent as agent
    from agentfund.core.approval import Approval as Approval
    from agentfund.core.approval import ApprovalRequest as ApprovalRequest
    from agentfund.core.breaker import CircuitBreaker as CircuitBreaker
    from agentfund.core.consensus import Consensus as Consensus
    from agentfund.core.context import SharedContext as SharedContext
    from agentfund.core.context import Snapshot as Snapshot
    from agentfund.core.gate import Limits as Limits
    from agentfund.core.journal import journal as journal
    from agentfund.core.ledger import Ledger as Ledger
    from agentfund.core.orchestrator import Orchestrator as Orchestrator
    from agentfund.core.permission import Unwatched as Unwatched
    from agentfund.core.router import Router as Router
    from agentfund.core.safety import SafetyLimits as SafetyLimits
    from agentfund.core.safety import SafetyWrapper as SafetyWrapper
    from agentfund.core.sizing import Sizing as Sizing
    from agentfund.errors import AgentFundError as AgentFundError
    from agentfund.market import Bar as Bar
    from agentfund.market import Instrument as Instrument
    from agentfund.messages import Message as Message
    from agentfund.messages import Opinion as Opinion
    from agentfund.prompt import Completion as Completion
    from agentfund.prompt import Prompt as Prompt
    from agentfund.prompt import Untrusted as Untrusted
    from agentfund.trading import Costs as Costs
    from agentfund.trading import Decision as Decision
    from agentfund.trading import Direction as Direction
    from agentfund.trading import Fill as Fill
    from agentfund.trading import Mode as Mode
    from agentfund.trading import Order as Order
    from agentfund.trading import Outcome as Outcome
    from agentfund.trading import Portfolio as Portfolio
    from agentfund.trading import Proposal as Proposal
    from agentfund.trading import Record as Record
    from agentfund.trading import Side as Side
    from agentfund.trading import Verdict as Verdict
    from agentfund.trading import View as View

_HOMES = {
    "Abstain": "core.agent",
    "Agent": "core.agent",
    "AgentFundError": "errors",
    "Approval": "core.approval",
    "ApprovalRequest": "core.approval",
    "Backtest": "backtest.engine",
    "Bar": "market",
    "CircuitBreaker": "core.breaker",
    "Completion": "prompt",
    "Consensus": "core.consensus",
    "Costs": "trading",
    "Decision": "trading",
    "Direction": "trading",
    "Fill": "trading",
    "Instrument": "market",
    "Ledger": "core.ledger",
    "Limits": "core.gate",
    "MemoryBus": "buses.memory",
    "Message": "messages",
    "Mode": "trading",
    "Opinion": "messages",
    "Orchestrator": "core.orchestrator",
    "Order": "trading",
    "Outcome": "trading",
    "PaperBroker": "brokers.paper",
    "Portfolio": "trading",
    "Prompt": "prompt",
    "Proposal": "trading",
    "Record": "trading",
    "Report": "backtest.report",
    "Router": "core.router",
    "SafetyLimits": "core.safety",
    "SafetyWrapper": "core.safety",
    "SharedContext": "core.context",
    "Side": "trading",
    "SimulatedClock": "clock",
    "Sizing": "core.sizing",
    "Snapshot": "core.context",
    "SqliteBus": "buses.sqlite",
    "SystemClock": "clock",
    "Untrusted": "prompt",
    "Unwatched": "core.permission",
    "Verdict": "trading",
    "View": "trading",
    "agent": "core.agent",
    "journal": "core.journal",
}

__all__ = [
    "Abstain",
    "Agent",
    "AgentFundError",
    "Approval",
    "ApprovalRequest",
    "Backtest",
    "Bar",
    "CircuitBreaker",
    "Completion",
    "Consensus",
    "Costs",
    "Decision",
    "Direction",
    "Fill",
    "Instrument",
    "Ledger",
    "Limits",
    "MemoryBus",
    "Message",
    "Mode",
    "Opinion",
    "Orchestrator",
    "Order",
    "Outcome",
    "PaperBroker",
    "Portfolio",
    "Prompt",
    "Proposal",
    "Record",
    "Report",
    "Router",
    "SafetyLimits",
    "SafetyWrapper",
    "SharedContext",
    "Side",
    "SimulatedClock",
    "Sizing",
    "Snapshot",
    "SqliteBus",
    "SystemClock",
    "Untrusted",
    "Unwatched",
    "Verdict",
    "View",
    "__version__",
    "agent",
    "journal",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'agentfund' has no attribute {name!r}")
    value = getattr(import_module(f"agentfund.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
