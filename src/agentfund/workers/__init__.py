"""Agents in processes of their own: `Workers` asks them over the log, a `Worker` answers."""

from agentfund.workers.asking import Workers
from agentfund.workers.worker import Worker

__all__ = ["Worker", "Workers"]
