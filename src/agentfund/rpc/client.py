"""The client of the gate: the same question as the local gate's, and no whenever there is no answer."""

from __future__ import annotations

import hashlib
import logging
import os
from datetime import timedelta
from typing import TYPE_CHECKING

from agentfund.core.gate import Denial, Limits
from agentfund.rpc import gate_pb2 as pb
from agentfund.rpc.codec import VERSION, dump_order, dump_scene
from agentfund.rpc.link import GATE, MAX_BYTES, Link, NoAnswer, Tls
from agentfund.secrets import scrub

if TYPE_CHECKING:
    from types import TracebackType

    from agentfund.core.gate import Scene
    from agentfund.trading import Order

_log = logging.getLogger("agentfund")
_CHECK = f"/{GATE}/Check"
_LONGEST, _CODE = 500, 64


class RemoteGate:
    """A gate in another process: `RemoteGate("127.0.0.1:50051").check(order, scene)`.

    It answers as `agentfund.core.gate.check` does with the limits of the server. Where there is no answer in time, or none
    that can be trusted, the order is denied (`gate_unavailable`). It may be used from any thread and any event loop.

    Args:
        address: `host:port`, or `unix:/path` of a socket on this machine.
        timeout: how long an answer may take, connecting included; after that the order is denied.
        tls: certificates. Without them the server has to be on this machine.
        insecure: allows plaintext to elsewhere: whoever sits between may then allow any order.
        limits: the limits that the server should hold, or their digest; a server that holds others denies (`gate_limits`).
        server: the name that the server should give; another one is no answer.

    Raises:
        ConfigError: the address is none, it would need TLS, or a certificate cannot be read.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: timedelta = timedelta(seconds=1),
        tls: Tls | None = None,
        insecure: bool = False,
        limits: Limits | str = "",
        server: str = "",
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._link = Link(address, timeout, tls=tls, insecure=insecure, max_bytes=max_bytes)
        self._digest = limits.digest if isinstance(limits, Limits) else limits
        self._server = server

    def __repr__(self) -> str:
        return f"<RemoteGate {self._link.address}>"

    def check(self, order: Order, scene: Scene) -> Denial | None:
        """Return None to allow the order, or why it is denied."""
        request = self._request(order, scene)
        if isinstance(request, Denial):
            return request
        try:
            return self._answer(self._link.call(_CHECK, request), request)
        except Exception as error:  # whatever went wrong, it is no yes
            return _unavailable(error)

    async def ask(self, order: Order, scene: Scene) -> Denial | None:
        """Do the same without keeping the event loop waiting."""
        request = self._request(order, scene)
        if isinstance(request, Denial):
            return request
        try:
            return self._answer(await self._link.ask(_CHECK, request), request)
        except Exception as error:  # whatever went wrong, it is no yes
            return _unavailable(error)

    def close(self) -> None:
        """Let go of the connection; whoever asks afterwards is denied."""
        self._link.close()

    def __enter__(self) -> RemoteGate:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.close()

    def _request(self, order: Order, scene: Scene) -> bytes | Denial:
        try:
            return pb.CheckRequest(
                version=VERSION,
                nonce=os.urandom(16),
                order=dump_order(order),
                scene=dump_scene(scene),
                limits_digest=self._digest,
            ).SerializeToString()
        except Exception as error:  # what cannot be told exactly cannot be judged
            return Denial("gate_request", f"the gate cannot be asked: {type(error).__name__}: {error}"[:_LONGEST])

    def _answer(self, raw: bytes, request: bytes) -> Denial | None:
        try:
            reply = pb.CheckReply.FromString(raw)
        except Exception as error:
            raise NoAnswer(f"{self._link.address} gave what is no answer: {error}") from None
        if reply.answer == pb.ANSWER_DENY:
            return Denial(reply.code[:_CODE] or "gate_unavailable", scrub(reply.reason)[:_LONGEST])
        # Anything but a clear yes, to this very request, by the right server and the right limits, is no yes.
        if reply.answer != pb.ANSWER_ALLOW or reply.request_sha256 != hashlib.sha256(request).digest():
            raise NoAnswer(f"{self._link.address} gave an answer that is none to this request")
        if self._server and reply.server != self._server:
            raise NoAnswer(f"{self._link.address} is {reply.server!r}, not {self._server!r}")
        if self._digest and reply.limits_digest != self._digest:
            return other_limits(reply.limits_digest, self._digest)
        return None


def other_limits(held: str, believed: str) -> Denial:
    """Return the denial of a client that believes in other limits than the server holds."""
    return Denial("gate_limits", f"the gate holds the limits {held}, and the client believes in {believed[:64]}")


def _unavailable(error: Exception) -> Denial:
    said = str(error) if isinstance(error, NoAnswer) else f"{type(error).__name__}: {error}"
    denial = Denial("gate_unavailable", scrub(said)[:_LONGEST])
    _log.warning("the remote gate gave no answer, so the order is denied: %s", denial.reason)
    return denial
