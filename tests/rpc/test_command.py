"""`agentfund gate`: limits from files and from the command line, and a server in the foreground."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentfund import Limits
from agentfund.cli import app
from agentfund.errors import ConfigError
from agentfund.rpc import RemoteGate, Tls
from agentfund.settings import read_settings
from tests.core.test_gate import order, scene
from tests.rpc.certificates import Authority


def test_limits_come_from_files_and_from_the_command_line(tmp_path: Path) -> None:
    """What comes later wins; the digest is that of the same Limits in Python."""
    toml, json = tmp_path / "limits.toml", tmp_path / "limits.json"
    toml.write_text('symbols = ["AAPL", "MSFT"]\nmax_leverage = 2\nallow_short = true\n')
    json.write_text('{"max_drawdown_pct": 12.5, "restricted": ["GME"]}')
    found = read_settings(Limits, [str(toml), str(json), "max_leverage=1.5", "max_positions=3", "require_stop = off"], "limit")
    assert found == Limits(
        symbols=frozenset({"AAPL", "MSFT"}),
        restricted=frozenset({"GME"}),
        allow_short=True,
        max_leverage=1.5,
        max_positions=3,
        max_drawdown_pct=12.5,
        require_stop=False,
    )
    assert read_settings(Limits, [], "limit") == Limits()
    assert (
        read_settings(Limits, ["max_leverage=2", "symbols=AAPL, MSFT"], "limit").digest
        == Limits(max_leverage=2, symbols=frozenset({"AAPL", "MSFT"})).digest
    )


WRONG: dict[str, tuple[str, str]] = {
    "unknown": ("max_leverag=1", "there is no limit 'max_leverag'; there is symbols"),
    "no number": ("max_leverage=much", "limit max_leverage is a number, not 'much'"),
    "no whole number": ("max_positions=2.5", "limit max_positions is a whole number, not '2.5'"),
    "no switch": ("allow_short=maybe", "limit allow_short is on or off, not 'maybe'"),
    "zero": ("max_leverage=0", "must be above zero"),
    "NaN": ("max_leverage=nan", "must be above zero"),
    "nowhere": ("limits.yaml", "limits.yaml cannot be read"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_limit_that_is_none_is_refused(kind: str) -> None:
    """A limit that was meant and not understood would leave the gate open."""
    given, reason = WRONG[kind]
    with pytest.raises(ConfigError, match=re.escape(reason)):
        read_settings(Limits, [given], "limit")


FILES: dict[str, tuple[str, str, str]] = {
    "broken": ("limits.toml", "max_leverage = ", "are no TOML"),
    "list": ("limits.json", "[1]", "names with values"),
    "unknown": ("limits.toml", "[limits]\nmax_leverage = 1", "there is no limit 'limits'"),
    "text": ("limits.json", '{"max_leverage": "1"}', "is a number, not '1'"),
    "switch": ("limits.json", '{"max_leverage": true}', "is a number, not True"),
    "symbols": ("limits.json", '{"symbols": "AAPL"}', "is names, not 'AAPL'"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_limits_that_is_not_understood_is_refused(kind: str, tmp_path: Path) -> None:
    """All of it."""
    name, text, reason = FILES[kind]
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=re.escape(reason)):
        read_settings(Limits, [str(tmp_path / name)], "limit")


def failed(*arguments: str) -> str:
    """Return the one line with which the command fails."""
    result: Any = CliRunner().invoke(app, ["gate", *arguments])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    line: str = result.stderr
    return line


def test_plaintext_is_not_offered_to_other_machines() -> None:
    """Unless that is said; the line says how."""
    assert "--tls-cert" in failed("--listen", "0.0.0.0:0")
    assert "come together" in failed("--listen", "127.0.0.1:0", "--tls-cert", "gate.pem")
    assert "--tls-key" in failed("--listen", "127.0.0.1:0", "--client-ca", "ca.pem")


def test_it_serves_with_certificates_until_it_is_told_to_stop(tmp_path: Path) -> None:
    """It says where it listens and by which limits, in one line, and ends with code 0."""
    ours = Authority(tmp_path, "authority")
    held, client = ours.certificate("gate.test"), ours.certificate("fund")
    options = ["--limits", "max_leverage=2", "--name", "gate-1", "--tls-cert", str(held.cert), "--tls-key", str(held.key)]
    command = [sys.executable, "-m", "agentfund", "gate", "--listen", "127.0.0.1:0", *options, "--client-ca", str(ours.ca)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = re.fullmatch(
                r"gate gate-1 listens on (127\.0\.0\.1:\d+) \(mutual TLS\); limits (\w+)\n", process.stdout.readline()
            )
            assert line is not None
            assert line[2] == Limits(max_leverage=2).digest
            tls = Tls(ca=ours.ca, cert=client.cert, key=client.key, name="gate.test")
            with RemoteGate(line[1], tls=tls, limits=line[2], server="gate-1", timeout=timedelta(seconds=10)) as gate:
                assert gate.check(order(), scene()) is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_without_the_extra_it_says_what_to_install() -> None:
    """The package names itself."""
    code = (
        "import sys\nsys.modules['grpc'] = None\nimport agentfund\n"
        "try:\n    import agentfund.rpc\nexcept ImportError as error:\n    print(type(error).__name__, error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "MissingExtra grpcio is not installed: pip install 'agentfund[grpc]'\n"
