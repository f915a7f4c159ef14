"""What this machine has and lacks: facts only, nothing is printed, nothing is changed, no secret is shown."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import platform
import re
import shutil
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agentfund.routes import CHECK_S, buildable, check
from agentfund.version import __version__

GROUPS = ("agentfund.brokers", "agentfund.feeds", "agentfund.buses", "agentfund.llms")
KEYS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "APCA_API_KEY_ID", "APCA_API_SECRET_KEY", "EODHD_API_TOKEN")
PROGRAMS = ("claude", "codex")
SERVICES = {"Postgres": 5432, "Redis": 6379, "NATS": 4222, "RabbitMQ": 5672}
TIMEOUT_S = 1.0
LITTLE_DISK_GB = 1.0


@dataclass(frozen=True, slots=True)
class Package:
    """A package that agentfund uses; `version` is None where it is not installed."""

    name: str
    version: str | None


@dataclass(frozen=True, slots=True)
class Extra:
    """An extra of agentfund, and which of its packages are missing."""

    name: str
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plug:
    """Something that was found by its entry point; `error` is empty where it loads."""

    group: str
    name: str
    target: str
    error: str


@dataclass(frozen=True, slots=True)
class Service:
    """A local service: where it was looked for, whether it accepts connections, and what hindered the look."""

    name: str
    variable: str
    address: str
    answers: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found.

    Attributes:
        agentfund: its version.
        python: version of the interpreter.
        system: operating system and machine.
        packages: what agentfund depends on.
        extras: optional parts.
        plugs: brokers, feeds, buses and language models found by entry point.
        keys: whether a variable of the environment is set; never its value.
        programs: path of a command line program, None where it is not on PATH.
        services: what answers on this machine.
        routes: why a route to a language model cannot be used here, empty where it can; those that can say so.
        folder: the working directory.
        disk_free_gb: room there; None where it cannot be told.
        can: what all this means, one sentence each.
    """

    agentfund: str
    python: str
    system: str
    packages: tuple[Package, ...]
    extras: tuple[Extra, ...]
    plugs: tuple[Plug, ...]
    keys: Mapping[str, bool]
    programs: Mapping[str, str | None]
    services: tuple[Service, ...]
    routes: Mapping[str, str]
    folder: str
    disk_free_gb: float | None
    can: tuple[str, ...]


def examine(environ: Mapping[str, str], *, check_s: float = CHECK_S) -> Facts:
    """Look around: takes about a second where a service does not answer, and up to `check_s` where a route does not.

    A route says itself whether it can be used. It looks at the environment of this process; the command lines are run,
    as `claude auth status` and `codex login status`, and nobody is asked for an answer.

    Args:
        environ: the environment to look at.
        check_s: seconds that a route may take.
    """
    packages, extras = _packages()
    plugs = tuple(_plug(group, point) for group in GROUPS for point in _entry_points(group))
    keys = {name: bool(environ.get(name, "").strip()) for name in KEYS}
    programs = {name: shutil.which(name, path=environ.get("PATH", "")) for name in PROGRAMS}
    routes, silent = buildable()
    told = check(routes, most_s=check_s)
    folder, free = _disk()
    return Facts(
        agentfund=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages=packages,
        extras=extras,
        plugs=plugs,
        keys=keys,
        programs=programs,
        services=_services(environ),
        routes=told,
        folder=folder,
        disk_free_gb=free,
        can=_meaning(plugs, extras, told, silent, free),
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> tuple[tuple[Package, ...], tuple[Extra, ...]]:
    try:
        wanted = importlib.metadata.requires("agentfund") or []
    except importlib.metadata.PackageNotFoundError:  # run from a folder that was never installed
        wanted = []
    extras: dict[str, list[str]] = {}
    names: dict[str, None] = {}
    for line in wanted:
        name = re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]
        names[name] = None
        if extra := re.search(r"extra\s*==\s*['\"]([^'\"]+)", line):
            extras.setdefault(extra[1], []).append(name)
    packages = {name: _version(name) for name in sorted(names)}
    missing = {extra: tuple(name for name in of if packages[name] is None) for extra, of in sorted(extras.items())}
    return (
        tuple(Package(name, version) for name, version in packages.items()),
        tuple(Extra(extra, lacks) for extra, lacks in missing.items()),
    )


def _entry_points(group: str) -> list[importlib.metadata.EntryPoint]:
    return sorted(importlib.metadata.entry_points(group=group), key=lambda point: point.name)


def _plug(group: str, point: importlib.metadata.EntryPoint) -> Plug:
    error = ""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # what a stranger's package prints is no answer of ours
            point.load()
    except (ImportError, AttributeError) as problem:
        error = f"{type(problem).__name__}: {problem}"
    except (Exception, SystemExit) as problem:  # a stranger's words could quote a secret, so only the kind is told
        error = type(problem).__name__
    return Plug(group, point.name, point.value, error)


def _services(environ: Mapping[str, str]) -> tuple[Service, ...]:
    found: list[Service] = []
    looks: list[tuple[str, str, str, int, list[str]]] = []
    for name, port in SERVICES.items():
        variable = f"AGENTFUND_{name.upper()}_URL"
        place = _place(environ.get(variable, "").strip(), port)
        if place is None:
            note = f"{variable} cannot be read as scheme://user:password@host:port; percent-encode @ : / in the password"
            found.append(Service(name, variable, "", False, note))
        else:
            looks.append((name, variable, *place, []))
    # Looking a name up has no time-out of its own, so each look has a thread that nobody has to wait for.
    threads = [threading.Thread(target=_look, args=look[2:], daemon=True) for look in looks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    for name, variable, host, port, said in looks:
        note = said[0] if said else "no answer in time"
        found.append(Service(name, variable, f"{host}:{port}", note == "", note))
    order = list(SERVICES)
    return tuple(sorted(found, key=lambda service: order.index(service.name)))


def _place(url: str, port: int) -> tuple[str, int] | None:
    """Return host and port of a URL, and nothing else of it; None where they cannot be told from a password for sure."""
    if not url:
        return "127.0.0.1", port
    try:
        parts = urlsplit(url)
        if not parts.scheme or "://" not in url or "@" in f"{parts.path}{parts.query}{parts.fragment}":
            return None
        return parts.hostname or "127.0.0.1", parts.port or port
    except ValueError:
        return None


def _look(host: str, port: int, said: list[str]) -> None:
    try:
        socket.create_connection((host, port), timeout=TIMEOUT_S / 2).close()
        said.append("")
    except (OSError, UnicodeError) as error:
        said.append(getattr(error, "strerror", None) or "no answer in time")


def _disk() -> tuple[str, float | None]:
    try:
        folder = Path.cwd()
        return str(folder), round(shutil.disk_usage(folder).free / 1e9, 1)
    except OSError:
        return "(the working directory was deleted)", None


def _meaning(
    plugs: tuple[Plug, ...],
    extras: tuple[Extra, ...],
    routes: Mapping[str, str],
    silent: tuple[str, ...],
    free: float | None,
) -> tuple[str, ...]:
    loads = {(plug.group, plug.name) for plug in plugs if not plug.error}
    told = []
    for what, needs in {
        "demo": {("agentfund.feeds", "simulated")},
        "backtest with rules": {("agentfund.feeds", "files")},
    }.items():
        lacks = {("agentfund.brokers", "paper"), ("agentfund.buses", "sqlite"), *needs} - loads
        why = f"no, {', '.join(sorted(name for _, name in lacks))} does not load: install agentfund again" if lacks else "yes"
        told.append(f"{what}: {why}")
    told.extend(
        f"Parquet files: not yet, pip install 'agentfund[{extra.name}]'"
        for extra in extras
        if extra.name == "parquet" and extra.missing
    )
    told.append(f"language models: {_language_models(routes, silent)}")
    if free is not None and free < LITTLE_DISK_GB:
        told.append(f"disk: only {free:g} GB are free here, and a log that cannot be written stops a run")
    return tuple(told)


def _language_models(routes: Mapping[str, str], silent: tuple[str, ...]) -> str:
    if usable := [name for name, why in routes.items() if not why]:
        return f"yes, by {', '.join(usable)}"
    if silent:
        return f"perhaps, by {', '.join(silent)}; what that needs, its own package says"
    return "not yet, set ANTHROPIC_API_KEY or OPENAI_API_KEY, or log in to the claude or codex command"
