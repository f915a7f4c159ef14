"""Addresses, certificates and channels: who may talk to whom, and how a connection is kept."""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc

from agentfund.errors import ConfigError

GATE = "agentfund.rpc.v1.Gate"
RISK = "agentfund.rpc.v1.Risk"
MAX_BYTES = 4 * 2**20

_KEEPALIVE_MS = 10_000
_PING_TIMEOUT_MS = 3_000


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates, as PEM files.

    Args:
        ca: who signs the other side's certificate. At a server: clients must show one that is signed by it (mutual TLS). At a
            client: who signs the server's; the usual authorities where it is not given.
        cert: one's own certificate, with the chain to the authority. A server needs one; a client does for mutual TLS.
        key: its private key.
        name: at a client: the name that stands in the server's certificate, where that is not the address.
    """

    ca: Path | str | None = None
    cert: Path | str | None = None
    key: Path | str | None = field(default=None, repr=False)
    name: str = ""

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ConfigError("Tls: a certificate and its key come together: Tls(cert=..., key=...)")

    def for_server(self) -> grpc.ServerCredentials:
        """Return a server's credentials.

        Raises:
            ConfigError: there is no certificate, or a file cannot be read.
        """
        if self.cert is None or self.key is None:
            raise ConfigError("a server needs a certificate and its key: Tls(cert=..., key=...)")
        pair = (_read(self.key, "key"), _read(self.cert, "certificate"))
        ca = None if self.ca is None else _read(self.ca, "certificate")
        return grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=ca is not None)

    def for_client(self) -> grpc.ChannelCredentials:
        """Return a client's credentials.

        Raises:
            ConfigError: a file cannot be read.
        """
        return grpc.ssl_channel_credentials(
            root_certificates=None if self.ca is None else _read(self.ca, "certificate"),
            private_key=None if self.key is None else _read(self.key, "key"),
            certificate_chain=None if self.cert is None else _read(self.cert, "certificate"),
        )


def check_address(address: str, tls: Tls | None, insecure: bool) -> None:
    """Refuse an address that is none, and plaintext that would leave the machine.

    Raises:
        ConfigError: says what to write instead.
    """
    if tls is not None and insecure:
        raise ConfigError("tls=... and insecure=True contradict each other: leave one out")
    if address.startswith("unix:"):
        if tls is None:
            return
        raise ConfigError(f"{address} is a socket of this machine: it needs no tls=...")
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535 or "/" in host:
        raise ConfigError(f"{address!r} is no address: write HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051, or unix:/PATH")
    if tls is None and not insecure and not _loopback(host):
        raise ConfigError(
            f"{address} is not on this machine alone, and this would be plaintext:"
            " give certificates (tls=Tls(...), --tls-cert), or say insecure=True (--insecure)"
        )


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _read(path: Path | str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"the {what} {path} cannot be read: {error.strerror or error}") from None


def server_options(max_bytes: int) -> list[tuple[str, int]]:
    """Return how a server treats connections."""
    return [
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.max_send_message_length", max_bytes),
        ("grpc.so_reuseport", 0),  # two gates with different limits must never share a port
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _KEEPALIVE_MS // 2),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
    ]


class Link:
    """A line to one server: a channel that any thread and any event loop may use. It connects when it is first used.

    Args:
        address: `host:port`, or `unix:/path`.
        timeout: how long an answer may take, connecting included.
        tls: certificates; None is plaintext, which has to stay on this machine.
        insecure: allows plaintext to elsewhere.
        max_bytes: largest message.

    Raises:
        ConfigError: the address is none, it would need TLS, or a certificate cannot be read.
    """

    def __init__(
        self, address: str, timeout: timedelta, *, tls: Tls | None = None, insecure: bool = False, max_bytes: int = MAX_BYTES
    ) -> None:
        check_address(address, tls, insecure)
        self.timeout_s = timeout.total_seconds()
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout must be above zero, not {timeout}")
        self.address = address
        options: list[tuple[str, int | str]] = [
            ("grpc.enable_retries", 0),  # an answer is asked for once
            ("grpc.service_config_disable_resolution", 1),
            ("grpc.enable_http_proxy", 0),  # a proxy of the environment is no party to this
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", max(1_000, int(self.timeout_s * 1_000))),  # how long connecting may take
            ("grpc.max_reconnect_backoff_ms", 1_000),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.max_receive_message_length", max_bytes),
            ("grpc.max_send_message_length", max_bytes),
        ]
        if tls is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            if tls.name:
                options.append(("grpc.ssl_target_name_override", tls.name))
            self._channel = grpc.secure_channel(address, tls.for_client(), options)
        self._methods: dict[str, Any] = {}

    def call(self, method: str, request: bytes) -> bytes:
        """Ask, and wait for the answer.

        Raises:
            NoAnswer: there is none; says why.
        """
        try:
            reply: bytes = self._method(method)(request, timeout=self.timeout_s)
        except Exception as error:
            raise self._failed(error) from None
        return reply

    async def ask(self, method: str, request: bytes) -> bytes:
        """Ask without keeping the event loop waiting; cancelled, it tells the server.

        Raises:
            NoAnswer: there is none; says why.
        """
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not answered.done():
                answered.set_result(None)

        def done(_: Any) -> None:
            with suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(wake)

        try:
            call = self._method(method).future(request, timeout=self.timeout_s)
        except Exception as error:
            raise self._failed(error) from None
        try:
            call.add_done_callback(done)
            await answered
            reply: bytes = call.result()
        except Exception as error:
            raise self._failed(error) from None
        finally:
            call.cancel()  # nothing where it has ended
        return reply

    def close(self) -> None:
        """Let go of the connection; what is asked afterwards gets no answer."""
        self._channel.close()

    def _method(self, name: str) -> Any:
        method = self._methods.get(name)
        if method is None:
            method = self._methods[name] = self._channel.unary_unary(name)  # bytes in, bytes out
        return method

    def _failed(self, error: Exception) -> NoAnswer:
        code = error.code() if isinstance(error, grpc.Call) else None
        if code is None:
            return NoAnswer(f"{self.address} cannot be asked: {error}")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return NoAnswer(f"{self.address} did not answer within {self.timeout_s:g} s")
        said = str(error.details() or "")[:300] if isinstance(error, grpc.Call) else ""
        if code is grpc.StatusCode.UNAVAILABLE:
            return NoAnswer(f"{self.address} cannot be reached: {said}")
        return NoAnswer(f"{self.address} gave no answer ({code.name}): {said}")


class NoAnswer(Exception):
    """There was no answer, or none that means anything."""
