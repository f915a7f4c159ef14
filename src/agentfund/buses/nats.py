"""A log on NATS JetStream: one stream of frames, mirrored here. Needs `pip install 'agentfund[nats]'`."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from contextlib import aclosing, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from agentfund.buses.frames import LARGEST
from agentfund.buses.loops import PerLoop
from agentfund.buses.mirrored import MirroredBus
from agentfund.buses.mirrored_link import anew
from agentfund.buses.nats_line import RETRY_S, Arrivals, Line, Sink, client, errors
from agentfund.buses.ordered import Frame
from agentfund.errors import BusError, BusUnavailable

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from agentfund.messages import Durability
    from agentfund.protocols import Clock

_HEARTBEAT_S = 0.5
_HEAD = 200  # bytes of a piece beyond its part of the frame
_FORBIDDEN = set(" \t\r\n.*>/\\")
_GONE = 404


class NatsBus(MirroredBus):
    """A log on NATS JetStream, for many tasks, threads, processes and machines.

    JetStream acknowledges when a message is in the server's file, and has the disk written every two minutes: what is
    published survives a killed server, and not a loss of power. With `sync_interval: always` in the server's settings
    (from version 2.10) it survives that as well; only the server's monitoring tells, so name it to be believed.

    Args:
        url: `nats://user:password@host:4222`, or several of one cluster with commas between them.
        name: of the log: its stream and its subject; made where there is none.
        clock: stamps `Message.appended` where the writer left it None, and times leases.
        max_attempts: how often a message is handed over before it becomes a dead letter.
        lease: how long a consumer may work on a message before it is taken for dead; longer than the longest work.
        timeout: how long to wait for the server.
        demand: what published messages must survive.
        mirror: a file of this process alone that keeps what was read; None for a temporary one.
        replicas: servers that keep the stream, where it is made.
        credentials: a `.creds` file of a user.
        tls: for servers that want a certificate, or have one of their own.
        monitor: the server's monitoring, such as `http://host:8222`, which tells whether it syncs always.

    Raises:
        BusError: nats-py is not installed, or the name cannot be a stream's.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "agentfund",
        clock: Clock | None = None,
        max_attempts: int = 5,
        lease: timedelta = timedelta(seconds=30),
        timeout: timedelta = timedelta(seconds=5),
        demand: Durability = "process",
        mirror: str | Path | None = None,
        replicas: int = 1,
        credentials: str | Path | None = None,
        tls: ssl.SSLContext | None = None,
        monitor: str | None = None,
    ) -> None:
        if not name or set(name) & _FORBIDDEN:
            raise BusError(f"{name!r} cannot name a stream of NATS: no spaces, dots, slashes, stars")
        options = {"user_credentials": None if credentials is None else str(credentials), "tls": tls}
        self._stream = NatsLog(url, name, timeout.total_seconds(), replicas=replicas, monitor=monitor, options=options)
        super().__init__(
            self._stream, mirror=mirror, clock=clock, max_attempts=max_attempts, lease=lease, timeout=timeout, demand=demand
        )

    async def describe(self) -> str:
        """Return in two sentences what was found: server, version, and what makes a message durable."""
        await self._link()
        return self._found()

    def _found(self) -> str:
        return self._stream.found


class NatsLog:
    """The stream under a log: `Ordered`.

    Args:
        url: of the servers.
        name: of the stream and its subject.
        timeout_s: how long to wait for an answer.
        replicas: servers that keep the stream, where it is made.
        monitor: the server's monitoring.
        options: more for the client.
    """

    def __init__(
        self,
        url: str,
        name: str,
        timeout_s: float,
        *,
        replicas: int = 1,
        monitor: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        client()
        self._servers = [one if "://" in one else f"nats://{one}" for one in url.split(",")]
        self._where = ",".join(one.rpartition("@")[2].rpartition("//")[2] for one in self._servers)
        self._name = name
        self._timeout_s = timeout_s
        self._replicas = replicas
        self._monitor = monitor
        self._options = options or {}
        self._created = ""
        self._lines: PerLoop[Line] = PerLoop(self._dial, Line.close)
        self.found = ""

    @property
    def home(self) -> str:
        """Names the log in errors."""
        return f"nats://{self._where}/{self._name}"

    async def connect(self) -> Durability:
        """Make the stream where there is none; return what it promises.

        Raises:
            BusError: there is a stream of this name or subject that cannot keep a log.
            BusUnavailable: the server or its JetStream cannot be reached.
        """
        line = await self._line()
        if line.client.max_payload < LARGEST + _HEAD:
            raise BusError(
                f"{self.home}: the server takes messages of {line.client.max_payload} bytes: set max_payload to 1MB or more"
            )
        info = await self._api(line, f"STREAM.INFO.{self._name}", missing=not self._created)
        if info is None:
            await self._api(line, f"STREAM.CREATE.{self._name}", self._settings())
            info = await self._api(line, f"STREAM.INFO.{self._name}")
        assert info is not None
        level, why = self._judge(info)
        if level == "process" and self._monitor is not None and await self._syncs(info):
            level, why = "power", "synced before each acknowledgement (sync_interval: always)"
        version = line.client.connected_server_version
        self.found = (
            f"NATS {version.major}.{version.minor}.{version.patch} at {self._where}, stream {self._name!r}: {why}. "
            f"What is published survives {_SURVIVES[level]}."
        )
        self._same(info)
        return level

    async def append(self, data: bytes) -> int | None:
        """Append one frame; where the connection is cut meanwhile, again: a frame counts once."""
        line = self._lines.ready()
        if line is None or line.client.is_closed:
            line = await self._line()
        answer = _json(await line.ask(self._name, data, nobody=self._info, doubted=self._believe), self.home)
        if "error" in answer:
            raise BusUnavailable(f"{self.home}: the server refuses: {answer['error'].get('description')}")
        if answer.get("stream") != self._name:
            raise BusError(f"{self.home}: the subject belongs to the stream {answer.get('stream')!r}: choose another name")
        place = int(answer["seq"])
        line.newest = (place, data)
        return place

    async def end(self) -> int:
        """Return the number of the newest frame, -1 where there is none."""
        line = await self._line()
        if line.doubted:
            await self._believe(line)
            line.doubted = False
        info = await self._info(line)
        return int(info["state"]["last_seq"]) or -1

    async def follow(self, after: int) -> AsyncGenerator[Frame, None]:
        """Give all frames beyond a place, then those that come; connects again by itself."""
        while True:
            with suppress(BusUnavailable, *errors()):  # it is tried again for ever
                line = await self._line()
                arrivals = Arrivals()
                line.following.add(arrivals)
                try:
                    async with aclosing(self._from(line, arrivals, after)) as frames:
                        async for frame in frames:
                            yield frame
                            after = frame.place
                finally:
                    line.following.discard(arrivals)
            await asyncio.sleep(RETRY_S)

    async def close(self) -> None:
        """Let go of the running loop's connection."""
        await self._lines.close()

    async def _from(self, line: Line, arrivals: Arrivals, after: int) -> AsyncGenerator[Frame, None]:
        """Have the server send all frames beyond a place, and give them as long as that goes well."""
        await self._info(line)
        inbox = line.client.new_inbox()
        subscription = await line.client.subscribe(inbox, future=Sink(arrivals.put))
        made: dict[str, Any] = {}
        try:
            made = await self._api(line, f"CONSUMER.CREATE.{self._name}", self._consumer(inbox, after)) or {}
            async with aclosing(self._given(line, arrivals, after)) as frames:
                async for frame in frames:
                    yield frame
        finally:
            with suppress(Exception):
                await subscription.unsubscribe()
                await line.client.publish(f"$JS.API.CONSUMER.DELETE.{self._name}.{made.get('name')}")

    async def _given(self, line: Line, arrivals: Arrivals, after: int) -> AsyncGenerator[Frame, None]:
        """Give frames until the connection, the server or the order is lost."""
        expected = 1
        while True:
            message = await arrivals.get()
            if message is None:
                return
            if not message.reply.startswith("$JS.ACK."):  # a heartbeat, or the server asks whether it may go on
                headers = message.headers or {}
                asked = message.reply or headers.get("Nats-Consumer-Stalled")
                if asked:
                    await line.client.publish(asked)
                elif int(headers.get("Nats-Last-Consumer", expected - 1)) != expected - 1:
                    return
                continue
            tokens = message.reply.split(".")
            place, number = int(tokens[-4]), int(tokens[-3])
            if len(tokens) > 9:  # newer servers name more, with a random end
                place, number = int(tokens[7]), int(tokens[8])
            if number != expected:
                return
            if place != max(after, 0) + 1:
                raise BusError(f"{self.home}: frame {max(after, 0) + 1} was deleted from the stream: restore it from a backup")
            expected, after = expected + 1, place
            line.newest = (place, message.data)
            yield Frame(place, message.data)

    async def _dial(self) -> Line:
        line = Line(self.home, self._timeout_s)
        await line.open(self._servers, self._options)
        return line

    async def _line(self) -> Line:
        line = await self._lines.get()
        if line.client.is_closed:
            await self._lines.close()
            line = await self._lines.get()
        return line

    async def _api(
        self, line: Line, subject: str, request: dict[str, Any] | None = None, *, missing: bool = False
    ) -> dict[str, Any] | None:
        """Ask JetStream; None for what is not there, where that is allowed."""
        data = b"" if request is None else json.dumps(request).encode()
        answer = _json(await line.ask(f"$JS.API.{subject}", data), self.home)
        if error := answer.get("error"):
            if error.get("code") == _GONE and missing:
                return None
            if error.get("code") == _GONE:
                raise self._deleted()
            if error.get("code") in (500, 503):
                raise BusUnavailable(f"{self.home}: JetStream cannot: {error.get('description')}")
            raise BusError(f"{self.home}: JetStream refuses: {error.get('description')}")
        return answer

    async def _info(self, line: Line) -> dict[str, Any]:
        info = await self._api(line, f"STREAM.INFO.{self._name}")
        assert info is not None
        self._same(info)
        return info

    def _same(self, info: dict[str, Any]) -> None:
        """Refuse a stream that took the place of the one that was used before."""
        self._created = self._created or info["created"]
        if info["created"] != self._created:
            raise anew(self.home)

    async def _believe(self, line: Line) -> None:
        """Raise where the stream does not hold what it held before the connection was cut: a loss of power took its end."""
        await self._info(line)
        if line.newest is not None:
            place, data = line.newest
            found = await self._api(line, f"STREAM.MSG.GET.{self._name}", {"seq": place}, missing=True)
            if found is None or b64decode(found["message"].get("data", "")) != data:
                raise anew(self.home)

    def _deleted(self) -> BusError:
        return BusError(f"{self.home}: the stream was deleted: restore it from a backup, or start with another name")

    def _settings(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "subjects": [self._name],
            "description": "a log of agentfund",
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "num_replicas": self._replicas,
            "deny_delete": True,
            "deny_purge": True,
        }

    def _consumer(self, inbox: str, after: int) -> dict[str, Any]:
        config = {
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(after, 0) + 1,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": int(_HEARTBEAT_S * 1e9),
            "num_replicas": 1,
            "mem_storage": True,
        }
        return {"stream_name": self._name, "config": config}

    def _judge(self, info: dict[str, Any]) -> tuple[Durability, str]:
        """Return what a stream promises and why.

        Raises:
            BusError: it cannot keep a log.
        """
        config, state = info["config"], info["state"]
        wrong = [
            f"{setting} is {config.get(setting)!r}"
            for setting, right in (("retention", "limits"), ("subjects", [self._name]), ("no_ack", False), ("sealed", False))
            if config.get(setting, right) != right
        ]
        wrong += [f"it has a {setting}" for setting in ("mirror", "sources", "subject_transform") if config.get(setting)]
        limits = [setting for setting in ("max_age", "max_msgs_per_subject") if config.get(setting, 0) > 0]
        if config.get("discard", "old") == "old":
            limits += [setting for setting in ("max_msgs", "max_bytes") if config.get(setting, 0) > 0]
        wrong += [f"it discards what is older than {setting} allows" for setting in limits]
        if 0 <= config.get("max_msg_size", -1) < LARGEST + _HEAD:
            wrong.append(f"max_msg_size is {config['max_msg_size']}")
        if wrong:
            raise BusError(
                f"{self.home}: this stream cannot keep a log: {'; '.join(wrong)}: change its settings, or choose another name"
            )
        if state["last_seq"] and (state["first_seq"] != 1 or state["messages"] != state["last_seq"]):
            raise BusError(f"{self.home}: messages were deleted from this stream: restore it, or choose another name")
        replicas = config.get("num_replicas", 1)
        if config.get("storage") != "file":
            return "none", "kept in memory (set its storage to file)"
        if config.get("persist_mode", "default") not in ("", "default"):
            return "none", f"acknowledged before it is written (persist_mode is {config['persist_mode']})"
        return "process", (
            f"kept in files on {replicas} server{'s' if replicas > 1 else ''}, synced from time to time as far as is known "
            "(set sync_interval to always, and name the server's monitoring with `monitor`)"
        )

    async def _syncs(self, info: dict[str, Any]) -> bool:
        """Return whether the one server that keeps the stream says that it syncs always."""
        found = await asyncio.to_thread(_varz, self._monitor or "", self._timeout_s, self.home)
        leader = (info.get("cluster") or {}).get("leader")
        alone = info["config"].get("num_replicas", 1) == 1 and leader == found.get("server_name")
        return alone and bool(found.get("jetstream", {}).get("config", {}).get("sync_always"))


_SURVIVES: dict[Durability, str] = {
    "none": "nothing for sure",
    "process": "a killed server, not a loss of power",
    "power": "a loss of power",
}


def _json(data: bytes, home: str) -> dict[str, Any]:
    try:
        found = from_json(data)
    except ValueError as error:
        raise BusError(f"{home}: what answers is no JetStream: choose another name") from error
    return found if isinstance(found, dict) else {}


def _varz(monitor: str, timeout_s: float, home: str) -> dict[str, Any]:
    """Return what a server's monitoring says of it."""
    from urllib.request import urlopen

    if not monitor.startswith(("http://", "https://")):
        raise BusError(f"{home}: monitor={monitor!r} is no address such as http://host:8222")
    try:
        with urlopen(f"{monitor.rstrip('/')}/varz", timeout=timeout_s) as answer:  # noqa: S310 - checked above
            return _json(answer.read(), home)
    except OSError as error:
        raise BusUnavailable(f"{home}: the monitoring at {monitor} does not answer ({error}): check `http_port`") from error
