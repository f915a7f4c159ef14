"""A page of this machine on which a person approves exact orders. It loads nothing from elsewhere, and runs no script."""

from __future__ import annotations

import hashlib
import hmac
import html
import json
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from agentfund.approvals.terminal import rows
from agentfund.clock import SystemClock
from agentfund.errors import MissingExtra
from agentfund.serving import same

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from agentfund.approvals.board import Board
    from agentfund.core.approval import ApprovalRequest
    from agentfund.protocols import Clock

COOKIE = "agentfund"
MOST_BYTES = 1 << 16
HOSTS = ("127.0.0.1", "localhost", "[::1]")
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
article{border:1px solid #d0d7de;border-radius:8px;padding:1rem 1.25rem;margin:1.25rem 0}
article.veto{border-color:#bf3989}h1{font-size:1.3rem}h2{font-size:1.1rem;margin:.2rem 0 .8rem}
dl{display:grid;grid-template-columns:8rem 1fr;gap:.15rem 1rem;margin:0}dt{color:#57606a}dd{margin:0;overflow-wrap:anywhere}
input,textarea{font:inherit;width:100%;box-sizing:border-box;padding:.35rem;margin:.15rem 0 .6rem}
button{font:inherit;padding:.45rem 1.4rem;border-radius:6px;border:1px solid #57606a;background:#f6f8fa;cursor:pointer}
button.yes{background:#1f883d;border-color:#1f883d;color:#fff}.note{color:#57606a}.wrong{color:#bf3989}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}article{border-color:#30363d}dt,.note{color:#8d96a0}
input,textarea,button{background:#161b22;color:inherit;border:1px solid #30363d}}
"""
POLICY = (
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"  # nothing else at all
)


def application(board: Board, token: str, *, fund: str, code: str, clock: Clock | None = None) -> Starlette:
    """Return the web application: a page for people, and the same as JSON for `agentfund approve`.

    Args:
        board: where orders wait.
        token: programs that know it may answer.
        code: whoever opens `/enter?code=` with it may answer in the browser; it need not outlive the process.
        fund: the fund's name.
        clock: where the time comes from.

    Raises:
        MissingExtra: the package for it is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse, RedirectResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise MissingExtra("starlette", "serve") from error
    ticking = clock or SystemClock()
    # A cookie goes to every server of this machine, whatever its port: what it holds opens this page and nothing else.
    ticket = hmac.new(token.encode(), b"page", hashlib.sha256).hexdigest()
    headers = {
        "Content-Security-Policy": POLICY,
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }

    def page(content: str, status: int = 200) -> Response:
        return Response(content, status, headers=headers, media_type="text/html; charset=utf-8")

    def guarded(
        answer: Callable[[Request], Awaitable[Response]], *, program: bool = False
    ) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
            if host not in HOSTS:  # a page elsewhere whose name was made to mean this machine
                return page(_frame(fund, '<p class="wrong">This page answers to 127.0.0.1 only.</p>'), 403)
            origin = request.headers.get("origin")
            if origin is not None and origin != f"http://{request.headers.get('host', '')}":
                return page(_frame(fund, '<p class="wrong">Another page has sent this.</p>'), 403)
            bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not (same(bearer, token) if program else same(request.cookies.get(COOKIE, ""), ticket)):
                said = '<p class="wrong">Open the address that the fund has printed: the code in it lets you in.</p>'
                return page(_frame(fund, said), 401)
            return await answer(request)

        return checked

    async def enter(request: Request) -> Response:
        if not same(request.query_params.get("code", ""), code):
            return page(_frame(fund, '<p class="wrong">The code is another: open the newest address.</p>'), 401)
        # Away from the address, so that the code is in no history that somebody is shown.
        answer = RedirectResponse("/", 303, headers=headers)
        answer.set_cookie(COOKIE, ticket, httponly=True, samesite="strict")
        return answer

    async def show(request: Request) -> Response:
        waiting = board.waiting()
        left = [max((one.expires - ticking.now()).total_seconds(), 0.0) for one in waiting]
        content = "".join(_article(one, seconds, ticket) for one, seconds in zip(waiting, left, strict=True))
        empty = '<p class="note">Nothing waits for you. This page looks again every few seconds.</p>'
        return page(_frame(fund, content or empty, refresh=None if waiting else 3))

    async def answered(request: Request) -> Response:
        content = b""
        async for chunk in request.stream():
            content += chunk
            if len(content) > MOST_BYTES:
                return page(_frame(fund, '<p class="wrong">That is too long.</p>'), 413)
        given = {name: values[0] for name, values in parse_qs(content.decode("utf-8", "replace")).items()}
        if not same(given.get("ticket", ""), ticket):  # a form of another page would not know it
            return page(_frame(fund, '<p class="wrong">This form is not of this page.</p>'), 403)
        result = board.answer(
            given.get("hash", ""), given.get("answer") == "yes", given.get("by", ""), given.get("evidence", "")
        )
        kind = "note" if result.taken else "wrong"
        said = f'<p class="{kind}">{html.escape(result.reason.capitalize())}.</p><p><a href="/">Back</a></p>'
        return page(_frame(fund, said), 200 if result.taken else 409)

    async def listed(request: Request) -> Response:
        told = [{**rows(one), "overrides veto": one.overrides_veto} for one in board.waiting()]
        return JSONResponse(told, headers=headers)

    async def told(request: Request) -> Response:
        try:
            given = json.loads(await request.body())
            result = board.answer(
                str(given["hash"]), given["approved"] is True, str(given["by"]), str(given.get("evidence", ""))
            )
        except (ValueError, KeyError, TypeError) as error:
            return JSONResponse({"taken": False, "reason": f"not understood: {error}"}, 400, headers=headers)
        return JSONResponse({"taken": result.taken, "reason": result.reason}, 200 if result.taken else 409, headers=headers)

    async def style(request: Request) -> Response:
        return Response(STYLE, headers=headers, media_type="text/css")

    return Starlette(
        routes=[
            Route("/enter", enter),
            Route("/style.css", style),
            Route("/", guarded(show)),
            Route("/answer", guarded(answered), methods=["POST"]),
            Route("/orders", guarded(listed, program=True)),
            Route("/orders", guarded(told, program=True), methods=["POST"]),
        ]
    )


def _frame(fund: str, content: str, *, refresh: int | None = None) -> str:
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    name = html.escape(fund)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{again}<title>{name}: approvals</title>'
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/style.css"></head>'
        f"<body><h1>Orders of the fund {name} that wait for you</h1>{content}</body></html>"
    )


def _article(request: ApprovalRequest, left_s: float, ticket: str) -> str:
    told = rows(request)
    parts = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in told.items())
    veto = request.overrides_veto
    evidence = (
        "<label>Gate agents vetoed it. Why are they wrong?"
        '<textarea name="evidence" rows="3" minlength="20" placeholder="at least 20 characters; it goes on the log"></textarea>'
        "</label>"
        if veto
        else ""
    )
    return (
        f"<article{' class=veto' if veto else ''}><h2>{html.escape(told['order'])}</h2><dl>{parts}</dl>"
        f'<p class="note">Silence is a no, in {left_s:.0f} seconds.</p><form method="post" action="/answer">'
        f'<input type="hidden" name="hash" value="{html.escape(request.order_hash)}">'
        f'<input type="hidden" name="ticket" value="{html.escape(ticket)}">'
        '<label>Your name<input name="by" required autocomplete="name"></label>'
        f'{evidence}<button class="yes" name="answer" value="yes">Send exactly this order</button> '
        '<button name="answer" value="no">No</button></form></article>'
    )
