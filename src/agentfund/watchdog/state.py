"""What the watchdog must not forget: signed by itself, so that whoever changes or removes it is found out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from agentfund.errors import ConfigError
from agentfund.secrets import Secret
from agentfund.watchdog.chain import GENESIS
from agentfund.watchdog.folder import RESERVE, Folder, replace_file, sync_folder
from agentfund.watchdog.keys import Key, Verify

HALTS_MODE = 0o660
FOLDER_MODE = 0o1770
"""Members of the group may add files (the heartbeat) and nobody may remove another user's."""


@dataclass(slots=True)
class State:
    """The watchdog's memory between two of its lives.

    Args:
        operator: the operator's public key, pinned when the folder was made.
        fund: name of the fund, pinned at its first heartbeat or before; empty before that.
        config: digest of its limits, pinned likewise.
        n: length of the record of halts.
        head: hash of its newest line.
        open: causes that are latched, as the record tells them.
        lifted: the lines that ended causes.
        peak: highest equity.
        day: the trading day (UTC), as an ISO date.
        day_equity: equity when it began.
        boot: run of the machine in which the clock was read last.
        uptime: when that was, in seconds since the machine started.
        wall: the wall time then, aware UTC, ISO 8601.
        offset: how far the fund's log went.
    """

    operator: str
    fund: str = ""
    config: str = ""
    n: int = 0
    head: str = GENESIS
    open: list[dict[str, Any]] = field(default_factory=list)
    lifted: list[dict[str, Any]] = field(default_factory=list)
    peak: str = ""
    day: str = ""
    day_equity: str = ""
    boot: str = ""
    uptime: float = 0.0
    wall: str = ""
    offset: int = 0

    def signed(self, key: Key) -> bytes:
        """Return the state as its file holds it."""
        body = json.dumps(asdict(self), separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
        return body + b"\n" + key.sign(b"agentfund state " + body).encode() + b"\n"

    @classmethod
    def read(cls, content: bytes, verify: Verify) -> State | None:
        """Return the state that a file holds, None where it is not what the watchdog wrote."""
        try:
            body, signature, rest = content.split(b"\n")
            raw = bytes.fromhex(signature.decode("ascii"))
            if rest or raw.hex().encode() != signature or not verify(raw, b"agentfund state " + body):
                return None
            told = json.loads(body)
            return cls(**{one.name: told[one.name] for one in fields(cls)})
        except (ValueError, LookupError, TypeError):
            return None


def make_folder(path: str, *, passphrase: Secret | None, fund: str = "", config: str = "") -> Folder:
    """Make a fund's folder: keys of the watchdog and the operator, an empty record, a first state.

    Args:
        path: the folder; it may be there, without keys.
        passphrase: seals the operator's key; None leaves it open to whoever can read the file.
        fund: name of the fund, where it is known already.
        config: digest of its limits, where it is known already.

    Raises:
        ConfigError: there are keys already, or the passphrase is too short.
        OSError: it cannot be written.
        MissingExtra: the extra `watchdog` is not installed.
    """
    folder = Folder(path)
    if there := [file.name for file in (folder.watchdog_key, folder.operator_key, folder.halts, folder.state) if file.exists()]:
        raise ConfigError(f"{folder.path} has {there[0]} already: it is a watchdog's folder; name another one")
    watchdog, operator = Key.new(), Key.new()
    sealed = operator.dump(passphrase)
    made = not folder.path.exists()
    folder.path.mkdir(parents=True, exist_ok=True)
    if made:
        folder.path.chmod(FOLDER_MODE)
    replace_file(folder.operator_key, sealed, mode=0o600)
    replace_file(folder.operator_pub, operator.public.encode() + b"\n")
    replace_file(folder.watchdog_key, watchdog.dump(), mode=0o600)
    replace_file(folder.watchdog_pub, watchdog.public.encode() + b"\n")
    replace_file(folder.reserve, b"\0" * RESERVE, mode=HALTS_MODE)
    replace_file(folder.halts, b"", mode=HALTS_MODE)
    replace_file(folder.state, State(operator.public, fund, config).signed(watchdog))
    sync_folder(folder.path)
    return folder
