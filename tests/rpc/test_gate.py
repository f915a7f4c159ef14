"""The gate as a service: the same answers as the local gate's, and no whenever there is no answer."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund import Limits, Order
from agentfund.core.gate import Denial, Scene, check
from agentfund.errors import ConfigError
from agentfund.rpc import GateServer, RemoteGate
from agentfund.rpc import gate_pb2 as pb
from agentfund.rpc.codec import VERSION, Malformed, dump_order, dump_scene, load_order, load_scene
from agentfund.rpc.link import GATE
from tests.core.test_gate import DENIED, order, scene
from tests.market import START
from tests.rpc.scenes import far, near
from tests.rpc.servers import GateProcess, answering

D = Decimal
LIMITS = Limits(restricted=frozenset({"BANNED"}))
SHORT = timedelta(seconds=0.3)
TOO_BIG = {"quantity": D(2000)}


@pytest.fixture(scope="module")
def server() -> Iterator[GateServer]:
    with GateServer("127.0.0.1:0", LIMITS, name="gate-1") as one:
        yield one


@pytest.fixture(scope="module")
def gate(server: GateServer) -> Iterator[RemoteGate]:
    with RemoteGate(server.address, timeout=timedelta(seconds=10)) as one:
        yield one


def code(denial: Denial | None) -> str:
    return denial.code if denial else ""


# The answers


def test_the_remote_gate_says_what_the_local_one_says(gate: RemoteGate) -> None:
    """Five hundred random orders in random scenes: the same code and the same reason, or both allow."""
    said: Counter[str] = Counter()

    @settings(max_examples=500, deadline=None)
    @given(pair=st.one_of(near(), near(), near(), far))
    def law(pair: tuple[Order, Scene]) -> None:
        expected = check(*pair, LIMITS)
        said[code(expected)] += 1
        assert gate.check(*pair) == expected

    law()
    assert said[""] > 20
    assert len(said) > 12


@pytest.mark.parametrize(
    ("expected", "order_changes", "scene_changes"),
    [pytest.param(*one, id=f"{number}-{one[0]}") for number, one in enumerate(DENIED)],
)
def test_each_denial_comes_back(
    gate: RemoteGate, expected: str, order_changes: dict[str, Any], scene_changes: dict[str, Any]
) -> None:
    """Each with its code; what is not even of the right type is denied before it leaves."""
    one, view = order(**order_changes), scene(**scene_changes)
    try:
        dump_order(one), dump_scene(view)
    except Malformed:
        expected = "gate_request"
    assert code(gate.check(one, view)) == expected


def test_it_can_be_asked_from_an_event_loop(gate: RemoteGate) -> None:
    """From several loops in several threads at once, with one and the same gate."""

    async def many() -> list[Denial | None]:
        return await asyncio.gather(*(gate.ask(order(**(TOO_BIG if n % 2 else {})), scene()) for n in range(40)))

    with ThreadPoolExecutor(4) as pool:
        for answers in pool.map(lambda _: asyncio.run(many()), range(4)):
            assert [code(one) for one in answers] == ["", "order_size"] * 20


def test_thirty_two_threads_at_once_get_their_own_answers(gate: RemoteGate) -> None:
    """No answer goes to another question."""
    begin = threading.Barrier(32)

    def ask(number: int) -> list[str]:
        begin.wait()
        quantity = D(1_000 + number)
        return [str(gate.check(order(quantity=quantity if n % 2 else D(100)), scene())) for n in range(10)]

    with ThreadPoolExecutor(32) as pool:
        for number, answers in enumerate(pool.map(ask, range(1, 33)), start=1):
            denied = check(order(quantity=D(1_000 + number)), scene(), LIMITS)
            assert answers == ["None", str(denied)] * 5


async def test_who_no_longer_waits_is_not_in_the_way(gate: RemoteGate) -> None:
    """A question that was cancelled leaves the gate to others."""
    asked = asyncio.ensure_future(gate.ask(order(), scene()))
    await asyncio.sleep(0)
    asked.cancel()
    with suppress(asyncio.CancelledError):
        await asked
    assert await gate.ask(order(), scene()) is None


# No answer


def test_a_server_that_is_silent_denies_after_the_deadline() -> None:
    """It accepts the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent, RemoteGate(told(silent), timeout=SHORT) as gate:
        for denial in (gate.check(order(), scene()), asyncio.run(gate.ask(order(), scene()))):
            assert denial == Denial("gate_unavailable", f"{told(silent)} did not answer within 0.3 s")


def told(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_is_frozen_or_killed_denies_and_is_found_again(tmp_path: Path) -> None:
    """And nothing is allowed late: what was asked of the frozen one stays denied."""
    process = GateProcess(tmp_path)
    process.start()
    try:
        with RemoteGate(process.url, timeout=timedelta(seconds=5)) as patient, RemoteGate(process.url, timeout=SHORT) as gate:
            assert patient.check(order(), scene()) is None
            assert gate.check(order(), scene()) is None
            process.freeze()
            assert code(gate.check(order(), scene())) == "gate_unavailable"
            process.thaw()
            assert patient.check(order(), scene()) is None
            process.kill()
            denial = gate.check(order(), scene())
            assert denial is not None
            assert denial.code == "gate_unavailable"
            assert process.url in denial.reason
            assert code(asyncio.run(gate.ask(order(), scene()))) == "gate_unavailable"
            process.start()
            waited = threading.Event()
            while patient.check(order(), scene()) is not None:
                assert not waited.wait(0.05)
    finally:
        process.stop()


def test_a_gate_that_was_closed_denies(server: GateServer) -> None:
    """In both ways."""
    gate = RemoteGate(server.address)
    gate.close()
    assert code(gate.check(order(), scene())) == "gate_unavailable"
    assert code(asyncio.run(gate.ask(order(), scene()))) == "gate_unavailable"


def allowing(request: bytes, **changes: Any) -> bytes:
    digest = hashlib.sha256(request).digest()
    told: dict[str, Any] = {
        "answer": pb.ANSWER_ALLOW,
        "server": "gate-1",
        "limits_digest": LIMITS.digest,
        "request_sha256": digest,
    }
    return pb.CheckReply(**{**told, **changes}).SerializeToString()


NO_YES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda request: b"",
    "garbage": lambda request: b"\xff\xff\xff",
    "unspecified": lambda request: allowing(request, answer=pb.ANSWER_UNSPECIFIED),
    "later": lambda request: allowing(request, answer=3),
    "unnamed": lambda request: allowing(request, request_sha256=b""),
    "other request": lambda request: allowing(request, request_sha256=hashlib.sha256(b"other").digest()),
    "echo": lambda request: request,
    "other server": lambda request: allowing(request, server="gate-2"),
    "other limits": lambda request: allowing(request, limits_digest="0" * 16),
    "bare no": lambda request: pb.CheckReply(answer=pb.ANSWER_DENY).SerializeToString(),
}


def test_a_clear_yes_allows() -> None:
    """So that the answers below mean something."""
    with answering(allowing) as address, RemoteGate(address, server="gate-1", limits=LIMITS) as gate:
        assert gate.check(order(), scene()) is None


@pytest.mark.parametrize("kind", NO_YES)
def test_an_answer_that_is_no_clear_yes_is_a_no(kind: str) -> None:
    """Whoever answers, and however."""
    with answering(NO_YES[kind]) as address, RemoteGate(address, server="gate-1", limits=LIMITS) as gate:
        expected = "gate_limits" if kind == "other limits" else "gate_unavailable"
        assert code(gate.check(order(), scene())) == expected
        assert code(asyncio.run(gate.ask(order(), scene()))) == expected


def test_an_answer_that_was_recorded_does_not_allow_another_order() -> None:
    """Each request is other bytes, even for the same order in the same scene."""
    recorded: list[bytes] = []

    def replay(request: bytes) -> bytes:
        recorded.append(allowing(request))
        return recorded[0]

    with answering(replay) as address, RemoteGate(address) as gate:
        assert gate.check(order(), scene()) is None
        assert code(gate.check(order(), scene())) == "gate_unavailable"


# Limits


def test_limits_that_the_client_does_not_believe_in_deny(server: GateServer) -> None:
    """Said by the server, which was asked with a digest."""
    with RemoteGate(server.address, limits=Limits(max_leverage=5)) as other:
        denial = other.check(order(), scene())
    assert denial is not None
    assert denial.code == "gate_limits"
    assert LIMITS.digest in denial.reason
    with RemoteGate(server.address, limits=LIMITS.digest, server="gate-1") as same:
        assert same.check(order(), scene()) is None


def test_a_client_cannot_loosen_the_limits(gate: RemoteGate) -> None:
    """Nothing in a request is a limit: an order that the fund's own limits would allow is denied by the server's."""
    loose = Limits(max_leverage=5, max_order_pct=500, max_position_pct=500)
    assert check(order(**TOO_BIG), scene(portfolio=rich()), loose) is None
    assert code(gate.check(order(**TOO_BIG), scene(portfolio=rich()))) == "order_size"


def rich() -> Any:
    from agentfund import Portfolio

    return Portfolio(D(1_000_000))


# Requests of others


@pytest.fixture(scope="module")
def raw(server: GateServer) -> Iterator[Callable[[bytes], Any]]:
    """Give a stock client's way to ask: bytes in, a reply out."""
    with grpc.insecure_channel(server.address) as channel:
        yield channel.unary_unary(f"/{GATE}/Check", response_deserializer=pb.CheckReply.FromString)


def request(**changes: Any) -> pb.CheckRequest:
    told: dict[str, Any] = {"version": VERSION, "order": dump_order(order()), "scene": dump_scene(scene())}
    return pb.CheckRequest(**{**told, **changes})


def changed(change: Callable[[pb.CheckRequest], object]) -> bytes:
    made = request()
    change(made)
    return made.SerializeToString()


def set_to(path: str, value: Any) -> Callable[[pb.CheckRequest], object]:
    *parents, name = path.split(".")

    def change(made: pb.CheckRequest) -> None:
        target: Any = made
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, name, value)

    return change


UNKNOWN_FIELD = b"\xf8\x3f\x01"  # field 1023, a varint
MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "garbage": b"\xff\xff\xff",
    "no order": changed(lambda made: made.ClearField("order")),
    "no scene": changed(lambda made: made.ClearField("scene")),
    "older": changed(set_to("version", 0)),
    "later": changed(set_to("version", VERSION + 1)),
    "unknown field": request().SerializeToString() + UNKNOWN_FIELD,
    "unknown field of the scene": pb.CheckRequest(
        version=VERSION,
        order=dump_order(order()),
        scene=pb.Scene.FromString(dump_scene(scene()).SerializeToString() + UNKNOWN_FIELD),
    ).SerializeToString(),
    "text": changed(set_to("order.quantity", "ten")),
    "comma": changed(set_to("scene.equity", "100,000")),
    "huge": changed(set_to("scene.equity", "1E+999999999999999999")),
    "empty": changed(set_to("scene.price", "")),
    "book is NaN": changed(set_to("scene.portfolio.fees", "NaN")),
}


def test_a_good_request_of_a_stock_client_is_allowed(raw: Callable[[bytes], Any]) -> None:
    """And says who allowed it, by which limits, and what."""
    sent = request().SerializeToString()
    reply = raw(sent)
    assert reply.answer == pb.ANSWER_ALLOW
    assert (reply.server, reply.limits_digest) == ("gate-1", LIMITS.digest)
    assert reply.request_sha256 == hashlib.sha256(sent).digest()


def test_the_server_itself_denies_whoever_believes_in_other_limits(raw: Callable[[bytes], Any]) -> None:
    """Also a client that would not look at the answer's digest."""
    reply = raw(request(limits_digest="0" * 16).SerializeToString())
    assert (reply.answer, reply.code) == (pb.ANSWER_DENY, "gate_limits")


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_request_is_denied(raw: Callable[[bytes], Any], kind: str) -> None:
    """By an answer, not by an error that a client could take for a fault of the network."""
    reply = raw(MALFORMED[kind])
    assert reply.answer == pb.ANSWER_DENY
    assert reply.code == "gate_request"
    assert reply.reason


@pytest.mark.parametrize("field", ["equity", "peak_equity", "day_equity", "price"])
@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none_are_denied(raw: Callable[[bytes], Any], field: str, value: str) -> None:
    """Whatever the code: the local gate's own where it looks, else that of a malformed request."""
    assert raw(changed(set_to(f"scene.{field}", value))).answer == pb.ANSWER_DENY


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 400), junk=st.binary(max_size=8))
def test_a_request_that_was_bent_on_the_way_is_judged_as_it_arrived(raw: Callable[[bytes], Any], cut: int, junk: bytes) -> None:
    """Bytes are overwritten: it is denied, or what arrived is an order in a scene that is whole, and the limits allow it."""
    bent = (whole := request().SerializeToString())[:cut] + junk + whole[cut + len(junk) :]
    reply = raw(bent)
    if reply.answer == pb.ANSWER_ALLOW:
        arrived = pb.CheckRequest.FromString(bent)
        assert check(load_order(arrived.order), load_scene(arrived.scene), LIMITS) is None
    else:
        assert reply.answer == pb.ANSWER_DENY


def test_a_request_that_was_cut_short_is_denied(raw: Callable[[bytes], Any]) -> None:
    """Wherever it was cut: what would make the order look riskier may be what is missing."""
    whole = request(limits_digest=LIMITS.digest).SerializeToString()
    scene_only = len(request().SerializeToString())
    assert {raw(whole[:at]).answer for at in range(0, scene_only, 3)} == {pb.ANSWER_DENY}


def test_a_request_that_is_too_large_is_denied() -> None:
    """And the next one is answered."""
    many = scene(recent=tuple(order(id=f"{number:064}") for number in range(200)))
    with GateServer("127.0.0.1:0", LIMITS, max_bytes=10_000) as server, RemoteGate(server.address) as gate:
        denial = gate.check(order(), many)
        assert denial is not None
        assert denial.code == "gate_unavailable"
        assert "RESOURCE_EXHAUSTED" in denial.reason
        assert gate.check(order(), scene()) is None


def test_a_failure_of_the_server_is_a_denial() -> None:
    """Its limits are broken: the gate cannot judge."""
    broken = Limits()
    with GateServer("127.0.0.1:0", broken) as server, RemoteGate(server.address) as gate:
        object.__setattr__(broken, "max_leverage", None)
        assert code(gate.check(order(), scene())) == "gate_error"


# Addresses


@pytest.mark.parametrize("address", ["10.0.0.5:50051", "risk.example.com:50051", "0.0.0.0:50051", "[::]:50051"])
def test_plaintext_does_not_leave_the_machine_unless_that_is_said(address: str) -> None:
    """Neither a client nor a server does it by accident."""
    for make in (RemoteGate, lambda address: GateServer(address, Limits())):
        with pytest.raises(ConfigError, match=r"plaintext.*insecure=True"):
            make(address)
    RemoteGate(address, insecure=True).close()


@pytest.mark.parametrize("address", ["", "localhost", ":50051", "127.0.0.1:", "127.0.0.1:99999", "dns:///127.0.0.1:1", "h:x"])
def test_what_is_no_address_is_refused(address: str) -> None:
    """With the shape of one that is."""
    with pytest.raises(ConfigError, match="HOST:PORT"):
        RemoteGate(address)


def test_a_server_hosts_something_and_a_client_waits_for_something() -> None:
    """Nonsense is refused when it is put together."""
    with pytest.raises(ConfigError, match="something to host"):
        GateServer("127.0.0.1:0")
    with pytest.raises(ConfigError, match="write limits=Limits"):
        GateServer("127.0.0.1:0", {"max_leverage": 1})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="timeout must be above zero"):
        RemoteGate("127.0.0.1:1", timeout=timedelta(0))


def test_two_gates_never_share_a_port(server: GateServer) -> None:
    """Else an order would be judged by whichever limits happen to be asked."""
    with pytest.raises(ConfigError, match="is another server there"):
        GateServer(server.address, Limits(max_leverage=5)).start()
    with pytest.raises(ConfigError, match="started already"):
        server.start()


def test_a_socket_of_the_machine_is_an_address(tmp_path: Path) -> None:
    """Without a port."""
    path = f"unix:{tmp_path / 'gate'}"
    with GateServer(path, LIMITS) as server, RemoteGate(server.address) as gate:
        assert gate.check(order(), scene()) is None
        assert os.fspath(tmp_path) in repr(gate)


def test_a_proxy_of_the_environment_is_not_asked(server: GateServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order does not pass by a stranger because a variable is set."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    with RemoteGate(server.address) as gate:
        assert gate.check(order(), scene()) is None


def test_a_naive_time_is_not_sent(gate: RemoteGate) -> None:
    """Nobody knows which moment it means."""
    denial = gate.check(order(time=START.replace(tzinfo=None)), scene())
    assert denial is not None
    assert (denial.code, "aware" in denial.reason) == ("gate_request", True)
