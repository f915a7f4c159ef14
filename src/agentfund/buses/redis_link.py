"""Connections to a Redis server: how they are made, what is asked on them, and how their errors are told with the fix.

The one place that knows redis-py. Nothing is repeated by the library: it would send a command twice whose answer was lost.
What is repeated here are scripts that may be.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from redis import exceptions as wrong
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from agentfund.buses.redis_server import judge
from agentfund.errors import BusError, BusUnavailable, SchemaTooNew

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agentfund.buses.redis_scripts import Script
    from agentfund.buses.redis_server import Finding

_OF_A_POOL = ("max_connections", "timeout")  # options that a URL may have for the library's own pool
_MOST = 32  # connections of one event loop: scripts do not wait in the server, so more would not be faster
_SOON_S, _LATER_S = 0.01, 0.2  # how long to wait before a server that could not be reached is tried again
_INFO = (b"INFO", b"server", b"replication", b"persistence", b"memory")
_CONFIG = (b"CONFIG", b"GET", b"appendonly", b"appendfsync", b"no-appendfsync-on-rewrite", b"maxmemory-policy", b"save")
# What may be over in a moment: the network, a server that has become a replica, a cluster that moves its slots, a long script.
_PASSING = (BusUnavailable, OSError, wrong.ConnectionError, wrong.TimeoutError)
_PASSING_CODES = ("ASK", "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MOVED", "READONLY", "TRYAGAIN")
_CODES: dict[
    type[Exception], str
] = {  # redis-py makes classes of some codes and takes them off the text, each version of others
    wrong.AskError: "ASK",
    wrong.ClusterDownError: "CLUSTERDOWN",
    wrong.MovedError: "MOVED",
    wrong.OutOfMemoryError: "OOM",
    wrong.ReadOnlyError: "READONLY",
    wrong.TryAgainError: "TRYAGAIN",
}
_REMEDIES = {
    "OOM": "its memory is full (maxmemory): raise maxmemory, or move the log to a larger server",
    "MISCONF": "it cannot write to its disk: free some space there, or repair it",
    "NOREPLICAS": "too few replicas follow it (min-replicas-to-write): start them",
}


class Ask:
    """A script to run.

    Args:
        script: which.
        keys: the keys it works on.
        args: what it is told.
        again: what it is told where an earlier answer may have been lost; None is the same.
        blocking: a command that waits, to be sent before it the first time; its answer does not matter.
        waits_s: how long that waits.
    """

    __slots__ = ("again", "args", "blocking", "keys", "repeated", "script", "waits_s")

    def __init__(
        self, script: Script, keys: Sequence[bytes], args: Sequence[bytes | int], again: Sequence[bytes | int] | None = None
    ) -> None:
        self.script = script
        self.keys = keys
        self.args = args
        self.again = again
        self.blocking: Sequence[bytes | int] = ()
        self.waits_s = 0.0
        self.repeated = False


class Address:
    """Where a server is, and how its connections are made.

    Args:
        url: `redis://user:password@host:port/db`, `rediss://` for TLS.
        log: the log's name, for errors.
        timeout_s: how long anything may take.

    Raises:
        BusError: it is not such an address.
    """

    def __init__(self, url: str, log: str, timeout_s: float) -> None:
        try:
            told: dict[str, Any] = dict(parse_url(url))
            self._kind = told.pop("connection_class", Connection)
            self._options = {name: value for name, value in told.items() if name not in _OF_A_POOL} | {
                "protocol": 2,  # hints of the third would come between an answer and its question
                "retry": Retry(NoBackoff(), 0),
                "socket_timeout": None,  # whoever asks has one deadline for all of it
                "socket_connect_timeout": None,
            }
            self.connection({})
        except (TypeError, ValueError) as error:
            raise BusError(f"that is no address of a Redis server ({error}): write redis://host:6379/0") from None
        at = self._options.get("path") or f"{self._options.get('host', 'localhost')}:{self._options.get('port', 6379)}"
        self.home = f"log {log!r} in Redis at {at}"
        self.timeout_s = timeout_s

    def connection(self, elsewhere: Mapping[str, Any]) -> Any:
        """Return a connection that is not yet made; a cluster may have said that the log is elsewhere."""
        return self._kind(**{**self._options, **elsewhere})

    def explain(self, error: Exception) -> NoReturn:
        """Raise the error of a bus that this error of the library means."""
        text = f"{error}"
        code, rest = _code(error), text.partition(" ")[2]
        if code in ("LOGFOREIGN", "WRONGTYPE"):
            raise BusError(f"{self.home}: keys of this name are not agentfund's: choose another name for the log") from error
        if code == "LOGFORMAT":
            raise SchemaTooNew(f"{self.home} has format {rest}, which a newer agentfund wrote: upgrade agentfund") from error
        if code == "LOGGONE":
            raise BusError(
                f"{self.home} is not what it was: it ends at {rest}, and went further or was another log before. The server "
                "lost messages or was emptied. Restore it from a backup; a bus that is opened again goes on with what is there"
            ) from error
        if code == "LOGHOLE":
            raise BusError(f"{self.home}: messages after {rest} were deleted or changed: restore it from a backup") from error
        if isinstance(error, wrong.AuthenticationError):
            raise BusError(f"{self.home}: name or password are wrong: {text}") from error
        if isinstance(error, wrong.NoPermissionError):
            raise BusError(f"{self.home}: this user may not do it ({text}): grant it by ACL SETUSER") from error
        if code in _REMEDIES:
            raise BusUnavailable(f"{self.home} cannot be written now, nothing was: {_REMEDIES[code]}") from error
        raise BusError(f"{self.home}: the server answered {type(error).__name__}: {text}") from error


class Pool:
    """The connections of one event loop.

    Args:
        address: where to.
        gate: makes the script that each connection runs first; what the server says of itself comes with its answer.
        found: hears what a connection found; raises where it is not good enough.
    """

    def __init__(self, address: Address, gate: Callable[[], Ask], found: Callable[[Finding, bytes], None]) -> None:
        self._address = address
        self._gate = gate
        self._found = found
        self._free: list[Any] = []
        self._used: set[Any] = set()
        self._room = asyncio.Semaphore(_MOST)
        self._elsewhere: dict[str, Any] = {}
        self.closed = False

    async def call(self, ask: Ask) -> bytes:
        """Run a script; what it answers.

        Raises:
            BusUnavailable: the server did not answer in time, so that it happened or did not; or it cannot do it now.
            BusError: it will not get better by trying.
        """
        trouble: Exception | None = None
        pause = _SOON_S
        try:
            async with asyncio.timeout(self._address.timeout_s + ask.waits_s), self._room:
                while True:
                    try:
                        return await self._try(ask)
                    except (BusUnavailable, OSError, wrong.RedisError) as error:
                        if not _passes(error):
                            raise
                        trouble = error
                    if self.closed:
                        raise BusUnavailable(f"{self._address.home} is closed here")
                    ask.repeated = True
                    await self._drop_free()  # what stood beside a dead connection is dead as well
                    if not self._moved(trouble):
                        await asyncio.sleep(pause)
                        pause = min(2 * pause, _LATER_S)
        except TimeoutError:
            why = f": {trouble}" if trouble else ""
            raise BusUnavailable(
                f"{self._address.home} could not be used within {self._address.timeout_s:g} s{why}. "
                "Start the server, check the address, or raise `timeout`; what was being published may be published again"
            ) from trouble
        except wrong.RedisError as error:
            self._address.explain(error)

    async def close(self) -> None:
        """Let go of all connections."""
        self.closed = True
        for connection in tuple(self._used):  # who waits on one learns it so
            await _drop(connection)
        await self._drop_free()

    async def _try(self, ask: Ask) -> bytes:
        connection = self._free.pop() if self._free else await self._connect()
        self._used.add(connection)
        good = False
        try:
            reply = await self._send(connection, ask)
            good = True
            return reply
        except wrong.ResponseError:
            good = True  # the server said no, the connection is in order
            raise
        finally:
            self._used.discard(connection)
            if good and not self.closed:
                self._free.append(connection)
            else:
                await _drop(connection)

    async def _send(self, connection: Any, ask: Ask) -> bytes:
        args = ask.again if ask.repeated and ask.again is not None else ask.args
        command = (len(ask.keys), *ask.keys, *args)
        packed, blocking = _pack(b"EVALSHA", ask.script.sha, *command), ask.blocking and not ask.repeated
        await connection.send_packed_command(_pack(*ask.blocking) + packed if blocking else packed, check_health=False)
        if blocking:
            # The script waits in the server behind it, and runs when there is something: that saves a way to the server.
            with suppress(wrong.ResponseError):  # it was moved or unblocked; the script tells
                await connection.read_response(disable_decoding=True)
        try:
            reply: bytes = await connection.read_response(disable_decoding=True)
        except wrong.NoScriptError:
            await connection.send_packed_command(_pack(b"EVAL", ask.script.text, *command), check_health=False)
            reply = await connection.read_response(disable_decoding=True)
        return reply

    async def _connect(self) -> Any:
        connection = self._address.connection(self._elsewhere)
        try:
            await connection.connect()
            await connection.send_packed_command(_pack(*_INFO) + _pack(*_CONFIG), check_health=False)
            answers: list[Any] = []
            for _ in range(2):
                try:
                    answers.append(await connection.read_response(disable_decoding=True))
                except wrong.ResponseError:  # forbidden or renamed, as managed services do
                    answers.append(None)
            info, config = _fields(answers[0]), _pairs(answers[1])
            self._found(judge(info, config), await self._send(connection, self._gate()))
        except BaseException:
            await _drop(connection)
            raise
        return connection

    def _moved(self, trouble: Exception) -> bool:
        """Go where a cluster says that the log is; back to the address where that cannot be reached."""
        if _code(trouble) == "MOVED":
            host, _, port = f"{trouble}".split(" ")[-1].rpartition(":")
            self._elsewhere = {"port": int(port)} | ({"host": host} if host else {})
            return True
        self._elsewhere = {}
        return False

    async def _drop_free(self) -> None:
        while self._free:
            await _drop(self._free.pop())


def _passes(error: Exception) -> bool:
    if isinstance(error, wrong.AuthenticationError):  # to redis-py, a kind of connection error
        return False
    return isinstance(error, _PASSING) or _code(error) in _PASSING_CODES


def _code(error: Exception) -> str:
    return _CODES.get(type(error)) or f"{error}".partition(" ")[0]


async def _drop(connection: Any) -> None:
    with suppress(OSError, wrong.RedisError):
        await connection.disconnect(nowait=True)  # who waits for a dead peer to agree waits long
    await asyncio.sleep(0)  # there the socket is closed


def _pack(*words: bytes | int) -> bytes:
    parts = [b"*%d\r\n" % len(words)]
    for one in words:
        word = b"%d" % one if isinstance(one, int) else one
        parts.append(b"$%d\r\n%b\r\n" % (len(word), word))
    return b"".join(parts)


def _fields(info: bytes | None) -> dict[str, str]:
    lines = (info or b"").decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _pairs(config: list[bytes] | None) -> dict[str, str]:
    words = [word.decode(errors="replace") for word in config or ()]
    return dict(zip(words[::2], words[1::2], strict=True))
