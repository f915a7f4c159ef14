"""The page: one file, nothing from outside, and nothing that an agent wrote is ever HTML."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from agentfund.backtest.html import SHOWN, page, payload
from agentfund.backtest.report import Report
from agentfund.trading import Outcome, Side

from .test_report import CLOSES, Bars, Marked, Story, won

HOSTILE = "</script><script>alert(1)</script><b onclick=x>{{title}} \u2028 é"


class Page(HTMLParser):
    """The elements of a page, with their attributes and their text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.elements[-1][2].append(data)

    def texts(self, tag: str) -> list[str]:
        return ["".join(text) for name, _, text in self.elements if name == tag]


def hostile() -> Report:
    story = Story()
    story.decide(1, Outcome.VETOED, thesis=HOSTILE, by=HOSTILE)
    return Report.of(story.end(3, "1000"), Bars(10, 11, 12, source=HOSTILE, warnings=(HOSTILE,)))


def embedded(text: str) -> Any:
    packed = Page(text).texts("script")[0]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_the_policy_allows_the_page_its_own_scripts_and_nothing_else() -> None:
    """Every script and style is named by the hash of what is really there; all other sources are forbidden."""
    parsed = Page(page(Report.of(won(), Bars(*CLOSES))))
    (policy,) = [a["content"] for _, a, _ in parsed.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in policy
    scripts = ["".join(text) for tag, attrs, text in parsed.elements if tag == "script" and not attrs]
    assert len(scripts) == 2
    for name, texts in (("script-src", scripts), ("style-src", parsed.texts("style"))):
        for text in texts:
            assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in rules[name]


def test_the_page_loads_nothing() -> None:
    """No element names a source, no style imports one; the only address outside the library is a link to its maker."""
    text = page(Report.of(won(), Bars(*CLOSES)))
    parsed = Page(text)
    assert not [tag for tag, attrs, _ in parsed.elements if {"src", "srcset", "data", "background", "action"} & attrs.keys()]
    assert not [tag for tag, _, _ in parsed.elements if tag in ("link", "img", "iframe", "object", "embed", "base")]
    assert [attrs["href"] for tag, attrs, _ in parsed.elements if "href" in attrs] == ["https://www.tradingview.com/"]
    own = [parsed.texts("script")[2], *parsed.texts("style")]
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest|WebSocket|innerHTML|eval\(", " ".join(own))


def test_what_an_agent_wrote_is_never_html() -> None:
    """Not in the script, not in the title, not for a browser without script; the data keep it to the letter."""
    text = page(hostile())
    parsed = Page(text)
    assert len(parsed.texts("script")) == 3
    assert not parsed.texts("b")
    assert "alert(1)</script>" not in text
    data = embedded(text)
    assert data["decided"][0]["thesis"] == HOSTILE
    assert data["source"] == HOSTILE


def test_a_notebook_gets_the_page_in_a_sandbox() -> None:
    """The frame's document is the page, and the page cannot reach the notebook."""
    report = hostile()
    ((tag, attrs, _),) = Page(report._repr_html_()).elements
    assert (tag, attrs["srcdoc"]) == ("iframe", report.html())
    assert attrs["sandbox"] == "allow-scripts allow-popups"
    assert report._repr_html_().isascii()


def test_the_charts_keep_their_makers_notice_and_logo() -> None:
    """The library asks for its notice, a link and its logo, whose style the policy must let through."""
    text = page(Report.of(won(), Bars(*CLOSES)))
    assert "TradingView Lightweight Charts™, Copyright (c) 2026 TradingView, Inc." in html.unescape(text)
    assert "attributionLogo" not in Page(text).texts("script")[2]
    policy = re.search(r'content="(default-src[^"]*)"', text)
    assert policy is not None
    assert policy[1].count("'sha256-") == 4


def test_a_decision_carries_all_that_belongs_to_it() -> None:
    """Who said what, the order, and in `filled` and `trips` what became of it."""
    data = payload(Report.of(won(), Bars(*CLOSES)))
    first, second, third = data["decided"]
    assert [opinion["agent"] for opinion in first["opinions"]] == ["strategist", "risk_gate"]
    assert first["opinions"][0]["clamps"] == [{"field": "stop_pct", "given": 0.1, "kept": 0.5}]
    assert first["orders"][0]["text"] == "buy 10 ACME, market"
    assert (first["at"], [fill["at"] for fill in data["filled"]]) == (1, [2, 4])
    assert data["trips"][0]["decision"] == 0
    assert data["trips"][0]["profit"] == 18.0
    assert second["vetoes"] == [["risk_gate", "too much"]]
    assert third["code"] == "max_exposure"


@pytest.mark.parametrize("bars", [SHOWN, SHOWN + 1, 10_007])
def test_many_bars_share_a_candle_and_no_extreme_is_lost(bars: int) -> None:
    """The highest, the lowest, the first and the last price are drawn, and so are the last equity and the worst fall."""
    closes = 100 + np.cumsum(np.random.default_rng(bars).normal(0, 0.1, bars))
    closes[[bars // 3, bars // 3 + 1, bars // 2, bars // 2 + 1]] = 900, 800, 2, 3
    story = Story()
    story.decide(0, Outcome.ORDERED)
    story.fill(1, Side.BUY, "100", "o0")
    report = Report.of(story.end(bars, "0"), Bars(*closes))
    data = payload(report)
    candles = data["candles"]["ACME"]
    assert len(data["times"]) == len(candles["close"]) == len(data["equity"]) <= SHOWN
    assert data["step"] * len(data["times"]) >= bars
    assert max(candles["high"]) == pytest.approx(closes.max(), abs=1e-4)
    assert min(candles["low"]) == pytest.approx(closes.min(), abs=1e-4)
    assert (candles["open"][0], candles["close"][-1]) == (
        pytest.approx(closes[0], abs=1e-4),
        pytest.approx(closes[-1], abs=1e-4),
    )
    assert data["equity"][-1] == pytest.approx(float(report.final_equity), abs=0.01)
    assert min(data["falls"]) == pytest.approx(-100 * report.max_drawdown, abs=1e-3)


def test_the_same_report_gives_the_same_bytes() -> None:
    """No clock and no chance in the page, so that two runs can be compared."""
    assert page(Report.of(won(), Bars(*CLOSES))) == page(Report.of(won(), Bars(*CLOSES)))


def test_a_page_without_decisions_or_with_one_bar_can_be_made() -> None:
    """Nothing to draw is not an error."""
    data = embedded(page(Report.of(Story().end(1, "1000"), Bars(10))))
    assert (data["decided"], data["hold"], data["bars"]) == ([], [], 1)


def test_the_page_is_small_beside_its_library() -> None:
    """A report of a few bars weighs what its template weighs."""
    text = page(Report.of(won(), Bars(*CLOSES)))
    assert len(text) - len(Page(text).texts("script")[1]) < 60_000


def test_the_page_carries_what_the_result_is_worth() -> None:
    """Luck, chance, gates, months and the stamp are in its data, and the draws of chance for the picture."""
    report = Report.of(won(), Bars(*CLOSES), stamp=Marked("CONTAMINATED", "the model knew"))
    data = payload(report)
    assert data["stamp"] == {"verdict": "CONTAMINATED", "reason": "the model knew"}
    assert data["luck"]["trials"] == 1
    assert len(data["draws"]) == data["nulls"]["random_entry"]["draws"] == 200
    assert data["draws"] == sorted(data["draws"])
    assert [month["month"] for month in data["monthly"]] == ["2024-01"]
    assert set(data["gates"]["gates"]) == {"risk_gate", "limit: max_exposure", "bounds: stop_pct"}


def test_a_long_report_stays_small_beside_its_library() -> None:
    """A hundred thousand bars and fifty trades: under 300 kB."""
    closes = 100 + np.cumsum(np.random.default_rng(1).normal(0, 0.02, 100_000))
    story = Story()
    for number in range(50):
        story.decide(2000 * number, Outcome.ORDERED)
        story.fill(2000 * number + 1, Side.BUY, "100", f"o{2000 * number}")
        story.fill(2000 * number + 900, Side.SELL, "100", f"o{2000 * number}")
    text = page(Report.of(story.end(100_000, "1000"), Bars(*closes)))
    assert len(text) - len(Page(text).texts("script")[1]) < 300_000
