"""Routes to language models: one file for each, imported when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentfund.llms.anthropic import Anthropic
    from agentfund.llms.batched import Batched
    from agentfund.llms.claude_cli import ClaudeCLI
    from agentfund.llms.codex_cli import CodexCLI
    from agentfund.llms.openai import OpenAI
    from agentfund.llms.prices import Price, Prices
    from agentfund.llms.recorded import RecordedLLM
    from agentfund.llms.rules import Rules
    from agentfund.llms.scripted import ScriptedLLM

_HOMES = {
    "Anthropic": "anthropic",
    "Batched": "batched",
    "ClaudeCLI": "claude_cli",
    "CodexCLI": "codex_cli",
    "OpenAI": "openai",
    "Price": "prices",
    "Prices": "prices",
    "RecordedLLM": "recorded",
    "Rules": "rules",
    "ScriptedLLM": "scripted",
}

__all__ = ["Anthropic", "Batched", "ClaudeCLI", "CodexCLI", "OpenAI", "Price", "Prices", "RecordedLLM", "Rules", "ScriptedLLM"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
