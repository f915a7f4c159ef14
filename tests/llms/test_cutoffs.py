"""Whether language models could remember the window of a backtest."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfund.errors import ConfigError
from agentfund.llms.claims import CLAIMS
from agentfund.llms.cutoffs import Cutoff, Cutoffs, stamp, unjudged

DAY = timedelta(days=1)
OWN = Cutoffs({"mine": Cutoff(date(2024, 6, 30), source="the maker's page")})


def at(text: str) -> datetime:
    """A day, UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "end", "verdict"),
    [
        ("2024-09-29", "2025-01-01", "CLEAN"),
        ("2024-09-28", "2025-01-01", "MIXED"),
        ("2020-01-01", "2024-09-30", "MIXED"),
        ("2020-01-01", "2024-09-29", "CONTAMINATED"),
        ("2020-01-01", "2021-01-01", "CONTAMINATED"),
    ],
)
def test_a_window_is_clean_only_behind_the_margin(start: str, end: str, verdict: str) -> None:
    """The cut-off is the end of the 30th of June; 90 days later is the 29th of September."""
    given = stamp(["mine"], at(start), at(end), registry=OWN)
    assert given is not None
    assert given.verdict == verdict
    assert given.clean_from == at("2024-09-29")
    assert "mine (claimed 2024-06-30; a claim is no proof) and 90 days" in given.reason
    assert str(given) == f"{verdict}: {given.reason}"


def test_a_mixed_window_says_from_when_it_is_clean() -> None:
    """The day is in the sentence."""
    given = stamp(["mine"], at("2024-01-01"), at("2025-01-01"), registry=OWN)
    assert given is not None
    assert given.reason.startswith("the window is clean only from 2024-09-29 on")


days = st.dates(date(2020, 1, 1), date(2027, 1, 1))


@given(st.lists(days, min_size=1, max_size=4), days, days, st.integers(0, 200))
def test_the_latest_cutoff_decides(cutoffs: list[date], one: date, other: date, margin: int) -> None:
    """Clean means that the first moment lies behind every cut-off and the margin; contaminated that the last does not."""
    registry = Cutoffs({f"m{i}": day for i, day in enumerate(cutoffs)})
    start, end = (datetime(d.year, d.month, d.day, tzinfo=UTC) for d in sorted((one, other)))
    given = stamp(sorted(f"m{i}" for i in range(len(cutoffs))), start, end, margin * DAY, registry)
    assert given is not None
    clean = [datetime(d.year, d.month, d.day, tzinfo=UTC) + DAY + margin * DAY for d in cutoffs]
    expected = "CLEAN" if all(start >= c for c in clean) else "MIXED" if all(end > c for c in clean) else "CONTAMINATED"
    assert given.verdict == expected


def test_one_unknown_language_model_contaminates_all() -> None:
    """Where nothing is known, everything may be memory, however late the window is."""
    given = stamp(["mine", "nobody-knows-it", ""], at("2029-01-01"), at("2030-01-01"), registry=OWN)
    assert given is not None
    assert (given.verdict, given.clean_from) == ("CONTAMINATED", None)
    assert "nobody-knows-it" in given.reason
    assert "a language model without a name" in given.reason
    assert given.cutoffs["nobody-knows-it"] is None
    assert given.cutoffs["mine"] == Cutoff(date(2024, 6, 30), source="the maker's page")


def test_without_a_language_model_there_is_no_stamp() -> None:
    """Rules remember nothing."""
    assert stamp([], at("2020-01-01"), at("2021-01-01")) is None


def test_what_a_test_of_memory_found_is_believed_where_it_is_later() -> None:
    """A probe beyond the claim moves the cut-off; one before it does not make it earlier."""
    assert Cutoff(date(2024, 6, 30), probed=date(2024, 12, 31)).day == date(2024, 12, 31)
    assert Cutoff(date(2024, 6, 30), probed=date(2023, 12, 31)).day == date(2024, 6, 30)
    assert Cutoff(probed=date(2023, 12, 31)).day == date(2023, 12, 31)
    registry = Cutoffs({"mine": Cutoff(date(2024, 6, 30), probed=date(2024, 12, 31))})
    given = stamp(["mine"], at("2024-11-01"), at("2025-02-01"), registry=registry)
    assert given is not None
    assert given.verdict == "CONTAMINATED"
    assert "claimed 2024-06-30, probed 2024-12-31" in given.reason
    with pytest.raises(ConfigError, match="a claimed day, a probed one, or both"):
        Cutoff()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("claude-haiku-4-5", "claude-haiku-4-5"),
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("anthropic/claude-haiku-4-5@20251001", "claude-haiku-4-5"),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5"),
        ("claude-fable-5-1", "claude-fable-5-1"),
        ("gpt-5-2025-08-07", "gpt-5"),
        ("openrouter/openai/gpt-5-mini", "gpt-5-mini"),
        ("models/gemini-2.5-pro-preview-06-05", "gemini-2.5-pro"),
        ("gemini-2.5-flash-001", "gemini-2.5-flash"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.3"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1"),
        ("llama3.3:70b-instruct-q4_K_M", "llama-3.3"),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama-4-scout"),
        ("google/gemma-3-27b-it", "gemma-3"),
    ],
)
def test_a_name_is_found_with_its_provider_and_its_snapshot(name: str, key: str) -> None:
    """Providers in front, days and sizes behind."""
    found = Cutoffs().of(name)
    assert found == Cutoff(*CLAIMS[key])
    assert found is not None
    assert found.source.startswith("https://")


@pytest.mark.parametrize(
    "name",
    [
        "claude-opus-4-9",
        "claude-haiku-4-50",
        "gpt-5-codex",
        "gpt-5.3",
        "gpt-5-chat-latest",
        "ft:gpt-4.1-mini:me",
        "nvidia/llama-3.3-nemotron-super-49b",
        "deepseek-r1-distill-llama-3.3-70b",
        "sonnet",
        "qwen3-32b",
        "",
    ],
)
def test_a_variant_is_another_language_model(name: str) -> None:
    """What is not a snapshot or a size may have seen more, so nothing is taken over."""
    assert Cutoffs().of(name) is None


def test_ones_own_cutoffs_win() -> None:
    """Over the table, for snapshots too; the rest of the table stays."""
    registry = Cutoffs({"Anthropic/claude-haiku-4-5": date(2026, 2, 1)})
    assert registry.of("claude-haiku-4-5-20251001") == Cutoff(date(2026, 2, 1), source="given by the user")
    assert registry.of("gpt-5") == Cutoffs().of("gpt-5")
    assert "claude-haiku-4-5" in repr(registry)
    with pytest.raises(ConfigError, match=r"cutoffs\['x'\] is a str: write"):
        Cutoffs({"x": "2024-01-01"})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="is a datetime"):
        Cutoffs({"x": at("2024-01-01")})


def test_a_window_that_is_not_known_is_not_clean() -> None:
    """Where nothing can be said of the window, the cut-offs are told all the same."""
    given = unjudged(["mine"], "the dates are not real", OWN)
    assert given is not None
    assert str(given) == "CONTAMINATED: the dates are not real"
    assert given.cutoffs["mine"] is not None
    assert unjudged([], "the dates are not real") is None


def test_impossible_windows_are_refused() -> None:
    """Turned around, with a margin below zero, or without a time zone."""
    with pytest.raises(ConfigError, match="before it begins"):
        stamp(["mine"], at("2024-01-02"), at("2024-01-01"))
    with pytest.raises(ConfigError, match="must be zero or more"):
        stamp(["mine"], at("2024-01-01"), at("2024-01-02"), -DAY)
    with pytest.raises(ValueError, match="has no time zone"):
        stamp(["mine"], datetime(2024, 1, 1), at("2024-01-02"))  # noqa: DTZ001


def test_every_claim_has_a_day_that_was_and_a_page() -> None:
    """The table is complete in itself."""
    for name, (day, page, what) in CLAIMS.items():
        assert name == name.lower()
        assert date(2022, 1, 1) < day < date(2027, 1, 1)
        assert page.startswith("https://")
        assert "{" not in page
        assert what.replace("cutoff", "") != what
