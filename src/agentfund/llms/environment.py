"""The variables that a program of somebody else's may see: few, and no key unless the user passes it on purpose."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

from agentfund.secrets import Secret

PASSED_ON = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "TZ",
    "USERPROFILE", "USERNAME", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA", "SYSTEMROOT", "COMSPEC", "PATHEXT",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS",
})  # fmt: skip
"""What is inherited from this process. No key is among them: one that is found by accident would be billed."""

_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD")
_BILLED = ("_KEY", "_AUTH_TOKEN")


class Environment:
    """The variables of a program.

    Args:
        env: variables that the user passes on purpose; they win. Those that look like keys are kept as secrets.
        more: names of further variables that are inherited where they are set.
    """

    def __init__(self, env: Mapping[str, str] | None, *more: str) -> None:
        self._given = {name: Secret(value) if _looks_secret(name) else value for name, value in (env or {}).items()}
        self._names = PASSED_ON | set(more)

    def __repr__(self) -> str:
        return f"<Environment: {', '.join(sorted(self._given)) or 'nothing of its own'}>"

    @property
    def has_api_key(self) -> bool:
        """Whether the user passes a key by which calls are billed."""
        return any(name.endswith(_BILLED) for name in self._given)

    def given(self, name: str) -> bool:
        """Whether the user passes a variable on purpose."""
        return bool(self._given.get(name))

    def get(self, name: str) -> str:
        """Return a variable as the program would see it, "" where it is not set."""
        return self.variables().get(name, "")

    def variables(self, fixed: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return all variables, `fixed` among them; for the moment in which the program is started."""
        inherited = {name: value for name, value in os.environ.items() if name in self._names}
        given = {name: value.reveal() if isinstance(value, Secret) else value for name, value in self._given.items()}
        return {**inherited, **(fixed or {}), **given}

    def find(self, name: str, given: str | os.PathLike[str] | None) -> str:
        """Return the path of a program, "" where there is none.

        Args:
            name: what it is called on the PATH.
            given: where the user says it is; None to look.
        """
        found = shutil.which(os.fspath(given) if given is not None else name, path=self.get("PATH") or None)
        return os.path.abspath(found) if found else ""  # noqa: PTH100 - links stay: a shim must be called by its own name


def _looks_secret(name: str) -> bool:
    return any(part in name.upper() for part in _SECRET)
