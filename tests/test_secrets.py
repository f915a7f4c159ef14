"""A key is shown to nobody: not when it is printed, copied or logged, and not when somebody else repeats it."""

from __future__ import annotations

import base64
import copy
import html
import json
import pickle
import threading
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfund.secrets import Secret, holds_secret, scrub

KEY = "sk-ant-Ab3/xyz+0123456789=="

FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "backwards": lambda key: key[::-1],
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 within others": lambda key: base64.b64encode(f"user:{key}:more".encode()).decode(),
    "base64 for addresses": lambda key: base64.urlsafe_b64encode(f"?{key}".encode()).decode(),
    "base32": lambda key: base64.b32encode(key.encode()).decode(),
    "base85": lambda key: base64.b85encode(key.encode()).decode(),
    "hex": lambda key: key.encode().hex(),
    "hex in capitals": lambda key: key.encode().hex().upper(),
    "hex with spaces": lambda key: key.encode().hex(" "),
    "percent": lambda key: quote(key, safe=""),
    "percent, all of it": lambda key: "".join(f"%{byte:02X}" for byte in key.encode()),
    "form": quote_plus,
    "json": lambda key: json.dumps(key)[1:-1],
    "json escapes": lambda key: "".join(f"\\u{ord(char):04x}" for char in key),
    "html": html.escape,
    "html numbers": lambda key: "".join(f"&#{ord(char)};" for char in key),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_usual_form_of_a_key_is_blotted_out(form: str) -> None:
    """Whoever repeats it, in an error or a log."""
    secret = Secret(KEY)
    shown = FORMS[form](KEY)
    told = scrub(f"401: the key {shown} is wrong")
    assert "***" in told
    assert shown not in told
    assert shown[4:-4] not in told
    assert told.startswith("401: the key ")
    assert told.endswith(" is wrong")
    assert holds_secret("nothing", f"x{shown}y")
    assert secret


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=80), st.text(), st.text())
def test_no_key_survives_in_any_text(key: str, before: str, after: str) -> None:
    """Whatever stands around it."""
    secret = Secret(key)
    assert key not in scrub(f"{before}{key}{after}")
    assert holds_secret(f"{before}{key}{after}")
    assert secret


@given(st.integers(12, len(KEY)))
def test_the_beginning_of_a_key_is_blotted_out_where_a_text_was_cut_off(length: int) -> None:
    """Providers shorten what they repeat."""
    secret = Secret(KEY)
    assert scrub(f"wrong key {KEY[:length]}") == "wrong key ***"
    assert secret


DISGUISES: dict[str, Callable[[str], str]] = {
    "zero-width spaces": "\u200b".join,
    "a soft hyphen": lambda key: f"{key[:5]}\u00ad{key[5:]}",
    "a byte order mark": lambda key: f"{key[:9]}\ufeff{key[9:]}",
    "a variation selector": lambda key: f"{key[:9]}\ufe0f{key[9:]}",
    "an accent": lambda key: f"{key[:9]}\u0301{key[9:]}",
    "full-width": lambda key: "".join(chr(ord(letter) + 0xFEE0) for letter in key),
    "capitals": str.upper,
    "small letters": str.lower,
    "full-width capitals": lambda key: "".join(chr(ord(letter) + 0xFEE0) for letter in key.upper()),
    "JSON in JSON": lambda key: json.dumps(json.dumps("\u2060".join(key), ensure_ascii=False), ensure_ascii=False),
}


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("form", ["plain", "hex", "base64"])
def test_a_key_is_found_in_disguise(disguise: str, form: str) -> None:
    """Broken up by what nobody sees, in letters of another shape, in capitals."""
    secret = Secret(KEY)
    assert holds_secret("nothing", f"see: {DISGUISES[disguise](FORMS[form](KEY))}, déjà vu")
    assert not holds_secret(DISGUISES[disguise]("an innocent sentence without any key"))
    assert secret


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12, max_size=80), st.text(), st.text())
def test_no_key_is_lost_in_other_cases_and_letters(key: str, before: str, after: str) -> None:
    """Whatever stands around it."""
    secret = Secret(key)
    for shown in (key, key.upper(), key.lower(), "\u200d".join(key)):
        assert holds_secret(f"{before}{shown}{after}")
    assert secret


def test_a_short_key_is_found_as_it_is_and_not_in_capitals() -> None:
    """So short a text may be a word: only from 12 characters up the case makes no difference."""
    short = Secret("Strategy-9")
    assert holds_secret("the Strategy-9 key")
    assert not holds_secret("strategy-9 lost")
    assert short
    long = Secret("Strategy-012")
    assert holds_secret("the STRATEGY-012 key")
    assert long


def test_innocent_words_stay() -> None:
    """A short text is no key, and other texts are left as they are."""
    short, long = Secret("unused"), Secret(KEY)
    text = "unused: sk-ant keys are 27 characters"
    assert scrub(text) == text
    assert not holds_secret(text, "")
    assert short
    assert long


def test_a_secret_shows_nothing_of_itself() -> None:
    """Printed, formatted, listed, in an f-string or a log."""
    secret = Secret(KEY)
    shown = [str(secret), repr(secret), f"{secret}", f"{secret:>40}", "%s" % secret, str([secret]), str({"key": secret})]  # noqa: UP031
    assert not any(KEY in text for text in shown)
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_secret_is_not_copied(take: Callable[[Secret], object]) -> None:
    """A copy would lie where nobody looks after it: in a queue, a cache, another process."""
    with pytest.raises(TypeError, match="not pickled"):
        take(Secret(KEY))


def test_only_reveal_gives_it_and_white_space_is_dropped() -> None:
    """A file with a key ends with a line feed."""
    assert Secret(f" {KEY}\n").reveal() == KEY
    assert Secret("x")
    assert not Secret(" ")


def test_two_keys_are_blotted_out_in_one_text() -> None:
    """Both, wherever they stand."""
    first, second = Secret(KEY), Secret("other-0123456789")
    assert scrub(f"{KEY}, other-0123456789, {KEY}") == "***, ***, ***"
    assert first
    assert second


def test_keys_come_and_go_while_others_scrub() -> None:
    """Threads make and forget secrets; nobody trips over it."""
    failed: list[Exception] = []

    def work(number: int) -> None:
        try:
            for turn in range(50):
                key = f"sk-thread-{number}-{turn}-0123456789"
                secret = Secret(key)
                assert key not in scrub(f"the key {key}")
                assert secret
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
