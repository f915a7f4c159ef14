"""The chart and the compose file: rendered by Helm's own library, held against the Kubernetes schemas and the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from agentfund.cli import app

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "deploy" / "helm" / "agentfund"
KUBERNETES = ("1.29.0", "1.34.0")


def worker(**more: Any) -> dict[str, Any]:
    """Return a worker's values."""
    with helm_python.Chart.load(CHART) as chart:
        base = chart.values["workers"][0]
    return {**base, **more}


def scaling(**more: Any) -> dict[str, Any]:
    """Return a worker's scaling."""
    return {**worker()["scaling"], **more}


VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "hpa": {"workers": [worker(scaling=scaling(by="hpa"))]},
    "fixed": {"workers": [worker(scaling={"enabled": False}, replicas=3)]},
    "many": {
        "workers": [worker(name="reason", agents="strategist", llm="anthropic", budgetUsdPerDay="20"), worker(name="gates")],
        "secrets": ["llm-keys"],
        "networkPolicy": {"enabled": True, "egress": [{"ports": [{"port": 5432}]}]},
        "image": {"repository": "registry.example/fund", "tag": "1", "pullSecrets": [{"name": "regcred"}]},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    },
    "workers alone": {"fund": {"replicas": 0}},
}


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the objects that the chart makes of values."""
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(values, name="f", namespace="trading")
    texts = [text for name, text in files.items() if not name.endswith("NOTES.txt")]
    return [one for text in texts for one in yaml.safe_load_all(text) if one]


def test_helm_finds_nothing_wrong() -> None:
    """`helm lint --strict`."""
    report = helm_python.lint(CHART, strict=True)
    assert report["errors"] == []
    assert [one for one in report["messages"] if one["severity"] > 1] == []


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_what_the_chart_makes(name: str, version: str) -> None:
    """Strictly: no field that it does not know. KEDA's own kind is looked at by hand."""
    kinds = []
    for one in rendered(VALUES[name]):
        kinds.append(one["kind"])
        if one["kind"] == "ScaledObject":
            target, spec = one["spec"]["scaleTargetRef"]["name"], one["spec"]
            assert target in [o["metadata"]["name"] for o in rendered(VALUES[name]) if o["kind"] == "Deployment"]
            assert spec["minReplicaCount"] <= spec["maxReplicaCount"]
            for trigger in spec["triggers"]:
                assert trigger["type"] == "prometheus"
                assert set(trigger["metadata"]) == {"serverAddress", "query", "threshold"}
                assert isinstance(trigger["metadata"]["threshold"], str)
        else:
            kubernetes_validate.validate(one, version, strict=True)
    assert kinds.count("Deployment") == len(VALUES[name].get("workers", [0])) + (name != "workers alone")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({"workers": [{"name": "X Y"}]}, "name", id="name"),
        pytest.param({"bus": {"url": "postgresql://fund:secret@db"}}, "url", id="password"),
        pytest.param({"workers": [worker(scaling=scaling(by="luck"))]}, "by", id="scaler"),
        pytest.param({"fund": {"replicas": -1}}, "replicas", id="replicas"),
    ],
)
def test_values_that_cannot_work_are_refused(values: dict[str, Any], words: str) -> None:
    """Before anything reaches a cluster, by the chart's schema."""
    with helm_python.Chart.load(CHART) as chart, pytest.raises(helm_python.HelmValuesError, match=words):
        chart.validate_schema(chart.merge_values(values))


def commands() -> list[list[str]]:
    """Return every command of ours that the chart and the compose file run."""
    found = [
        container["command"]
        for values in VALUES.values()
        for one in rendered(values)
        if one["kind"] == "Deployment"
        for container in one["spec"]["template"]["spec"]["containers"]
    ]
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    found += [service["command"] for service in compose["services"].values() if "command" in service]
    return [command for command in found if command[0] == "agentfund"]


def test_the_command_line_knows_every_option_that_is_used() -> None:
    """An option that was renamed would stop a deployment."""
    group: Any = get_command(app)
    assert len(commands()) > 5
    for _, name, *options in commands():
        known = {flag for parameter in group.commands[name].params for flag in parameter.opts}
        assert {option.partition("=")[0] for option in options} <= known
        needed = {one.opts[0] for one in group.commands[name].params if one.required and not one.envvar}
        assert needed <= {option.partition("=")[0] for option in options}


def test_no_password_stands_in_a_manifest() -> None:
    """The address of the log comes out of a secret."""
    for values in VALUES.values():
        for one in rendered(values):
            assert not re.search(r"://[^/\s]*:[^/\s]*@", yaml.safe_dump(one))


def test_pods_are_held_tight() -> None:
    """Nobody's user, nothing to write to, no capability, no token."""
    for one in rendered(VALUES["many"]):
        if one["kind"] == "Deployment":
            pod = one["spec"]["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["automountServiceAccountToken"] is False
            for container in pod["containers"]:
                held = container["securityContext"]
                assert held["readOnlyRootFilesystem"] is True
                assert held["allowPrivilegeEscalation"] is False
                assert held["capabilities"] == {"drop": ["ALL"]}


def test_the_compose_file_names_what_is_there() -> None:
    """Its build file, its example, its services."""
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"postgres", "worker", "fund", "watchdog"}
    for service in services.values():
        if "build" in service:
            assert (ROOT / "deploy" / service["build"]["context"] / service["build"]["dockerfile"]).exists()
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (ROOT / "deploy" / source).exists()
        assert set(service.get("depends_on", {})) <= set(services)
    extras = re.findall(r"\[([\w,]+)\]", (ROOT / "deploy" / "Dockerfile").read_text())[0].split(",")
    assert set(extras) <= set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
