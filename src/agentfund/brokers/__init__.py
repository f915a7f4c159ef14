"""Brokers: one file for each."""
