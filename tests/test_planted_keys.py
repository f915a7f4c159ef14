"""Planted keys: whatever providers, language models and users do, no key gets out."""

from __future__ import annotations

import base64
import json
import logging
import sqlite3
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from agentfund.backtest.engine import Backtest
from agentfund.brokers.paper import PaperBroker
from agentfund.buses.sqlite import SqliteBus
from agentfund.core.journal import journal
from agentfund.core.orchestrator import Orchestrator
from agentfund.core.router import Router
from agentfund.doctor import examine
from agentfund.errors import BadRequest, ConfigError, LLMError
from agentfund.feeds.simulated import SimulatedMarket
from agentfund.llms import Anthropic, ClaudeCLI, CodexCLI, OpenAI, RecordedLLM, ScriptedLLM
from agentfund.prompt import Prompt, Untrusted
from agentfund.protocols import LLM
from agentfund.secrets import Secret
from agentfund.specialists import desk
from agentfund.testing import Fault, Provider
from agentfund.trading import Verdict

KEY = "sk-planted-9f8e7d6c5b4a39281706"
RAW = KEY.encode()
FORMS = {
    "plain": KEY,
    "cut off": KEY[:20],
    "backwards": KEY[::-1],
    "base64": base64.b64encode(RAW).decode(),
    "base64 behind a user name": base64.b64encode(b"user:" + RAW).decode(),
    "base64 for addresses": base64.urlsafe_b64encode(RAW + b"??").decode(),
    "base32": base64.b32encode(RAW).decode(),
    "base85": base64.b85encode(RAW).decode(),
    "hexadecimal": RAW.hex(),
    "hexadecimal in capitals": RAW.hex().upper(),
    "percent-encoded": "".join(f"%{byte:02X}" for byte in RAW),
    "quoted": quote(KEY),
    "JSON escapes": "".join(f"\\u{ord(letter):04x}" for letter in KEY),
    "HTML escapes": "".join(f"&#{ord(letter)};" for letter in KEY),
}
MARKS = {form[len(form) // 3 : len(form) // 3 + 14] for name, form in FORMS.items() if name != "cut off"}
"""A part of each form, so that a form that is only half blotted out is found too."""


def clean(text: str) -> bool:
    return not any(mark in text for mark in MARKS)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_that_a_run_leaves_behind_holds_a_key(form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Log, journal, report, cassette, reprs and messages, when errors and answers echo the key in any form."""
    caplog.set_level(logging.DEBUG)
    echo = f"your key {FORMS[form]} is odd"
    answers: list[str | Fault] = [
        Fault.http(500, echo),
        json.dumps({"value": None, "abstain": echo}),
        Fault.refusal(echo),
        json.dumps({"value": None, "abstain": "fine", "key": echo}),
        echo,
    ]
    with Provider(answers * 40) as provider:
        routes: list[LLM] = [
            Anthropic("m", api_key=KEY, base_url=provider.url, name="a"),
            OpenAI("m", api_key=KEY, base_url=f"{provider.url}/v1", name="b", free=True),
        ]
        router = Router(routes, retries=0, failures=1000)
        bus = SqliteBus(tmp_path / "fund.db")
        fund = Orchestrator(desk(RecordedLLM(tmp_path / "cassette.db", router)), bus=bus)
        report = Backtest(fund, SimulatedMarket(bars=12), PaperBroker()).run()
        report.save(tmp_path / "out")
        left = [repr(router), repr(routes), repr(fund), str(router.status()), str(report), caplog.text]
    left += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(left) > 8
    assert [text[:200] for text in left if not clean(text)] == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_no_error_holds_a_key_nor_does_what_hangs_on_it(form: str, status: int) -> None:
    """Neither its text, nor its causes and their causes, nor what a debugger prints of their fields."""
    with Provider(Fault.http(status, f"bad key {FORMS[form]}")) as provider:
        for route in (
            Anthropic("m", api_key=KEY, base_url=provider.url),
            OpenAI("m", api_key=KEY, base_url=f"{provider.url}/v1"),
            OpenAI("m", api_key=KEY, base_url=f"{provider.url}/v1", api="chat"),
        ):
            with pytest.raises(LLMError) as caught:
                await route.complete(Prompt("a", "b", {}, Verdict))
            seen: list[BaseException] = []
            error: BaseException | None = caught.value
            while error is not None and error not in seen:
                seen.append(error)
                error = error.__cause__ or error.__context__
            told = "".join(traceback.format_exception(caught.value)) + "".join(repr(vars(one)) for one in seen)
            assert clean(told)


ASKED: dict[str, dict[str, Any]] = {
    "in the inputs": {"inputs": {"note": f"call it with {KEY}"}},
    "in a list": {"inputs": {"notes": [1, {"deep": FORMS["base64"]}]}},
    "in the instructions": {"instructions": f"Use the key {KEY}."},
    "in text from outside": {"untrusted": {"news": Untrusted(f"leaked: {FORMS['hexadecimal']}")}},
    "with hidden characters": {"inputs": {"note": "\u200b".join(KEY)}},
    "full-width": {"inputs": {"note": "".join(chr(ord(letter) + 0xFEE0) for letter in KEY)}},
    "in capitals": {"inputs": {"note": KEY.upper()}},
    "in letters that look the same": {"untrusted": {"news": Untrusted(KEY.replace("a", "\u0430"))}},
}


@pytest.mark.parametrize("where", ASKED)
async def test_a_prompt_that_holds_a_key_is_neither_sent_nor_recorded(where: str, tmp_path: Path) -> None:
    """It is the caller's bug, and no route is asked."""
    prompt = Prompt(**{"agent": "a", "instructions": "b", "inputs": {}, "output": Verdict, **ASKED[where]})
    with Provider() as provider:
        route = Anthropic("m", api_key=KEY, base_url=provider.url)
        for llm in (route, Router([route]), RecordedLLM(tmp_path / "c.db", ScriptedLLM([]))):
            with pytest.raises(BadRequest, match="holds a key") as caught:
                await llm.complete(prompt)
            assert clean(str(caught.value))
        assert provider.requests == []
    kept = sqlite3.connect(tmp_path / "c.db")
    assert kept.execute("SELECT count(*) FROM questions").fetchall() == [(0,)]
    kept.close()


@pytest.mark.parametrize("name", [KEY, KEY.upper(), "k" * 101, "gsk key", "AIza\n"])
@pytest.mark.parametrize("make", [Anthropic, OpenAI, ClaudeCLI, CodexCLI])
def test_a_key_is_no_name_of_a_language_model(make: Callable[..., LLM], name: str) -> None:
    """It would stand in reprs and tables, so it is refused and not quoted."""
    given: list[Any] = [name, {"small": name}, {name: "small"}]
    for llm in given:
        with pytest.raises(ConfigError) as caught:
            make(llm)
        assert name not in str(caught.value)
    assert "a" * 100 in repr(make("a" * 100))


def test_a_wrong_tier_is_named() -> None:
    """What cannot be a key is quoted, so that a slip of the pen is found."""
    with pytest.raises(ConfigError, match="'stong' is no tier; the tiers are strong"):
        Anthropic({"stong": "m"})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="small needs the name of a language model, not an empty name"):
        Anthropic({"small": ""})
    with pytest.raises(ConfigError, match="small needs the name of a language model, not a Secret"):
        Anthropic({"small": Secret(KEY)})  # type: ignore[dict-item]


async def test_the_journal_and_the_doctor_show_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an operator looks at first."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    assert clean(repr(examine({"ANTHROPIC_API_KEY": KEY, "PATH": str(tmp_path)})))
    secret = Secret(KEY)
    bus = SqliteBus(tmp_path / "fund.db")
    fund = Orchestrator(desk(ScriptedLLM(lambda prompt: LLMError(f"no: {secret.reveal()}"))), bus=bus)
    async for _ in fund.run(SimulatedMarket(bars=3), PaperBroker()):
        pass
    assert clean(journal([message async for message in bus.read()]))
    await bus.close()
