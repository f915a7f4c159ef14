"""What operators see: health, reflection, and a server that ends what is in work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from agentfund import Limits, Proposal, Verdict, agent
from agentfund.core.agent import Agent
from agentfund.rpc import GateServer, RemoteAgent, RemoteGate
from agentfund.rpc.link import GATE, RISK
from tests.core.test_gate import order, scene
from tests.market import yes
from tests.rpc.test_agents import shown

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def server() -> Iterator[GateServer]:
    with GateServer("127.0.0.1:0", Limits(), agents=[yes]) as one:
        yield one


def slow(begun: threading.Event, go_on: threading.Event) -> Agent[Verdict]:
    """Return an agent that answers when it is told to."""

    @agent(reads=(Proposal,), name="slow")
    def judge(context: Any) -> Verdict:
        begun.set()
        assert go_on.wait(30)
        return Verdict(approved=True, reason="at last")

    return judge


@pytest.mark.parametrize("service", ["", GATE, RISK])
def test_a_stock_client_sees_that_it_serves(server: GateServer, service: str) -> None:
    """As Kubernetes and load balancers ask: for each service, and for all."""
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            stub.Check(health_pb2.HealthCheckRequest(service="other"))


def test_a_stock_client_finds_the_services_and_asks_without_our_code(server: GateServer) -> None:
    """By reflection, as grpcurl does: the types come from the server."""
    with grpc.insecure_channel(server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {GATE, RISK, "grpc.health.v1.Health"} <= set(database.get_services())
        method = descriptor_pool.DescriptorPool(database).FindServiceByName(GATE).FindMethodByName("Check")
        asked, told = map(message_factory.GetMessageClass, (method.input_type, method.output_type))
        call = channel.unary_unary(f"/{GATE}/Check", asked.SerializeToString, told.FromString)
        assert call(asked(version=1)).code == "gate_request"


def test_a_server_hosts_what_it_was_given_and_nothing_else() -> None:
    """A gate is denied where there is none; its health is not known."""
    with GateServer("127.0.0.1:0", agents=[yes]) as server, RemoteGate(server.address) as gate:
        denial = gate.check(order(), scene())
        assert denial is not None
        assert "UNIMPLEMENTED" in denial.reason
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=GATE))


def test_who_stops_says_so_and_ends_what_is_in_work() -> None:
    """Health turns first, the answer in work still comes, and whoever asks later is denied."""
    begun, go_on = threading.Event(), threading.Event()
    one = slow(begun, go_on)
    with GateServer("127.0.0.1:0", Limits(), agents=[one], grace=timedelta(seconds=30)) as server:
        gate, remote = RemoteGate(server.address), RemoteAgent(one, server.address)
        with grpc.insecure_channel(server.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=GATE))
            assert next(watch).status == SERVING
            given: list[Any] = []
            asking = threading.Thread(target=lambda: given.append(asyncio.run(remote.run(shown()))))
            asking.start()
            assert begun.wait(30)
            stopping = threading.Thread(target=server.stop)
            stopping.start()
            assert next(watch).status == NOT_SERVING
            watch.cancel()
            denial = gate.check(order(), scene())
            assert denial is not None
            assert denial.code == "gate_unavailable"
            go_on.set()
            for thread in (asking, stopping):
                thread.join()
        assert given == [Verdict(approved=True, reason="at last")]
        gate.close()
        remote.close()


def test_more_requests_than_it_takes_are_refused_and_that_is_a_no() -> None:
    """The one that is in work is not in danger."""
    begun, go_on = threading.Event(), threading.Event()
    one = slow(begun, go_on)
    with GateServer("127.0.0.1:0", Limits(), agents=[one], concurrency=1) as server:
        gate, remote = RemoteGate(server.address), RemoteAgent(one, server.address)
        given: list[Any] = []
        asking = threading.Thread(target=lambda: given.append(asyncio.run(remote.run(shown()))))
        asking.start()
        assert begun.wait(30)
        denial = gate.check(order(), scene())
        assert denial is not None
        assert "RESOURCE_EXHAUSTED" in denial.reason
        go_on.set()
        asking.join()
        assert given[0].approved
        while gate.check(order(), scene()) is not None:  # the server counts an answer as in work until it is sent
            assert not threading.Event().wait(0.02)
        gate.close()
        remote.close()


def test_the_gate_does_not_wait_for_an_agent_that_thinks() -> None:
    """An agent's plain function may take its time; orders are judged meanwhile."""
    begun, go_on = threading.Event(), threading.Event()
    one = slow(begun, go_on)
    with GateServer("127.0.0.1:0", Limits(), agents=[one]) as server:
        gate, remote = RemoteGate(server.address), RemoteAgent(one, server.address)
        asking = threading.Thread(target=lambda: asyncio.run(remote.run(shown())))
        asking.start()
        assert begun.wait(30)
        assert gate.check(order(), scene()) is None
        go_on.set()
        asking.join()
        gate.close()
        remote.close()
