"""Durable logs: one file for each."""
