"""Connections to providers: one client for each event loop, and which addresses a key may go to."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, Callable
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary, finalize, ref

from agentfund.errors import ConfigError

if TYPE_CHECKING:
    from ssl import SSLContext

    from httpx2 import AsyncClient

_CONNECT_S = 5.0
_IMPORTED: set[str] = set()
_NEAR = (".local", ".lan", ".internal", ".home.arpa")


class Client(Protocol):
    """An SDK's asynchronous client."""

    async def close(self) -> None:
        """Let go of its connections."""
        ...


AnyClient = TypeVar("AnyClient", bound=Client)


class Clients(Generic[AnyClient]):
    """One client for each event loop, because a connection cannot be used from another.

    A client is closed when its loop ends, or when this is forgotten; nobody has to remember it.

    Args:
        module: name of the SDK, imported beside the loop when it is needed.
        make: makes a client.
    """

    def __init__(self, module: str, make: Callable[[], AnyClient]) -> None:
        self._module = module
        self._make = make
        self._open: WeakKeyDictionary[
            asyncio.AbstractEventLoop, tuple[AnyClient, AsyncGenerator[None, None], finalize[..., Any]]
        ] = WeakKeyDictionary()

    async def get(self) -> AnyClient:
        """Return the client of the running loop."""
        loop = asyncio.get_running_loop()
        if self._module not in _IMPORTED:  # in sys.modules it stands already while another thread is still at it
            await asyncio.to_thread(import_module, self._module)
            _IMPORTED.add(self._module)
        found = self._open.get(loop)
        if found is None:
            # Nothing is waited for between here and the end, so that no other call makes a second one.
            client = self._make()
            lifetime = _lifetime(client, ref(self), loop)
            await anext(lifetime)
            # It keeps connections from being collected before they are closed in their loop.
            ender = finalize(self, _forgotten, loop, lifetime)
            ender.atexit = False
            found = self._open[loop] = (client, lifetime, ender)
        return found[0]

    async def close(self) -> None:
        """Close the client of the running loop."""
        found = self._open.get(asyncio.get_running_loop())
        if found is not None:
            await found[1].aclose()

    def _ended(self, loop: asyncio.AbstractEventLoop) -> None:
        found = self._open.pop(loop, None)
        if found is not None:
            found[2].detach()


async def _lifetime(
    client: AnyClient, clients: ref[Clients[AnyClient]], loop: asyncio.AbstractEventLoop
) -> AsyncGenerator[None, None]:
    """Close a client at the end: a loop ends the asynchronous generators that were begun in it before it ends itself."""
    try:
        yield
    finally:
        owner = clients()
        if owner is not None:
            owner._ended(loop)
        await client.close()


def _forgotten(loop: asyncio.AbstractEventLoop, lifetime: AsyncGenerator[None, None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(lambda: loop.create_task(_end(lifetime)))


async def _end(lifetime: AsyncGenerator[None, None]) -> None:
    await lifetime.aclose()


def connections(url: str, timeout_s: float) -> AsyncClient:
    """Return the HTTP client that an SDK is to use: no redirects, and no proxy on the way to one's own network."""
    import httpx2

    return httpx2.AsyncClient(
        # A whole call is timed by the route; here only connecting is, and a wait for a free connection is not the provider's.
        timeout=httpx2.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s), pool=None),
        limits=httpx2.Limits(max_connections=256, max_keepalive_connections=32),
        follow_redirects=False,
        trust_env=not server(url)[1],
        verify=_certificates(),
    )


@lru_cache(maxsize=1)
def _certificates() -> SSLContext:
    """Reading them takes longer than all the rest of a client."""
    import httpx2

    return httpx2.create_ssl_context()


def server(base_url: str | None) -> tuple[str | None, bool]:
    """Return the address of a server of one's own without a slash at its end, and whether it is on this machine or network.

    Raises:
        ConfigError: it is no address, holds a password, or would send a key in clear through the internet.
    """
    if base_url is None:
        return None, False
    try:
        parts = urlsplit(base_url)
        host = parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError("base_url must be an address such as http://127.0.0.1:11434/v1")
    if parts.username or parts.password or parts.query:
        raise ConfigError("base_url must hold no user, password or query: give the key as api_key")
    near = _near(host)
    if parts.scheme == "http" and not near:
        raise ConfigError(f"base_url is http: prompts and the key would go to {host} in clear; use https")
    return base_url.rstrip("/"), near


def _near(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(_NEAR)
    return address.is_private
