"""Ready-made specialist agents."""

from agentfund.specialists.desk import (
    DoubleChecker,
    FactChecker,
    JournalEntry,
    JournalWriter,
    Regime,
    RegimeClassifier,
    RiskGate,
    Strategist,
    Trend,
    desk,
)

__all__ = [
    "DoubleChecker",
    "FactChecker",
    "JournalEntry",
    "JournalWriter",
    "Regime",
    "RegimeClassifier",
    "RiskGate",
    "Strategist",
    "Trend",
    "desk",
]
