"""Sources of market data: one file for each."""
