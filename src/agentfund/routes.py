"""Routes to language models by name: which are installed, what `anthropic:claude-haiku-5-5` means, which can be used here."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import io
import re
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from agentfund.errors import AgentFundError, ConfigError
from agentfund.secrets import scrub

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from agentfund.protocols import LLM

GROUP = "agentfund.llms"
OFFLINE = frozenset({"recorded", "rules", "scripted"})
"""Routes that ask no language model."""

LOCAL = "local"
CHECK_S = 10.0
_SHOWN = 300
_WORD = re.compile(r"(?P<name>[^:@]+)(?::(?P<llm>.+?))?(?:@(?P<url>https?://.+))?")


def installed() -> dict[str, EntryPoint]:
    """Return the entry points of routes, in the order of the alphabet."""
    found = importlib.metadata.entry_points(group=GROUP)
    return {point.name: point for point in sorted(found, key=lambda point: point.name)}


def routes(text: str) -> list[LLM]:
    """Return the routes that a list of words names, best first.

    Args:
        text: words with commas between: NAME, NAME:MODEL, NAME:MODEL@URL for another server, or local:MODEL@URL for a
            server of one's own that speaks OpenAI's Chat Completions.

    Raises:
        ConfigError: a word cannot be read, nobody brings such a route, it cannot be built of that, or it is never reached.
    """
    from agentfund.llms.rules import Rules

    built: list[LLM] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        llm = _route(word)
        if any(llm.name == other.name for other in built):
            raise ConfigError(f"{text!r} names {llm.name} twice; each route once, best first")
        if built and isinstance(built[-1], Rules):
            raise ConfigError(f"{text!r}: rules always answer, so {llm.name} after them is never asked; put rules last")
        built.append(llm)
    if not built:
        raise ConfigError(f"{text!r} names no route; there is {', '.join(_known())}")
    return built


def _route(word: str) -> LLM:
    match = _WORD.fullmatch(word)
    if match is None or "://" in (match["llm"] or ""):
        raise ConfigError(
            f"{_shown(word)} cannot be read; write NAME, NAME:MODEL, NAME:MODEL@URL or {LOCAL}:MODEL@http://host:port/v1"
        )
    name, given = match["name"], {}
    if name == LOCAL:
        if not (match["llm"] and match["url"]):
            raise ConfigError(f"{_shown(word)} lacks the model or the address; write {LOCAL}:MODEL@http://127.0.0.1:11434/v1")
        given = {"name": LOCAL, "api": "chat"}
    points = installed()
    point = points.get("openai" if name == LOCAL else name)
    if point is None or name == "recorded":
        raise ConfigError(f"no package installed here brings a route {name!r}; there is {', '.join(_known())}")
    if match["llm"]:
        given["llm"] = match["llm"]
    if match["url"]:
        given["base_url"] = match["url"]
    try:
        return cast("LLM", point.load()(**given))
    except TypeError:
        what = " and no ".join({"llm": "model", "base_url": "address"}[key] for key in given if key in ("llm", "base_url"))
        why = f"takes no {what} here" if what else "needs arguments"
        raise ConfigError(f"route {name!r} {why}: build it in Python") from None
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"route {name!r} does not load: {error}; install its package again") from None


def _shown(word: str) -> str:
    """Return the beginning of a word: behind it somebody may have put a key."""
    return repr(word.partition(":")[0][:20])


def _known() -> list[str]:
    names = [name for name, point in installed().items() if name not in ("recorded", "scripted") and _loaded(point)]
    return [*names, LOCAL]


def _loaded(point: EntryPoint) -> Any:
    """Return what an entry point names, None where it does not load; what a stranger's package prints is no answer of ours."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception, SystemExit):
        return point.load()


def buildable() -> tuple[dict[str, LLM], tuple[str, ...]]:
    """Return the installed routes that can be built without arguments and asked whether they can be used.

    Returns:
        Those, by the name of their entry point; and the names of the others that load.
    """
    built: dict[str, LLM] = {}
    others: list[str] = []
    for name, point in installed().items():
        if name in OFFLINE:
            continue
        kind = _loaded(point)
        if kind is None:  # whoever lists what is installed tells of it
            continue
        route: Any = None
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            route = kind()
        if callable(getattr(route, "check", None)):
            built[name] = route
        else:
            others.append(name)
    return built, tuple(others)


def check(llms: Mapping[str, LLM], *, most_s: float = CHECK_S) -> dict[str, str]:
    """Ask routes whether they can be used here, all at once; nobody is asked for an answer.

    Args:
        llms: the routes.
        most_s: seconds that a route may take to say so.

    Returns:
        Why a route cannot be used, and the fix; empty where it can, and where it does not say.
    """
    told = dict.fromkeys(llms, f"it did not say within {most_s:g} s whether it can be used: try again")

    async def every() -> None:
        async def one(name: str, llm: Any) -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(most_s):
                    told[name] = await _checked(llm)

        await asyncio.gather(*(one(name, llm) for name, llm in llms.items()))

    # A thread that nobody has to wait for: a route may block, and an event loop may be running here already.
    thread = threading.Thread(target=lambda: asyncio.run(every()), name="check", daemon=True)
    thread.start()
    thread.join(most_s + 1)
    return dict(told)


async def _checked(llm: Any) -> str:
    ask = getattr(llm, "check", None)
    if ask is None:
        return ""
    try:
        return _one_line(str(await ask()))
    except AgentFundError as error:
        return _one_line(str(error))
    except Exception as error:  # a stranger's words could quote a secret, so only the kind is told
        return f"{type(error).__name__} when it was asked"


def _one_line(text: str) -> str:
    return scrub(" ".join(text.split()))[:_SHOWN]


def unusable(llms: Iterable[LLM], *, most_s: float = CHECK_S) -> dict[str, str]:
    """Return the routes that cannot be used here, each with the reason and the fix."""
    return {name: why for name, why in check({llm.name: llm for llm in llms}, most_s=most_s).items() if why}
