"""Chaos on real processes: a fund over a real bus, parts of which are killed, frozen and cut off while it trades.

`python -m agentfund.testing.chaos --bus URL` starts an exchange, two orchestrators (one leads, one stands by) and two workers,
each a process of its own, harms them for a while, and then holds what the log says against the exchange's own books.
"""
