"""A person's line to a fund that waits: what the page says, for programs and for the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from agentfund.errors import ConfigError
from agentfund.serving import token_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ADDRESS = "approvals.address"
TOKEN = "approvals.token"  # noqa: S105 - the name of a file


class Line:
    """A line to the page of a fund on this machine.

    Args:
        address: `127.0.0.1:port`.
        token: what is in its token file.
    """

    def __init__(self, address: str, token: str) -> None:
        self._address = address
        self._token = token

    @classmethod
    def of(cls, folder: Path) -> Line:
        """Return the line to the fund of a folder.

        Raises:
            ConfigError: no fund there waits for a person.
        """
        try:
            address = (folder / ADDRESS).read_text().strip()
        except OSError:
            raise ConfigError(f"no fund in {folder} asks a person: start it with --mode supervised") from None
        return cls(address, token_in(folder / TOKEN))

    def waiting(self) -> Sequence[dict[str, Any]]:
        """Return the orders that wait.

        Raises:
            ConfigError: nobody answers there.
        """
        told = self._ask("GET", None)
        return [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []

    def answer(self, order_hash: str, approved: bool, by: str, evidence: str = "") -> str:
        """Answer, and return what became of it.

        Raises:
            ConfigError: nobody answers there, or the answer was not taken; says why.
        """
        told = self._ask("POST", {"hash": order_hash, "approved": approved, "by": by, "evidence": evidence})
        if not (isinstance(told, dict) and told.get("taken")):
            raise ConfigError(str(told.get("reason", told)) if isinstance(told, dict) else str(told))
        return str(told["reason"])

    def _ask(self, method: str, content: Any) -> Any:
        import httpx2

        try:
            answer = httpx2.request(
                method,
                f"http://{self._address}/orders",
                headers={"Authorization": f"Bearer {self._token}"},
                content=None if content is None else json.dumps(content),
                timeout=10,
                trust_env=False,
            )
            return answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise ConfigError(
                f"the fund at {self._address} does not answer; does it run? ({type(error).__name__}: {error})"
            ) from None
