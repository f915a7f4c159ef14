"""The checks of the gate, in their order."""

from agentfund.core.checks import conduct, market, permission, size
from agentfund.core.checks.rule import Rule

CHECKS: tuple[Rule, ...] = (*permission.RULES, *market.RULES, *size.RULES, *conduct.RULES)
"""Every check, in the order in which an order has to pass them."""

__all__ = ["CHECKS", "Rule"]
