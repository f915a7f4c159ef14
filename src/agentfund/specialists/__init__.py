"""Ready-made specialist agents."""
