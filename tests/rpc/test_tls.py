"""Certificates: who is not who he says he is gets no yes, and gives none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agentfund import Limits
from agentfund.errors import ConfigError
from agentfund.rpc import GateServer, RemoteGate, Tls
from tests.core.test_gate import order, scene
from tests.rpc.certificates import Authority


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"), "authority")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"), "authority")


def answer(server: GateServer, tls: Tls | None, insecure: bool = False) -> str:
    """Return the code of what a client with these certificates is told, empty when the order is allowed."""
    with RemoteGate(server.address, tls=tls, insecure=insecure) as gate:
        denial = gate.check(order(), scene())
    return denial.code if denial else ""


def test_a_server_with_a_certificate_is_believed_by_its_name_and_its_authority(ours: Authority, theirs: Authority) -> None:
    """Another authority, another name, or no TLS at all: no answer."""
    held = ours.certificate("gate.test")
    trusted = Tls(ca=ours.ca, name="gate.test")
    with GateServer("127.0.0.1:0", Limits(), tls=replace(held, ca=None)) as server:
        assert answer(server, trusted) == ""
        assert answer(server, replace(trusted, ca=theirs.ca)) == "gate_unavailable"
        assert answer(server, replace(trusted, name="other.test")) == "gate_unavailable"
        assert answer(server, replace(trusted, name="")) == "gate_unavailable"  # 127.0.0.1 is not in the certificate
        assert answer(server, Tls(name="gate.test")) == "gate_unavailable"  # the usual authorities do not know it
        assert answer(server, None) == "gate_unavailable"


def test_with_mutual_tls_a_client_has_to_show_a_certificate_too(ours: Authority, theirs: Authority) -> None:
    """Of the server's authority; nobody else is answered."""
    held = ours.certificate("gate.test")
    client, stranger = ours.certificate("fund"), theirs.certificate("fund")
    with GateServer("127.0.0.1:0", Limits(), tls=held) as server:
        assert answer(server, replace(client, name="gate.test")) == ""
        assert answer(server, Tls(ca=ours.ca, name="gate.test")) == "gate_unavailable"
        assert answer(server, replace(stranger, ca=ours.ca, name="gate.test")) == "gate_unavailable"


def test_a_client_that_wants_tls_is_not_answered_in_plaintext(ours: Authority) -> None:
    """Nobody in between can take the certificate away."""
    with GateServer("127.0.0.1:0", Limits()) as server:
        assert answer(server, Tls(ca=ours.ca, name="gate.test")) == "gate_unavailable"


def test_certificates_that_cannot_be_used_are_refused_when_it_is_put_together(ours: Authority, tmp_path: Path) -> None:
    """And no key is shown."""
    held = ours.certificate("gate.test")
    with pytest.raises(ConfigError, match="come together"):
        Tls(cert=held.cert)
    with pytest.raises(ConfigError, match=r"certificate .*nowhere.pem cannot be read"):
        RemoteGate("127.0.0.1:1", tls=Tls(ca=tmp_path / "nowhere.pem"))
    with pytest.raises(ConfigError, match="a server needs a certificate"):
        GateServer("127.0.0.1:0", Limits(), tls=Tls(ca=ours.ca))
    with pytest.raises(ConfigError, match="contradict"):
        RemoteGate("127.0.0.1:1", tls=held, insecure=True)
    with pytest.raises(ConfigError, match="needs no tls"):
        RemoteGate(f"unix:{tmp_path / 'gate'}", tls=held)
    assert "key" not in repr(held)


def test_a_key_that_does_not_belong_to_the_certificate_is_refused(ours: Authority) -> None:
    """The server does not begin to listen with it."""
    wrong = replace(ours.certificate("gate.test"), key=ours.certificate("other.test").key)
    with pytest.raises(ConfigError, match="cannot be listened on"):
        GateServer("127.0.0.1:0", Limits(), tls=wrong).start()
