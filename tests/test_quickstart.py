"""The README's quickstart with a router runs with whichever of the four routes is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentfund.testing import Provider
from tests.llms.clis import cli, own_home

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
CODE = next(block for block in README.split("```python\n") if "ClaudeCLI()" in block).partition("```")[0]
KEY = "sk-of-nobody-0123456789"


def addressed(there: str, url: str, folder: Path) -> str:
    """Return the README's code with one of its routes led to a server on this machine; the others are left as they are."""
    if there == "claude_cli":
        env = own_home(folder, ANTHROPIC_BASE_URL=url, ANTHROPIC_API_KEY=KEY)
        return CODE.replace("ClaudeCLI()", f"ClaudeCLI(program={cli('claude')!r}, env={env!r})")
    if there == "codex_cli":
        env = own_home(folder, CODEX_API_KEY=KEY)
        return CODE.replace("CodexCLI()", f"CodexCLI(program={cli('codex')!r}, base_url={url + '/v1'!r}, env={env!r})")
    if there == "anthropic":
        return CODE.replace("Anthropic()", f"Anthropic(api_key={KEY!r}, base_url={url!r})")
    if there == "openai":
        return CODE.replace("OpenAI()", f"OpenAI(api_key={KEY!r}, base_url={url + '/v1'!r}, free=False)")
    return CODE


@pytest.mark.parametrize("there", ["claude_cli", "codex_cli", "anthropic", "openai", "nothing"])
def test_the_quickstart_runs_with_whichever_route_is_there(there: str, tmp_path: Path) -> None:
    """Its other routes have neither key nor command; the one that is there answers, and with none the rules do."""
    with Provider(json.dumps({"value": None, "abstain": "the numbers do not decide"})) as provider:
        script = tmp_path / "quickstart.py"
        script.write_text(addressed(there, provider.url, tmp_path), encoding="utf-8")
        bare = {name: value for name, value in os.environ.items() if not name.endswith(("_KEY", "_TOKEN"))}
        env = {**bare, "HOME": str(tmp_path), "PATH": str(tmp_path)}
        done = subprocess.run([sys.executable, script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if there == "nothing":
        assert "rules 20" in done.stdout
        assert "came from a rule because no language model could answer" in done.stdout
        assert provider.requests == []
    else:
        assert f"{there} 20" in done.stdout
        assert len(provider.requests) >= 20
