"""`python -m agentfund.testing.simulator`."""

from __future__ import annotations

import sys

from agentfund.testing.simulator.command import main

if __name__ == "__main__":
    sys.exit(main())
