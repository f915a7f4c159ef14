"""A `codex app-server`: one process that answers any number of questions, spoken to in JSON-RPC, one object a line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from agentfund.errors import LLMError
from agentfund.llms.codex_told import Told
from agentfund.llms.processes import Child
from agentfund.secrets import scrub
from agentfund.version import __version__

_SHOWN = 300
_GREETING_S = 10.0
_NO = {"code": -32601, "message": "nobody is here to ask"}
_UNHEARD = ["item/agentMessage/delta", "item/reasoning/textDelta", "item/reasoning/summaryTextDelta"]


class ServerGone(LLMError):
    """The server has ended; another way may work."""


class ServerRefused(ServerGone):
    """The server does not understand us."""


@dataclass(slots=True)
class _Turn:
    """A question under way."""

    told: Told
    over: asyncio.Future[None]
    id: str = ""


@dataclass(slots=True)
class Server:
    """A server under way. Make it with `start`."""

    _child: Child | None = None
    _number: int = 0
    _replies: dict[int, asyncio.Future[Any]] = field(default_factory=dict)
    _turns: dict[str, _Turn] = field(default_factory=dict)
    _left: set[str] = field(default_factory=set)

    @classmethod
    async def start(cls, command: Sequence[str], env: Mapping[str, str], files: Mapping[str, str]) -> Server:
        """Start a server and greet it.

        Raises:
            ServerGone: it ended, or does not understand us.
            BadCredentials: it is not installed.
        """
        server = cls()
        server._child = await Child.start(command, env, files=files, on_line=server._hear)
        server._child.on_end = server._end
        try:
            async with asyncio.timeout(_GREETING_S):
                client = {"name": "agentfund", "title": "agentfund", "version": __version__}
                await server._call("initialize", clientInfo=client, capabilities={"optOutNotificationMethods": _UNHEARD})
            server._say(method="initialized")
        except TimeoutError:
            silent = ServerGone(f"codex app-server did not answer within {_GREETING_S:g} s")
        except BaseException:
            await server.close()
            raise
        else:
            return server
        await server.close()
        raise silent

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._child is not None and self._child.alive

    async def ask(self, told: Told, thread: Mapping[str, Any], turn: Mapping[str, Any]) -> None:
        """Ask one question in a thread of its own, and wait until all is told.

        Args:
            told: where what is told goes.
            thread: what the thread is started with.
            turn: the question.

        Raises:
            ServerGone: it ended before, or would not take the question; `told.sent` tells which.
        """
        started = await self._call("thread/start", **thread)
        found = started.get("thread")
        thread_id = str(found.get("id")) if isinstance(found, Mapping) else ""
        under_way = self._turns[thread_id] = _Turn(told, asyncio.get_running_loop().create_future())
        try:
            told.sent = True
            await self._call("turn/start", threadId=thread_id, **turn)
            await under_way.over
        except ServerRefused:
            told.sent = False
            raise
        finally:
            del self._turns[thread_id]
            if told.done or told.wrong:
                self._tell("thread/unsubscribe", threadId=thread_id)
            elif under_way.id:
                self._stop(thread_id, under_way.id)
            else:
                self._left.add(thread_id)  # it is stopped as soon as it has begun

    async def close(self) -> None:
        """End it and wait."""
        if self._child is not None:
            await self._child.close()

    def kill(self) -> None:
        """End it at once."""
        if self._child is not None:
            self._child.kill()

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _say(self, **message: object) -> None:
        assert self._child is not None
        self._child.write(json.dumps(message, ensure_ascii=False) + "\n")

    def _tell(self, method: str, **params: object) -> None:
        self._say(id=self._next(), method=method, params=params)

    def _stop(self, thread_id: str, turn_id: str) -> None:
        self._tell("turn/interrupt", threadId=thread_id, turnId=turn_id)
        self._tell("thread/unsubscribe", threadId=thread_id)

    async def _call(self, method: str, **params: object) -> Mapping[str, Any]:
        if not self.alive:
            raise self._gone()
        number = self._next()
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        self._say(id=number, method=method, params=params)
        try:
            found = await reply
        finally:
            del self._replies[number]
        return found if isinstance(found, Mapping) else {}

    def _hear(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(message, dict):
            return
        params = message.get("params")
        params = params if isinstance(params, Mapping) else {}
        if "method" not in message:
            self._answered(message)
        elif "id" in message:
            self._say(id=message["id"], error=_NO)
        else:
            self._notified(str(message["method"]), params)

    def _answered(self, message: Mapping[str, Any]) -> None:
        number = message.get("id")
        reply = self._replies.get(number) if isinstance(number, int) else None
        if reply is None or reply.done():
            return
        if "error" in message:
            reply.set_exception(ServerRefused(f"codex app-server: {scrub(json.dumps(message['error']))[:_SHOWN]}"))
        else:
            reply.set_result(message.get("result"))

    def _notified(self, method: str, params: Mapping[str, Any]) -> None:
        if method == "account/rateLimits/updated":  # of all threads
            for one in self._turns.values():
                one.told.take_limits(params.get("rateLimits"))
        thread_id, found = str(params.get("threadId")), params.get("turn")
        told_turn = found if isinstance(found, Mapping) else {}
        if method == "turn/started" and thread_id in self._left:
            self._left.remove(thread_id)
            self._stop(thread_id, str(told_turn.get("id")))
        turn = self._turns.get(thread_id)
        if turn is None:
            return
        told = turn.told
        if method == "turn/started":
            turn.id = str(told_turn.get("id"))
        elif method == "item/completed" and isinstance(params.get("item"), Mapping):
            told.take_item(params["item"])
        elif method == "thread/tokenUsage/updated" and isinstance(params.get("tokenUsage"), Mapping):
            told.take_usage(params["tokenUsage"].get("total"))
        elif method == "model/rerouted":
            told.llm = str(params.get("toModel") or "")
        elif method == "turn/completed":
            error = told_turn.get("error")
            if isinstance(error, Mapping):
                told.wrong, told.code = str(error.get("message") or "failed"), error.get("codexErrorInfo")
            elif told_turn.get("status") == "completed":
                told.done = True
            else:
                told.wrong = f"codex ended the turn as {told_turn.get('status')}"
            if not turn.over.done():
                turn.over.set_result(None)

    def _end(self) -> None:
        for waiting in [*self._replies.values(), *(turn.over for turn in self._turns.values())]:
            if not waiting.done():
                waiting.set_exception(self._gone())

    def _gone(self) -> ServerGone:
        words = self._child.last_words if self._child is not None else ""
        return ServerGone(f"codex app-server ended: {words or 'it said nothing'}")


class KeptServer:
    """The server of an event loop: started when it is needed, again when it has ended, and ended when nobody asks.

    Args:
        start: starts one.
        idle_s: seconds without a question after which it is ended.

    Attributes:
        preparing: held by whoever finds out what a server has to be told.
    """

    def __init__(self, start: Callable[[], Awaitable[Server]], idle_s: float) -> None:
        self._start = start
        self._idle_s = idle_s
        self._server: Server | None = None
        self.preparing = asyncio.Lock()
        self._starting = asyncio.Lock()
        self._users = 0
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Server]:
        """Give the server, and let it rest afterwards."""
        self._users += 1
        if self._timer is not None:
            self._timer.cancel()
        try:
            async with self._starting:
                if self._server is None or not self._server.alive:
                    await self.close()
                    self._server = await self._start()
            yield self._server
        finally:
            self._users -= 1
            if not self._users:
                self._timer = asyncio.get_running_loop().call_later(self._idle_s, self.kill)

    async def close(self) -> None:
        """End it and wait."""
        server, self._server = self._server, None
        if server is not None:
            await server.close()

    def kill(self) -> None:
        """End it at once."""
        server, self._server = self._server, None
        if server is not None:
            server.kill()
