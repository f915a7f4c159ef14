"""The command lines that tests run: these versions, out of a folder of the project's own, never those of a user."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

PACKAGES: Mapping[str, str] = {"@anthropic-ai/claude-code": "2.1.329", "@openai/codex": "0.169.0"}
"""What is installed with npm, and which version: what the routes do was measured on these."""

VARIABLE = "AGENTFUND_TEST_CLIS"
"""Names the folder into which they were installed."""

_NATIVE = {
    "claude": ("@anthropic-ai/claude-code", "@anthropic-ai/claude-code-*/claude"),
    "codex": ("@openai/codex", "@openai/codex-*/vendor/*/bin/codex"),
}


def cli(name: str, *, shim: bool = False) -> str:
    """Return the path of `claude` or `codex`; skip the test where they are not installed, and fail it in CI.

    Args:
        name: "claude" or "codex".
        shim: whether to return npm's command, which may be a script, and not the program itself.
    """
    folder = os.environ.get(VARIABLE, "")
    package, native = _NATIVE[name]
    modules = Path(folder or "/nowhere") / "node_modules"
    missing = ""
    if not folder:
        missing = f"{VARIABLE} is not set: run `python3 dev.py clis`"
    elif not (modules / package).is_dir():
        missing = f"there is no {package} in {modules}: run `python3 dev.py clis`"
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    version = json.loads((modules / package / "package.json").read_text())["version"]
    assert version == PACKAGES[package], f"{package} is {version} and should be {PACKAGES[package]}: run `python3 dev.py clis`"
    found = [] if shim else sorted(modules.glob(native))
    return str(found[0] if found else modules / ".bin" / name)


def own_home(folder: Path, **more: str) -> dict[str, str]:
    """Return variables that keep a command line inside a folder: nobody's login, settings or sessions, and no network."""
    homes = {name: folder / name.lower() for name in ("HOME", "CLAUDE_CONFIG_DIR", "CODEX_HOME")}
    for home in homes.values():
        home.mkdir(parents=True, exist_ok=True)
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    return {**{name: str(home) for name, home in homes.items()}, **nowhere, **more}


def made_up_login(home: Path) -> None:
    """Log codex in to a subscription that does not exist."""
    claims = {
        "exp": 4_000_000_000,
        "https://api.openai.com/auth": {"chatgpt_plan_type": "plus", "chatgpt_account_id": "nobody"},
    }
    token = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, claims, {}))
    tokens = {"id_token": token, "access_token": token, "refresh_token": "made-up", "account_id": "nobody"}
    auth = {"auth_mode": "chatgpt", "OPENAI_API_KEY": None, "tokens": tokens, "last_refresh": "2096-01-01T00:00:00Z"}
    (home / "auth.json").write_text(json.dumps(auth))


if __name__ == "__main__":  # for the verb that installs them
    print(*(f"{package}@{version}" for package, version in PACKAGES.items()))
