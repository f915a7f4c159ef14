"""agentfund."""
