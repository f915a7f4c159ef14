"""The server: the gate with its limits, and agents that judge, behind one port."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import platform
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from agentfund.clock import SystemClock
from agentfund.core.gate import Denial, Limits, check
from agentfund.errors import ConfigError
from agentfund.rpc import gate_pb2 as pb
from agentfund.rpc.client import other_limits
from agentfund.rpc.codec import VERSION, Malformed, load_order, load_scene, not_finite
from agentfund.rpc.hosting import Host
from agentfund.rpc.link import GATE, MAX_BYTES, RISK, Tls, check_address, server_options
from agentfund.rpc.questions import dump_answer

if TYPE_CHECKING:
    from types import TracebackType

    from pydantic import BaseModel

    from agentfund.core.agent import Agent
    from agentfund.core.safety import SafetyLimits
    from agentfund.protocols import Clock

_log = logging.getLogger("agentfund")
_LONGEST = 500
_HEALTH = "grpc.health.v1.Health"


class GateServer:
    """Answers for a gate, for agents that judge, or for both: `GateServer("127.0.0.1:50051", Limits()).run()`.

    The limits are the server's. A request cannot change them; it can only name those it believes in, and is denied where they
    are others. Whatever the server does not understand, and any failure of its own, is a denial.

    Args:
        address: `host:port`, port 0 for a free one, or `unix:/path`.
        limits: the gate's limits; None hosts no gate.
        agents: agents that it hosts, such as `RiskGate()`.
        outputs: further output types that these agents read; those that they declare are known.
        safety: what each hosted agent may do at most.
        tls: certificates; with `ca` clients must show one as well. Without them it listens on this machine only.
        insecure: allows plaintext to elsewhere.
        name: its name in answers; the machine's by default.
        concurrency: requests at a time; more are refused, which clients take for a no.
        judging: questions at a time for each hosted agent; more wait for their turn until nobody waits for them.
        max_bytes: largest request.
        grace: how long requests in work may take once it stops.
        clock: measures how long hosted agents take.

    Raises:
        ConfigError: there is nothing to host, two agents have the same name, or plaintext would be offered to elsewhere.
    """

    def __init__(
        self,
        address: str,
        limits: Limits | None = None,
        *,
        agents: Sequence[Agent[Any]] = (),
        outputs: Sequence[type[BaseModel]] = (),
        safety: SafetyLimits | None = None,
        tls: Tls | None = None,
        insecure: bool = False,
        name: str = "",
        concurrency: int = 256,
        judging: int = 16,
        max_bytes: int = MAX_BYTES,
        grace: timedelta = timedelta(seconds=5),
        clock: Clock | None = None,
    ) -> None:
        check_address(address, tls, insecure)
        if limits is None and not agents:
            raise ConfigError("a server needs something to host: limits=Limits(...), agents=[RiskGate()], or both")
        if limits is not None and not isinstance(limits, Limits):
            raise ConfigError(f"{limits!r} is no Limits: write limits=Limits(...)")
        kinds = [kind for agent in agents for kind in (agent.output, *agent.reads, *agent.when)]
        known = {kind.__name__: kind for kind in (*kinds, *outputs)}
        clock = clock or SystemClock()
        self._hosts = {agent.name: Host(agent, safety, known, judging, clock) for agent in agents}
        if len(self._hosts) < len(agents):
            raise ConfigError(f"a server needs agents with different names, not {[agent.name for agent in agents]}")
        self.address = address
        self.limits = limits
        self.name = name or platform.node()
        self._digest = limits.digest if limits is not None else ""
        self._credentials = tls.for_server() if tls is not None else None
        self._concurrency = concurrency
        self._max_bytes = max_bytes
        self._grace_s = grace.total_seconds()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    def __repr__(self) -> str:
        hosted = [*(["gate"] if self.limits is not None else []), *self._hosts]
        return f"<GateServer {self.name!r} at {self.address}: {', '.join(hosted)}>"

    def run(self, ready: Callable[[], object] | None = None) -> None:
        """Serve in the foreground until SIGTERM or SIGINT, then end what is in work.

        Args:
            ready: called once it listens.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        asyncio.run(self._serve(ready or (lambda: None), signals=True))

    def start(self) -> GateServer:
        """Serve in a thread of its own; return once it listens.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        if self._thread is not None:
            raise ConfigError("this server has been started already: make another")
        listening = threading.Event()
        failed: list[BaseException] = []

        def serve() -> None:
            try:
                asyncio.run(self._serve(listening.set))
            except BaseException as error:
                failed.append(error)
            finally:
                listening.set()

        self._thread = threading.Thread(target=serve, name="agentfund-gate", daemon=True)
        self._thread.start()
        listening.wait()
        if failed:
            raise failed[0]
        return self

    def stop(self) -> None:
        """Say that it no longer serves, end what is in work, and let go of the port."""
        if self._loop is not None and self._stopping is not None:
            with suppress(RuntimeError):  # it has stopped by itself
                self._loop.call_soon_threadsafe(self._stopping.set)
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> GateServer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.stop()

    async def _serve(self, ready: Callable[[], object], *, signals: bool = False) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        server = grpc.aio.server(options=server_options(self._max_bytes), maximum_concurrent_rpcs=self._concurrency)
        services = self._services()
        for service, methods in services.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        states = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(states, server)
        reflection.enable_server_reflection((*services, _HEALTH, reflection.SERVICE_NAME), server)
        self._listen(server)
        if signals:
            self._heed(self._loop, self._stopping)
        await server.start()
        for service in ("", *services):
            await states.set(service, health_pb2.HealthCheckResponse.SERVING)
        _log.info("%r serves", self)
        try:
            ready()
            await self._stopping.wait()
        finally:
            await states.enter_graceful_shutdown()
            await server.stop(self._grace_s)
            for host in self._hosts.values():
                host.close()

    def _services(self) -> dict[str, dict[str, Any]]:
        """Return the methods by service; they take and give bytes, so that what is no message is answered like the rest."""
        found = {}
        if self.limits is not None:
            found[GATE] = {"Check": grpc.unary_unary_rpc_method_handler(self._check)}
        if self._hosts:
            found[RISK] = {"Judge": grpc.unary_unary_rpc_method_handler(self._judge)}
        return found

    def _listen(self, server: grpc.aio.Server) -> None:
        try:
            if self._credentials is not None:
                port = server.add_secure_port(self.address, self._credentials)
            else:
                port = server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise ConfigError(f"{self.address} cannot be listened on ({error}): is another server there?") from None
        if not self.address.startswith("unix:"):
            self.address = f"{self.address.rpartition(':')[0]}:{port}"

    @staticmethod
    def _heed(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(number, stopping.set)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopping.set))

    async def _check(self, raw: bytes, context: Any) -> bytes:
        order = ""
        try:
            request = _parsed(raw)
            order = request.order.id
            denial = self._denial(request)
        except Malformed as error:
            denial = Denial("gate_request", f"the request is malformed: {error}")
        except Exception as error:  # a gate that cannot judge says no
            denial = Denial("gate_error", f"the gate could not judge: {type(error).__name__}: {error}")
        _log.info("gate: order %r %s", order, "allowed" if denial is None else f"denied ({denial.code}): {denial.reason!r}")
        return pb.CheckReply(
            answer=pb.ANSWER_ALLOW if denial is None else pb.ANSWER_DENY,
            code="" if denial is None else denial.code,
            reason="" if denial is None else _printable(denial.reason),
            limits_digest=self._digest,
            server=self.name,
            request_sha256=hashlib.sha256(raw).digest(),
        ).SerializeToString()

    def _denial(self, request: pb.CheckRequest) -> Denial | None:
        assert self.limits is not None
        if request.version != VERSION:
            raise Malformed(f"version {request.version}; this server understands {VERSION}")
        size = request.ByteSize()
        request.DiscardUnknownFields()
        if request.ByteSize() != size:
            raise Malformed("it has fields that this server does not know")
        if request.limits_digest and request.limits_digest != self._digest:
            return other_limits(self._digest, request.limits_digest)
        if not request.HasField("order") or not request.HasField("scene"):
            raise Malformed("order or scene is missing")
        order, scene = load_order(request.order), load_scene(request.scene)
        denial = check(order, scene, self.limits)
        if denial is None and (name := not_finite(order, scene)):
            raise Malformed(f"{name} is no number")
        return denial

    async def _judge(self, raw: bytes, context: Any) -> bytes:
        try:
            question = pb.JudgeRequest.FromString(raw)
        except Exception as error:
            await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, f"the question is malformed: {error}")
        host = self._hosts.get(question.agent)
        if host is None:
            await _refuse(context, grpc.StatusCode.NOT_FOUND, f"no agent {question.agent!r} is hosted here")
        judged = await host.judge(question)
        return dump_answer(judged, self.name, hashlib.sha256(raw).digest()).SerializeToString()


def _parsed(raw: bytes) -> pb.CheckRequest:
    try:
        return pb.CheckRequest.FromString(raw)
    except Exception as error:
        raise Malformed(str(error)) from None


async def _refuse(context: Any, code: grpc.StatusCode, why: str) -> NoReturn:
    await context.abort(code, why[:_LONGEST])
    raise AssertionError("abort raises")


def _printable(reason: str) -> str:
    return reason.encode(errors="backslashreplace").decode()[:_LONGEST]
