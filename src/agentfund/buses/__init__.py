"""Durable logs: one file for each, imported when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentfund.buses.kafka import KafkaBus
    from agentfund.buses.memory import MemoryBus
    from agentfund.buses.nats import NatsBus
    from agentfund.buses.postgres import PostgresBus
    from agentfund.buses.rabbitmq import RabbitBus
    from agentfund.buses.redis import RedisBus
    from agentfund.buses.sqlite import SqliteBus
    from agentfund.buses.urls import open_bus

_HOMES = {
    "KafkaBus": "kafka",
    "MemoryBus": "memory",
    "NatsBus": "nats",
    "PostgresBus": "postgres",
    "RabbitBus": "rabbitmq",
    "RedisBus": "redis",
    "SqliteBus": "sqlite",
    "open_bus": "urls",
}

__all__ = ["KafkaBus", "MemoryBus", "NatsBus", "PostgresBus", "RabbitBus", "RedisBus", "SqliteBus", "open_bus"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
