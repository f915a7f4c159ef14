"""Backtests and their reports."""
