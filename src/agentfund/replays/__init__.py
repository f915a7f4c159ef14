"""A recorded run once more: exactly, or as it would have been with other agents, limits or costs."""

from __future__ import annotations

from agentfund.replays.counterfactual import Counterfactual, counterfactual
from agentfund.replays.diff import Change, Diff, Figures
from agentfund.replays.exact import Difference, Exact, exact
from agentfund.replays.recorded import Recorded

__all__ = ["Change", "Counterfactual", "Diff", "Difference", "Exact", "Figures", "Recorded", "counterfactual", "exact"]
