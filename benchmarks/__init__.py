"""Benchmarks beside the peers, one JSON line a figure."""
