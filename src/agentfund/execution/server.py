"""An execution as a process of its own: the only one that holds the broker's keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from agentfund.errors import BrokerUnavailable, MissingExtra, OrderRejected
from agentfund.execution.words import MOST_BYTES, MOST_PAST, ORDER, PAST, QUESTIONS, STATE
from agentfund.serving import same, served

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from agentfund.execution.execution import Execution


def application(execution: Execution, token: str) -> Starlette:
    """Return the web application that answers for an execution.

    Args:
        execution: what is served.
        token: whoever knows it may ask.

    Raises:
        MissingExtra: the package for it is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.responses import Response
        from starlette.routing import Route
    except ImportError as error:
        raise MissingExtra("starlette", "serve") from error

    def told(value: bytes, status: int = 200) -> Response:
        return Response(value, status, media_type="application/json")

    def guarded(ask: Callable[[Request], Awaitable[bytes]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            if not same(request.headers.get("authorization", ""), f"Bearer {token}"):
                return told(b'{"error": "the token is another"}', 401)
            try:
                return told(await ask(request))
            except OrderRejected as error:
                return told(json.dumps({"rejected": str(error), "code": error.code}).encode(), 409)
            except BrokerUnavailable as error:
                return told(json.dumps({"error": str(error)}).encode(), 503)
            except ValueError as error:
                return told(json.dumps({"error": f"the request cannot be understood: {error}"}).encode(), 400)
            except Exception as error:  # nobody knows then
                return told(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode(), 500)

        return answer

    async def question(request: Request) -> bytes:
        name = request.path_params["name"]
        if name not in QUESTIONS:
            raise ValueError(f"there is no question {name!r}")
        return QUESTIONS[name].dump_json(await getattr(execution, name)())

    async def body(request: Request, most: int = MOST_BYTES) -> bytes:
        content = b""
        async for chunk in request.stream():
            content += chunk
            if len(content) > most:
                raise ValueError("it is too long")
        return content

    async def submit(request: Request) -> bytes:
        return STATE.dump_json(await execution.submit(ORDER.validate_json(await body(request))))

    async def cancel(request: Request) -> bytes:
        return STATE.dump_json(await execution.cancel(str(json.loads(await body(request))["order"])))

    async def restore(request: Request) -> bytes:
        execution.restore(*PAST.validate_json(await body(request, MOST_PAST)))
        return b"null"

    return Starlette(
        routes=[
            Route("/submit", guarded(submit), methods=["POST"]),
            Route("/cancel", guarded(cancel), methods=["POST"]),
            Route("/restore", guarded(restore), methods=["POST"]),
            Route("/{name}", guarded(question), methods=["GET"]),
        ]
    )


async def serve(execution: Execution, listen: str, token: str, ready: Callable[[str], object]) -> None:
    """Serve an execution until SIGTERM or SIGINT, and enforce halts meanwhile.

    Args:
        execution: what is served.
        listen: `unix:/path`, or `127.0.0.1:port`; port 0 for a free one.
        token: whoever knows it may ask.
        ready: told the address once it listens.

    Raises:
        ConfigError: it cannot listen there.
        MissingExtra: the package for it is not installed.
    """
    async with served(application(execution, token), listen) as (address, serving):
        ready(address)
        keeping = asyncio.ensure_future(execution.keep())
        try:
            await asyncio.wait({keeping, serving}, return_when=asyncio.FIRST_COMPLETED)
            if keeping.done():
                keeping.result()
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping
            await execution.close()
