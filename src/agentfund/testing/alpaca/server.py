"""Alpaca on this machine: its trading API v2 and trade_updates stream over real sockets, a price moved by hand, and faults."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from collections import Counter, deque
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any, Self

from agentfund.clock import SystemClock
from agentfund.market import decimal
from agentfund.protocols import Clock
from agentfund.testing.alpaca.api import Api
from agentfund.testing.alpaca.faults import Fault
from agentfund.testing.alpaca.http import HttpThread, Reply, Request
from agentfund.testing.alpaca.stream import Streams
from agentfund.testing.alpaca.tickets import Refusal
from agentfund.testing.alpaca.venue import Venue

_HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"


class AlpacaServer:
    """A trading account at an Alpaca of one's own. Use it as a context manager.

    It runs in a thread, so any event loop, synchronous code and other processes can talk to it. Market orders fill at
    once at the price that `move` has set.

    Args:
        cash: dollars at the beginning.
        dedupe: whether a second order with the same client id is refused, as Alpaca does.
        key: key id that is let in.
        secret: its secret.
        port: where to listen, 0 for any free port.
        clock: where the time comes from.

    Attributes:
        venue: the books and the market; `venue.liquidity` makes partial fills.
        api: the routes; `api.slow_cancel` lets cancels wait for `api.finish_cancels()`.
        streams: the connections that listen to trade updates, and counts of them.
        requests: how many requests came, by method and path.
        rate: requests let through in a minute, None for all; more are answered 429.
        lose_events: how many events are swallowed from now on.
        repeat_events: whether each event is sent twice.
        hold_events: whether events wait for `release_events`, which sends them newest first.
    """

    def __init__(
        self,
        cash: Decimal | int = 100_000,
        *,
        dedupe: bool = True,
        key: str = "PKLOCAL0000000000001",
        secret: str = "local-secret-of-the-server-00001",  # noqa: S107 -- it opens nothing but this server
        port: int = 0,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.RLock()
        self.key, self.secret = key, secret
        self.venue = Venue(self._clock, decimal(cash), self._told, dedupe=dedupe)
        self.api = Api(self.venue)
        self.streams = Streams((key, secret))
        self._http = HttpThread(self._answer, self.streams.serve, self._clock, port)
        self._executions: dict[str, tuple[str, str]] = {}
        self.requests: Counter[str] = Counter()
        self.rate: int | None = None
        self.lose_events = 0
        self.repeat_events = self.hold_events = False
        self._faults: list[list[Any]] = []
        self._held_back: list[dict[str, Any]] = []
        self._recent: deque[Any] = deque()
        self._frozen: Api | None = None

    def __enter__(self) -> Self:
        self._http.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.stop()

    @property
    def url(self) -> str:
        """Where it is: the `url` of the adapter, the `url_override` of alpaca-py."""
        return f"http://{self._http.address}"

    @property
    def orders_created(self) -> int:
        """How many orders were ever created, legs of brackets not counted."""
        return self.venue.created

    def move(self, symbol: str, price: Decimal | float | str) -> None:
        """Let the market trade at a price: what it touches fills before this returns."""
        with self._lock:
            self.venue.move(symbol, decimal(price))

    def fail(self, *faults: Fault) -> None:
        """Let requests go wrong; of two faults that would hit the same request the older does."""
        with self._lock:
            self._faults.extend([fault, fault.times] for fault in faults)

    def heal(self) -> None:
        """Forget all faults that have not happened."""
        with self._lock:
            self._faults.clear()

    def freeze(self) -> None:
        """Remember how everything stands now: what a `stale` fault answers from."""
        with self._lock:
            twin = copy.copy(self.venue)
            twin.tickets, twin.activities = copy.deepcopy(self.venue.tickets), list(self.venue.activities)
            twin.held, twin.prices, twin.average = dict(twin.held), dict(twin.prices), dict(twin.average)
            self._frozen = Api(twin)

    def bust(self, number: int = -1) -> None:
        """Take an execution back, the newest where no other is named."""
        with self._lock:
            activity = self.venue.activities[number]
            self.venue.bust(activity, self._execution_of(activity))

    def act(self, work: Callable[[Venue], object]) -> None:
        """Do something to the books by hand, while nothing else happens."""
        with self._lock:
            work(self.venue)

    def drop_streams(self) -> None:
        """Break every connection that listens to trade updates."""
        self._http.later(0, self.streams.drop)

    def release_events(self) -> None:
        """Send the events that were held back, newest first."""
        with self._lock:
            self.hold_events = False
            held, self._held_back = self._held_back, []
        for event in reversed(held):
            self._push(event)

    def _execution_of(self, activity: dict[str, Any]) -> str:
        keys = (activity["order_id"], activity["cum_qty"])
        return next((e for e, of in self._executions.items() if of == keys), "")

    def _told(self, event: dict[str, Any]) -> None:
        if event["event"] in ("fill", "partial_fill"):
            self._executions[event["execution_id"]] = (event["order"]["id"], event["order"]["filled_qty"])
        if self.lose_events > 0:
            self.lose_events -= 1
        elif self.hold_events:
            self._held_back.append(event)
        else:
            self._push(event)

    def _push(self, event: dict[str, Any]) -> None:
        if self._http.loop is not None:
            for _ in range(2 if self.repeat_events else 1):
                self._http.later(0, lambda: self.streams.push(event))

    def _fault(self, name: str) -> Fault | None:
        with self._lock:
            for entry in self._faults:
                fault: Fault = entry[0]
                if fault.hits(name):
                    entry[1] -= 1
                    if entry[1] <= 0:
                        self._faults.remove(entry)
                    return fault
        return None

    async def _answer(self, request: Request, reply: Reply) -> None:
        name = f"{request.method} {request.path}"
        self.requests[name] += 1
        if request.path.startswith("/_admin/"):
            await self._admin(request, reply)
            return
        if (request.headers.get("apca-api-key-id"), request.headers.get("apca-api-secret-key")) != (self.key, self.secret):
            await self._send(reply, 401, {"code": 40110000, "message": "request is not authorized"})
            return
        if self._too_many():
            await self._too_fast(reply)
            return
        fault = self._fault(name)
        if fault is None:
            await self._send(reply, *self._do(request))
        else:
            await self._spoil(fault, request, reply)

    def _do(self, request: Request, api: Api | None = None) -> tuple[int, Any]:
        with self._lock:
            try:
                body = request.json() if request.body else None
                return (api or self.api).answer(request.method, request.path, request.query, body)
            except Refusal as refusal:
                return refusal.status, {"code": refusal.code, "message": refusal.message}

    async def _spoil(self, fault: Fault, request: Request, reply: Reply) -> None:
        kind = fault.kind
        if kind == "late":
            self._http.later(fault.seconds, lambda: self._do(request))
        if kind == "slow":
            await asyncio.sleep(fault.seconds)
        if kind == "stale":
            await self._send(reply, *self._do(request, self._frozen))
            return
        done = (0, None) if kind.endswith("before") or kind in ("late", "redirect") else self._do(request)
        body = b"" if done[1] is None else json.dumps(done[1]).encode()
        match kind:
            case "status_before" | "status_after" | "late":
                if fault.status == 429:
                    await self._too_fast(reply)
                else:
                    await self._send(reply, fault.status, {"message": "fault"})
            case "html_before" | "html_after":
                await reply.send(fault.status, _HTML, headers={"content-type": "text/html"})
            case "hang_before" | "hang_after":
                await asyncio.Event().wait()
            case "reset_before":
                reply.reset()
            case "reset_after":
                await reply.send(done[0], body[: len(body) // 2], claimed=max(1, len(body)))
                reply.reset()
            case "truncated":
                await reply.send(done[0], body[: len(body) // 2])
            case "empty":
                await reply.send(200, b"")
            case "trickle":
                await reply.send(done[0], body, pace=fault.seconds)
            case "other":
                await self._send(reply, done[0], _of_another(done[1]))
            case "redirect":
                await reply.send(307, b"", headers={"location": f"{self.url}/v2/account"})
            case _:
                await self._send(reply, *done)

    async def _send(self, reply: Reply, status: int, told: Any) -> None:
        await reply.send(status, b"" if told is None else json.dumps(told).encode())

    def _too_many(self) -> bool:
        now = self._clock.now()
        while self._recent and now - self._recent[0] > timedelta(minutes=1):
            self._recent.popleft()
        self._recent.append(now)
        return self.rate is not None and len(self._recent) > self.rate

    async def _too_fast(self, reply: Reply) -> None:
        reset = str(int(self._clock.now().timestamp()) + 1)
        headers = {"x-ratelimit-limit": str(self.rate or 200), "x-ratelimit-remaining": "0", "x-ratelimit-reset": reset}
        await reply.send(429, json.dumps({"code": 42910000, "message": "rate limit exceeded"}).encode(), headers=headers)

    async def _admin(self, request: Request, reply: Reply) -> None:
        """Move the market, set faults and read counts from outside the process."""
        body, what = request.json() or {}, request.path.removeprefix("/_admin/")
        try:
            if what == "move":
                self.move(body["symbol"], Decimal(str(body["price"])))
            elif what == "fail":
                self.fail(Fault(**body))
            elif what == "drop":
                self.streams.drop()
            elif what != "counts":
                raise ValueError(f"there is no /_admin/{what}; there are move, fail, drop, counts")
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            await self._send(reply, 400, {"message": str(error)})
            return
        counts = {"orders_created": self.orders_created, "requests": dict(self.requests), "streams": self.streams.listening}
        await self._send(reply, 200, counts)


def _of_another(told: Any) -> Any:
    """Return an answer as another account or another order would get it."""
    if isinstance(told, list):
        return [_of_another(one) for one in told]
    if isinstance(told, dict):
        names = ("id", "client_order_id", "account_number", "order_id")
        changed = {name: f"00000000-dead-4bad-8000-{told[name][-12:]:0>12}" for name in names if name in told}
        return {**told, **changed, **({"legs": _of_another(told["legs"])} if told.get("legs") else {})}
    return told
