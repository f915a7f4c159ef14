"""A fund in virtual time, through everything that can go wrong: seeded, repeatable, and cut down to one line where it fails.

`campaign(make_fund)` puts a fund of yours through it; `python -m agentfund.testing.simulator` does the same with ours.
"""

from __future__ import annotations

from agentfund.testing.simulator.campaign import CampaignFailed as CampaignFailed
from agentfund.testing.simulator.campaign import Report as Report
from agentfund.testing.simulator.campaign import campaign as campaign
from agentfund.testing.simulator.faults import Fault as Fault
from agentfund.testing.simulator.loop import SimulatedLoop as SimulatedLoop
from agentfund.testing.simulator.world import Outcome as Outcome
from agentfund.testing.simulator.world import Ports as Ports
from agentfund.testing.simulator.world import World as World

__all__ = ["CampaignFailed", "Fault", "Outcome", "Ports", "Report", "SimulatedLoop", "World", "campaign"]
