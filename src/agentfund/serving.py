"""A small web server of this machine: the only file that knows uvicorn; and the token that whoever asks must know."""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import stat
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from agentfund.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

LEAST_TOKEN = 20
LOCAL = ("127.0.0.1", "localhost", "[::1]")


def token_in(path: Path, *, make: bool = False) -> str:
    """Return the token in a file that only its owner can read.

    Args:
        path: the file.
        make: whether to make one where there is none.

    Raises:
        ConfigError: it cannot be read, others can read it, or it is too short to be secret.
    """
    try:
        if make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(32))
        token = path.read_text().strip()
        open_to_others = os.name != "nt" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    except OSError as error:
        raise ConfigError(f"the token {path} cannot be read or made: {error.strerror}") from None
    if open_to_others:
        raise ConfigError(f"others can read the token {path}: chmod 600 {path}")
    if len(token) < LEAST_TOKEN:
        raise ConfigError(f"the token in {path} is too short to be secret: delete the file, and a new one is made")
    return token


def same(given: str, token: str) -> bool:
    """Return whether two tokens are the same, in a time that does not tell how much of them is."""
    return hmac.compare_digest(given.encode(), token.encode())


@asynccontextmanager
async def served(app: Any, listen: str) -> AsyncIterator[tuple[str, asyncio.Future[None]]]:
    """Serve an application of this machine; give the address, and a future that ends when the server was told to end.

    Args:
        app: an ASGI application.
        listen: `unix:/path`, or `127.0.0.1:port`; port 0 for a free one.

    Raises:
        ConfigError: it cannot listen there.
        MissingExtra: the package for it is not installed.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtra("uvicorn", "serve") from error
    where: dict[str, Any] = {}
    if listen.startswith("unix:"):
        where["uds"] = listen.removeprefix("unix:")
    else:
        host, _, port = listen.rpartition(":")
        if host not in LOCAL or not port.isdigit():
            raise ConfigError(f"{listen}: it listens on this machine only: unix:/path or 127.0.0.1:port")
        where |= {"host": host.strip("[]"), "port": int(port)}
    config = uvicorn.Config(app, **where, log_level="critical", access_log=False, lifespan="off", timeout_graceful_shutdown=3)

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # Ctrl-C is the program's

    server = Server(config)
    serving = asyncio.ensure_future(_run(server))
    try:
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        if not server.started:
            raise ConfigError(f"it cannot listen at {listen}: is the address taken?")
        bound = server.servers[0].sockets[0].getsockname()
        yield (listen if "uds" in where else f"{where['host']}:{bound[1]}"), serving
    finally:
        server.should_exit = True
        with suppress(asyncio.CancelledError):
            await serving


async def _run(server: Any) -> None:
    with suppress(SystemExit):  # how uvicorn says that the address is taken
        await server.serve()
