"""A fund's line to an execution in another process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from agentfund.errors import BrokerUnavailable, ConfigError, OrderRejected
from agentfund.execution.words import ORDER, PAST, QUESTIONS, STATE

if TYPE_CHECKING:
    from httpx2 import AsyncClient
    from pydantic import TypeAdapter

    from agentfund.trading import Account, Book, Fill, Order, OrderState

Item = TypeVar("Item")


class RemoteExecution:
    """An execution in another process, as a `Broker`: this process knows no keys of the broker.

    Args:
        address: `unix:/path`, or `127.0.0.1:port`, as `agentfund execution` says where it listens.
        token: what is in its token file.
        timeout: how long an answer may take; after that nobody knows.

    Raises:
        ConfigError: the address is not on this machine.
    """

    dedupes_ids = True

    def __init__(self, address: str, token: str, *, timeout: timedelta = timedelta(seconds=12)) -> None:
        if not address.startswith("unix:") and address.rpartition(":")[0] not in ("127.0.0.1", "localhost", "[::1]"):
            raise ConfigError(f"{address} is not on this machine: give unix:/path or 127.0.0.1:port")
        self._address = address
        self._token = token
        self._timeout_s = timeout.total_seconds()
        self._client: AsyncClient | None = None
        self._past: tuple[Sequence[Order], Sequence[Fill]] | None = None

    def __repr__(self) -> str:
        return f"<RemoteExecution at {self._address}>"

    async def account(self) -> Account:
        """Return cash and positions by the broker's own books."""
        return cast("Account", await self._question("account"))

    async def orders(self) -> Sequence[OrderState]:
        """Return every order that can still change the book."""
        if self._past is not None:
            await self._ask("POST", "restore", PAST.dump_json(self._past))
            self._past = None
        return cast("Sequence[OrderState]", await self._question("orders"))

    async def fills(self) -> Sequence[Fill]:
        """Return fills of this session."""
        return cast("Sequence[Fill]", await self._question("fills"))

    async def busts(self) -> Sequence[str]:
        """Return execution ids that the broker has taken back."""
        return cast("Sequence[str]", await self._question("busts"))

    async def book(self) -> Book:
        """Return what the broker shows to somebody who only looks."""
        return cast("Book", await self._question("book"))

    async def suspend(self) -> None:
        """Have the broker refuse orders of this account, where it can."""
        await self._question("suspend")

    def restore(self, orders: Sequence[Order], fills: Sequence[Fill] = ()) -> None:
        """Tell a broker that keeps protection by hand which orders and fills there have been, with the next question."""
        self._past = (tuple(orders), tuple(fills))

    async def submit(self, order: Order) -> OrderState:
        """Send an order.

        Raises:
            OrderRejected: no byte of it has left, or the broker refused it.
            BrokerUnavailable: nobody knows.
        """
        return self._understood(STATE, await self._ask("POST", "submit", ORDER.dump_json(order)))

    async def cancel(self, order_id: str) -> OrderState:
        """Take an order back.

        Raises:
            OrderRejected: it was never sent.
            BrokerUnavailable: nobody knows.
        """
        return self._understood(STATE, await self._ask("POST", "cancel", json.dumps({"order": order_id}).encode()))

    async def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _question(self, name: str) -> Any:
        return self._understood(QUESTIONS[name], await self._ask("GET", name))

    def _understood(self, kind: TypeAdapter[Item], content: bytes) -> Item:
        try:
            return kind.validate_json(content)
        except ValueError as error:
            raise BrokerUnavailable(f"the execution at {self._address} cannot be understood: {error}") from None

    async def _ask(self, method: str, path: str, content: bytes | None = None) -> bytes:
        import httpx2

        if self._client is None:
            uds = self._address.removeprefix("unix:") if self._address.startswith("unix:") else None
            self._client = httpx2.AsyncClient(
                base_url="http://execution" if uds else f"http://{self._address}",
                transport=httpx2.AsyncHTTPTransport(uds=uds),
                headers={"Authorization": f"Bearer {self._token}"},
                timeout=self._timeout_s,
            )
        try:
            answer = await self._client.request(method, f"/{path}", content=content)
            if answer.status_code == 200:
                return answer.content
            told = answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise BrokerUnavailable(
                f"the execution at {self._address} does not answer: {type(error).__name__}: {error}"
            ) from None
        if answer.status_code == 409 and isinstance(told, dict):
            raise OrderRejected(str(told.get("rejected", "")), code=str(told.get("code", "")))
        what = told.get("error", told) if isinstance(told, dict) else told
        raise BrokerUnavailable(f"the execution at {self._address} answers {answer.status_code}: {what}")
