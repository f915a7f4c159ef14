"""What providers claim of the cut-offs of their language models, each with the page that says so.

Only what was found on such a page is here. A month stands for its last day. Where a provider names two days, it is the later
one, up to which training data reach. Of Qwen, DeepSeek and Mistral no day was found that their makers name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date

_CLAUDE = "https://platform.claude.com/docs/en/about-claude/models/overview"
_CLAUDE_EACH = "https://platform.claude.com/docs/en/models/{}/overview"
_CLAUDE_4 = "https://www-cdn.anthropic.com/6be99a52cb68eb70eb9572b4cafad13df32ed995.pdf"
_OPENAI = "https://developers.openai.com/api/docs/models/{}"
_GEMINI = "https://ai.google.dev/gemini-api/docs/models/{}"
_GEMMA = "https://ai.google.dev/gemma/docs/core/model_card_3"
_LLAMA = "https://github.com/meta-llama/llama-models/blob/main/models/{}/MODEL_CARD.md"
_GROK = "https://docs.x.ai/docs/models"

_TRAINING = "training data cutoff"
_RELIABLE = "reliable knowledge cutoff"
_KNOWLEDGE = "knowledge cutoff"
_DATA = "cutoff of the pretraining data"

_ANTHROPIC = {
    "claude-opus-4-20250514": (date(2025, 3, 31), _CLAUDE_4, _TRAINING),
    "claude-opus-4-0": (date(2025, 3, 31), _CLAUDE_4, _TRAINING),
    "claude-sonnet-4-20250514": (date(2025, 3, 31), _CLAUDE_4, _TRAINING),
    "claude-sonnet-4-0": (date(2025, 3, 31), _CLAUDE_4, _TRAINING),
    "claude-sonnet-4-5": (date(2025, 7, 31), _CLAUDE, _TRAINING),
    "claude-haiku-4-5": (date(2025, 7, 31), _CLAUDE, _TRAINING),
    "claude-opus-4-5": (date(2025, 8, 31), _CLAUDE, _TRAINING),
    "claude-opus-4-6": (date(2025, 8, 31), _CLAUDE, _TRAINING),
    "claude-sonnet-4-6": (date(2026, 1, 31), _CLAUDE, _TRAINING),
    "claude-opus-4-7": (date(2026, 1, 31), _CLAUDE, _TRAINING),
    "claude-opus-4-8": (date(2026, 1, 31), _CLAUDE, _TRAINING),
    "claude-fable-5": (date(2026, 1, 31), _CLAUDE, _TRAINING),
    "claude-sonnet-5": (date(2026, 1, 31), _CLAUDE, _TRAINING),
    "claude-opus-5": (date(2026, 5, 31), _CLAUDE, _TRAINING),
    "claude-fable-5-1": (date(2026, 6, 30), _CLAUDE_EACH.format("fable-5-1"), _RELIABLE),
    "claude-opus-5-5": (date(2026, 6, 30), _CLAUDE_EACH.format("opus-5-5"), _RELIABLE),
}

_OPENAI_DAYS = {
    date(2023, 10, 1): ("gpt-4o", "gpt-4o-mini"),
    date(2023, 12, 1): ("gpt-4", "gpt-4-turbo"),
    date(2024, 5, 31): ("gpt-5-mini", "gpt-5-nano"),
    date(2024, 6, 1): ("gpt-4.1", "gpt-4.1-mini", "gpt-oss-120b", "o3", "o4-mini"),
    date(2024, 9, 30): ("gpt-5", "gpt-5-pro", "gpt-5.1"),
    date(2025, 8, 31): ("gpt-5.2", "gpt-5.2-pro", "gpt-5.4", "gpt-5.4-nano", "gpt-5.4-pro"),
    date(2025, 12, 1): ("gpt-5.5", "gpt-5.5-pro"),
    date(2026, 2, 16): ("gpt-5.6", "gpt-5.6-sol", "gpt-5.6-terra"),
    date(2026, 4, 20): ("gpt-6-sol",),
    date(2026, 4, 30): ("gpt-6-astra", "gpt-6.1-sol"),
}

_GOOGLE = ("gemini-2.5-pro", "gemini-2.5-flash", "gemini-3-pro-preview", "gemini-3-flash-preview", "gemini-3.1-flash-lite")

_META = {
    "llama-3.1": (date(2023, 12, 31), _LLAMA.format("llama3_1"), _DATA),
    "llama-3.2": (date(2023, 12, 31), _LLAMA.format("llama3_2"), _DATA),
    "llama-3.3": (date(2023, 12, 31), _LLAMA.format("llama3_3"), _DATA),
    "llama-4-scout": (date(2024, 8, 31), _LLAMA.format("llama4"), _DATA),
    "llama-4-maverick": (date(2024, 8, 31), _LLAMA.format("llama4"), _DATA),
}

_XAI = {
    "grok-3": date(2024, 11, 30),
    "grok-4": date(2024, 11, 30),
    "grok-4-0709": date(2024, 11, 30),
    "grok-4.5": date(2026, 2, 1),
    "grok-4.6": date(2026, 2, 1),
    "grok-4.7": date(2026, 5, 31),
}


def _all() -> Iterator[tuple[str, tuple[date, str, str]]]:
    yield from _ANTHROPIC.items()
    for day, names in _OPENAI_DAYS.items():
        for name in names:
            yield name, (day, _OPENAI.format(name), _KNOWLEDGE)
    for name in _GOOGLE:
        yield name, (date(2025, 1, 31), _GEMINI.format(name), _KNOWLEDGE)
    yield "gemma-3", (date(2024, 8, 31), _GEMMA, _KNOWLEDGE)
    yield from _META.items()
    for name, day in _XAI.items():
        yield name, (day, _GROK, _KNOWLEDGE)


CLAIMS: Mapping[str, tuple[date, str, str]] = dict(_all())
"""The day, the page and what the page calls it, by the name of the language model."""
