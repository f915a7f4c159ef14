"""What a language model is asked, and what it answers.

A prompt has a stable part (instructions and output schema) and a changing part (inputs: numbers first). Text from
outside is `Untrusted`: it has a slot of its own and cannot be formatted into anything else.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cached_property, lru_cache
from typing import Any, Generic, Literal, NoReturn, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agentfund.errors import BadRequest, InvalidOutput

Output = TypeVar("Output", bound=BaseModel)

Task = Literal["reasoning", "code"]
Tier = Literal["strong", "middle", "small"]


@dataclass(frozen=True, slots=True)
class Untrusted:
    """Text that came from outside: news, posts, broker messages, tool errors.

    It cannot become part of an f-string, a `str` or an instruction by accident; `text` says openly what is done.

    Args:
        text: the text as it came.
        source: where it came from.
    """

    text: str
    source: str = ""

    def __str__(self) -> str:
        raise TypeError("untrusted text cannot be formatted; put it into Prompt.untrusted, or use .text and mean it")

    def __format__(self, spec: str) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"<Untrusted: {len(self.text)} characters from {self.source or 'an unnamed source'}>"

    @property
    def clean(self) -> str:
        """The text as a language model is shown it: no hidden or control characters, and no letters in disguise."""
        return plain_text(self.text)


_DISGUISED = str.maketrans(
    "аеорсухіѕјԁһԛԝԍАВЕКМНОРСТХҮІЈЅοανιρκτυχΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "aeopcyxisjdhqwgABEKMHOPCTXYIJSoavipktuxABEZHIKMNOPTYX",
)
"""Cyrillic and Greek letters that look like Latin ones."""

_WORD = re.compile(r"\w+")


def plain_text(text: str) -> str:
    """Return a text without hidden and control characters, in compatibility form, with words in disguise made Latin.

    Letters are replaced only in words that mix Latin letters with those that look like them, or that consist of nothing
    but such look-alikes beside ASCII: a word of another alphabet stays what it is. Forms: Unicode Standard Annex 15, NFKC;
    hidden are the categories Cc (but for line feed and tab), Cf, Co, Cs and Cn.
    """
    if text.isascii():
        return text if text.isprintable() else "".join(c for c in text if c.isprintable() or c in "\n\t")
    text = unicodedata.normalize("NFKC", text).replace("\u2028", "\n").replace("\u2029", "\n")
    text = "".join(c for c in text if c in "\n\t" or (unicodedata.category(c)[0] != "C" and c not in _FILLERS))
    return _WORD.sub(lambda word: _unmasked(word[0]), text)


_FILLERS = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    + "".join(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
)
"""Characters that show nothing although Unicode calls them letters, marks or symbols; variation selectors carry any text."""


def _unmasked(word: str) -> str:
    if word.isascii():
        return word
    shown = word.translate(_DISGUISED)
    return shown if shown.isascii() else word


@lru_cache(maxsize=1024)
def mentions_untrusted(kind: Any) -> bool:
    """Whether a type holds text from outside, at any depth."""
    if kind is Untrusted:
        return True
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        annotations: list[Any] = [info.annotation for info in kind.model_fields.values()]
        return any(mentions_untrusted(annotation) for annotation in annotations)
    return any(mentions_untrusted(part) for part in get_args(kind))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call.

    Args:
        input_tokens: all that was read, `cached_tokens` and `cache_write_tokens` included.
        output_tokens: all that was written, thinking included.
        cached_tokens: those of the input that came out of the provider's cache.
        cache_write_tokens: those of the input that were put into it.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
        )


class Answer(BaseModel, Generic[Output]):
    """What every language model is asked for: a value, or the reason why it gives none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Output | None = Field(description="your answer, or null when you abstain")
    abstain: str | None = Field(description="why you give no answer, or null when you give one")

    @model_validator(mode="after")
    def _one_of_two(self) -> Answer[Output]:
        if (self.value is None) == (self.abstain is None):
            raise ValueError("exactly one of value and abstain must be given; set the other to null")
        return self


@lru_cache(maxsize=256)
def _answer_type(output: type[BaseModel]) -> type[Answer[Any]]:
    return Answer[output]  # type: ignore[valid-type]


@lru_cache(maxsize=256)
def _schema(output: type[BaseModel]) -> dict[str, Any]:
    return _answer_type(output).model_json_schema()


@lru_cache(maxsize=256)
def _schema_text(output: type[BaseModel]) -> str:
    return canonical(_schema(output))


def canonical(value: Any, *, sort_keys: bool = True) -> str:
    """Return JSON without spaces: equal values give equal text.

    Raises:
        BadRequest: a value that cannot be shown, such as text from outside.
    """
    return json.dumps(value, sort_keys=sort_keys, separators=(",", ":"), ensure_ascii=False, default=_plain)


@dataclass(frozen=True)
class Prompt:
    """One question to a language model.

    Args:
        agent: who asks.
        instructions: the role card's text; stable, so that providers can cache it.
        inputs: what is shown, JSON values; numbers first.
        output: the type of the value asked for.
        untrusted: text from outside, by slot name.
        task: kind of work, by which a router chooses the route.
        tier: class of language model that the role wants.
        max_output_tokens: most tokens the answer may have, thinking included.
        rule: the rule twin that can answer in a language model's place; not part of the question.
    """

    agent: str
    instructions: str
    inputs: Mapping[str, Any]
    output: type[BaseModel]
    untrusted: Mapping[str, Untrusted] = field(default_factory=dict)
    task: Task = "reasoning"
    tier: Tier = "middle"
    max_output_tokens: int = 2048
    rule: Callable[[], Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if type(self.instructions) is not str:
            raise BadRequest(
                f"instructions of {self.agent} are a {type(self.instructions).__name__}: they are plain text of ours"
            )
        for slot, text in self.untrusted.items():
            if type(text) is not Untrusted:
                raise BadRequest(
                    f"untrusted[{slot!r}] of {self.agent} is a {type(text).__name__}: wrap it, Untrusted(text, source)"
                )

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema that the answer must fit."""
        return _schema(self.output)

    @property
    def schema_text(self) -> str:
        """The schema as canonical JSON."""
        return _schema_text(self.output)

    @cached_property
    def question(self) -> str:
        """The whole question as canonical JSON: the same question always gives the same text."""
        before = {
            "agent": self.agent,
            "inputs": self.inputs,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
        }
        after = {
            "task": self.task,
            "tier": self.tier,
            "untrusted": {slot: [text.source, text.text] for slot, text in self.untrusted.items()},
        }
        # The schema is most of the text and never changes, so it is written once a type; the keys stay in order.
        return f'{canonical(before)[:-1]},"schema":{_schema_text(self.output)},{canonical(after)[1:]}'

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the question, hexadecimal."""
        return hashlib.sha256(self.question.encode()).hexdigest()

    def parse(self, text: str) -> Answer[Any]:
        """Read a language model's answer, strictly.

        Raises:
            InvalidOutput: not one JSON object, a key twice, NaN, an infinite number, a field too many, a wrong type.
        """
        try:
            _STRICT.decode(text)
            return _answer_type(self.output).model_validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)
            what = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'answer'}: {e['msg']}" for e in first[:5])
            raise InvalidOutput(what, text=text) from None
        except (ValueError, RecursionError) as error:
            raise InvalidOutput(f"not strict JSON: {error}", text=text) from None


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


_STRICT = json.JSONDecoder(object_pairs_hook=_no_twins, parse_constant=_no_constant, parse_float=_finite)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise BadRequest(f"a prompt cannot hold a {type(value).__name__}; show it as numbers, strings, lists or dicts")


@dataclass(frozen=True, slots=True)
class Completion:
    """A language model's answer and what it took.

    Args:
        text: the answer as it came; parsed by us, never by an SDK.
        route: which way it came.
        llm: name of the language model, as the provider calls it.
        usage: tokens.
        billed_usd: what is owed for it; zero on a flat-rate route.
        notional_usd: what it would have cost at list price; None where no price is known.
        latency_s: seconds from question to answer.
        request_id: the provider's id for the call.
        answer: the parsed answer, once somebody has parsed it.
        adds: what the route put into the prompt by itself that could spoil a backtest, empty where nothing.
    """

    text: str
    route: str
    llm: str
    usage: Usage = Usage()
    billed_usd: Decimal = Decimal(0)
    notional_usd: Decimal | None = None
    latency_s: float = 0.0
    request_id: str = ""
    answer: Answer[Any] | None = None
    adds: str = ""
