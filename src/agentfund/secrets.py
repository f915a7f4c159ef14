"""Keys and tokens: shown to nobody, and blotted out wherever a text could carry them outside."""

from __future__ import annotations

import base64
import html
import json
import threading
import unicodedata
from collections.abc import Iterator
from typing import NoReturn
from urllib.parse import quote, quote_plus
from weakref import WeakSet

SHORTEST = 8
"""A shorter text is no key: blotting it out would spoil innocent words."""

_START = 12
_ANY_CASE = 12  # so long a text in other letters is still the key, and no word that looks like it
_BLOT = "***"
_RARE = "\\&%`^~|"  # in texts; where it is missing, a form that holds it need not be looked for

_lock = threading.Lock()
_known: WeakSet[Secret] = WeakSet()


class Secret:
    """A key, token or password. It prints as `***`, cannot be pickled, and only `reveal` gives it.

    As long as it lives `scrub` blots it out of texts, plain and encoded.

    Args:
        value: the key as the provider gave it; white space around it is dropped.
    """

    __slots__ = ("__weakref__", "_exact", "_folded", "_forms", "_value")

    def __init__(self, value: str) -> None:
        self._value = value.strip()
        self._forms = _forms(self._value) if len(self._value) >= SHORTEST else ()
        any_case = len(self._value) >= _ANY_CASE
        folded = dict.fromkeys(form.casefold() for form in self._forms) if any_case else ()
        self._folded = tuple((_mark(form), form) for form in folded)
        self._exact = tuple((_mark(form), form) for form in self._forms)
        with _lock:
            _known.add(self)

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return _BLOT

    def __format__(self, spec: str) -> str:
        return _BLOT

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled or copied; read it again where it is needed")

    def reveal(self) -> str:
        """Return the value: for the one place that sends it to its provider."""
        return self._value


def any_secret() -> bool:
    """Return whether there is any secret in this process."""
    return bool(_known)


def scrub(text: str) -> str:
    """Return a text with every secret that lives in this process blotted out.

    Found are the plain value, its beginning where a text was cut off, and its usual encodings: Base64, Base32 and Base85,
    hexadecimal, percent-encoded, JSON and HTML escapes, written backwards.
    """
    for secret in _secrets():
        for form in secret._forms:
            if form in text:
                text = text.replace(form, _BLOT)
        text = _without_beginning(text, secret._value)
    return text


def holds_secret(*texts: str) -> bool:
    """Return whether any of the texts holds a secret, plain or encoded.

    It is found in other letters (full-width, with accents) and broken up by characters that are not ASCII, hidden ones
    among them; from 12 characters up also in capitals or small letters.
    """
    with _lock:
        secrets = list(_known)
    if not secrets:
        return False
    for text in texts:
        for look in _looks(text):
            folded = look.casefold()
            for secret in secrets:
                forms, within = (secret._folded, folded) if secret._folded else (secret._exact, look)
                for mark, form in forms:
                    if mark in within and form in within:
                        return True
    return False


def _mark(form: str) -> str:
    return next((mark for mark in _RARE if mark in form), "")


def _looks(text: str) -> Iterator[str]:
    """Give a text as it is and as it reads once disguises and escapes are taken off."""
    looks = [text]
    if not text.isascii():
        looks.append(unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode())
    for look in looks:
        yield look
        if "\\\\" in look:  # JSON in JSON
            yield look.replace("\\\\", "\\")


def _secrets() -> list[Secret]:
    with _lock:  # longest first: one key may begin like another
        return sorted(_known, key=lambda secret: len(secret._value), reverse=True)


def _without_beginning(text: str, value: str) -> str:
    """Blot out what is left of a secret that was cut off."""
    if len(value) <= _START:
        return text
    start = value[:_START]
    at = text.find(start)
    while at >= 0:
        end = at + _START
        while end < len(text) and end - at < len(value) and text[end] == value[end - at]:
            end += 1
        text = text[:at] + _BLOT + text[end:]
        at = text.find(start, at + len(_BLOT))
    return text


def _forms(value: str) -> tuple[str, ...]:
    """Return the value and its encodings, longest first."""
    raw = value.encode()
    forms = {
        value,
        value[::-1],
        raw.hex(),
        raw.hex().upper(),
        raw.hex(" "),
        quote(value, safe=""),
        quote_plus(value),
        "".join(f"%{byte:02X}" for byte in raw),
        "".join(f"%{byte:02x}" for byte in raw),
        json.dumps(value)[1:-1],
        "".join(f"\\u{ord(c):04x}" for c in value),
        "".join(f"\\u{ord(c):04X}" for c in value),
        html.escape(value),
        "".join(f"&#{ord(c)};" for c in value),
        base64.b85encode(raw).decode(),
        base64.b32encode(raw).decode().rstrip("="),
        base64.b32encode(raw).decode().rstrip("=").lower(),
    }
    # In Base64 the letters depend on how many bytes stand before; those on the edges mix with their neighbours.
    for before in range(3):
        padded = base64.b64encode(b"\0" * before + raw + b"\0" * 3).decode()
        whole = padded[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6]
        forms |= {whole, whole.replace("+", "-").replace("/", "_")}
    return tuple(sorted((form for form in forms if len(form) >= SHORTEST), key=len, reverse=True))
