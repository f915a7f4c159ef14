"""What `agentfund gate` does: limits from files and from the command line, and a server in the foreground."""

from __future__ import annotations

import json
import sys
import tomllib
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentfund.core.gate import Limits
from agentfund.errors import ConfigError
from agentfund.rpc.link import Tls
from agentfund.rpc.server import GateServer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_KINDS = {field.name: type(field.default) for field in fields(Limits)}
_SWITCHES = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


def gate_command(
    listen: str,
    limits: Sequence[str],
    *,
    cert: Path | None,
    key: Path | None,
    client_ca: Path | None,
    insecure: bool,
    name: str,
    tell: Callable[[str], object],
) -> None:
    """Serve a gate until SIGTERM or SIGINT.

    Args:
        listen: `host:port`, or `unix:/path`.
        limits: files and `name=value`; what comes later wins.
        cert: the server's certificate.
        key: its key.
        client_ca: who signs the certificates that clients must show.
        insecure: allows plaintext to elsewhere.
        name: the server's name.
        tell: told one line once it listens.

    Raises:
        ConfigError: a limit, the address or a certificate cannot be used.
    """
    if client_ca is not None and cert is None:
        raise ConfigError("--client-ca needs the server's own certificate: --tls-cert and --tls-key")
    tls = None if cert is None and key is None else Tls(cert=cert, key=key, ca=client_ca)
    held = read_limits(limits)
    server = GateServer(listen, held, tls=tls, insecure=insecure, name=name)
    how = "plaintext" if tls is None else "TLS" if client_ca is None else "mutual TLS"

    def ready() -> None:
        tell(f"gate {server.name} listens on {server.address} ({how}); limits {held.digest}")
        sys.stdout.flush()  # whoever started it waits for this line

    server.run(ready)


def read_limits(given: Sequence[str]) -> Limits:
    """Return the limits that files and `name=value` say; what they do not say is as strict as by default.

    Raises:
        ConfigError: a file cannot be read, a name is no limit, or a value does not fit.
    """
    found: dict[str, Any] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if equals and not Path(one).is_file():
            name = _limit(name.strip(), one)
            found[name] = _read(name, text.strip())
        else:
            for key, value in _file(Path(one)).items():
                found[key] = _fits(_limit(key, one), value, value)
    return Limits(**found)


def _limit(name: str, where: str) -> str:
    if name not in _KINDS:
        raise ConfigError(f"{where}: there is no limit {name!r}; there is {', '.join(_KINDS)}")
    return name


def _file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        told = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"the limits {path} cannot be read: {error.strerror or error}; write FILE or name=value") from None
    except ValueError as error:
        raise ConfigError(f"the limits {path} are no {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
    if not isinstance(told, dict):
        raise ConfigError(f"the limits {path} must be names with values")
    return told


def _read(name: str, text: str) -> Any:
    if _KINDS[name] is frozenset:
        return frozenset(part.strip() for part in text.split(",") if part.strip())
    if _KINDS[name] is bool:
        return _fits(name, _SWITCHES.get(text.lower()), text)
    return _fits(name, _number(text), text)


def _number(text: str) -> int | float | None:
    """Return a number as Python reads it, so that the digest is that of the same `Limits(...)`."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return None


def _fits(name: str, value: Any, given: Any) -> Any:
    kind = _KINDS[name]
    if kind is frozenset and isinstance(value, (list, frozenset)) and all(isinstance(one, str) for one in value):
        return frozenset(value)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if kind in (int, bool) and type(value) is kind:
        return value
    what = {frozenset: "symbols", bool: "on or off", int: "a whole number", float: "a number"}[kind]
    raise ConfigError(f"limit {name} is {what}, not {given!r}")
