"""How `codex` is told to be a plain way to a language model: no tools, nothing added to a prompt, no tries of its own."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CHATGPT = "https://chatgpt.com/backend-api/codex"
"""Where a subscription is asked."""

API = "https://api.openai.com/v1"
"""Where an API key is asked."""

_OFF = (
    *("apps", "goals", "hooks", "image_generation", "plugins", "shell_snapshot", "shell_tool", "skill_search", "sleep_tool"),
    *("tool_suggest", "unified_exec", "view_image"),
    "unbounded_connection_retries",  # with it codex waits for ever where there is no network
)
_FIXED: Mapping[str, str | int | bool] = {
    "include_environment_context": False,  # the date, and the folder
    "include_permissions_instructions": False,
    "include_apps_instructions": False,
    "include_collaboration_mode_instructions": False,
    "skills.include_instructions": False,
    "skills.bundled.enabled": False,
    "project_doc_max_bytes": 0,
    "web_search": "disabled",
    "agents.enabled": False,
    "tools.experimental_request_user_input.enabled": False,
    "model_catalog_json": "{folder}/catalog.json",
    "thread_unload_delay_secs": 1,  # of an app-server: each question is a thread that would stay in memory for a minute
    "analytics.enabled": False,
    "check_for_update_on_startup": False,
    # The built-in provider's tries cannot be switched off, so it is described once more.
    "model_provider": "fund",
    "model_providers.fund.name": "fund",
    "model_providers.fund.wire_api": "responses",
    "model_providers.fund.request_max_retries": 0,
    "model_providers.fund.stream_max_retries": 0,
}
_NO_TOOLS: Mapping[str, Any] = {
    "tool_mode": None,
    "shell_type": "disabled",
    "apply_patch_tool_type": None,
    "multi_agent_version": None,
    "supports_search_tool": False,
    "experimental_supported_tools": [],
}
_HARMLESS = {
    *("model", "model_reasoning_effort", "projects", "tui", "notice", "history"),
    *("cli_auth_credentials_store", "forced_login_method", "forced_chatgpt_workspace_id", "analytics", "feedback"),
    *("check_for_update_on_startup", "approval_policy", "sandbox_mode", "file_opener", "hide_agent_reasoning", "windows"),
}
_RULES = ("AGENTS.override.md", "AGENTS.md")


def settings(base_url: str, key_variable: str, timeout_s: float) -> list[str]:
    """Return the arguments that every call needs.

    Args:
        base_url: the server.
        key_variable: the variable that holds the API key, "" for the login.
        timeout_s: seconds without a word after which a stream is given up.
    """
    told: dict[str, str | int | bool] = {
        **_FIXED,
        "model_providers.fund.base_url": base_url,
        "model_providers.fund.stream_idle_timeout_ms": int(timeout_s * 1000),
    }
    if key_variable:
        told["model_providers.fund.env_key"] = key_variable
    else:
        told["model_providers.fund.requires_openai_auth"] = True
    pairs = (f"{name}={json.dumps(value)}" for name, value in told.items())
    switched = (part for feature in _OFF for part in ("--disable", feature))
    return ["--strict-config", *(part for pair in pairs for part in ("-c", pair)), *switched]


def catalog(bundled: str, llms: Iterable[str]) -> str:
    """Return codex's own list of language models without the tools that it gives them.

    Args:
        bundled: what `codex debug models --bundled` prints.
        llms: the language models that will be asked.

    Raises:
        ValueError: it is not such a list.
    """
    told = json.loads(bundled)
    known = told.get("models") if isinstance(told, dict) else None
    if not isinstance(known, list) or not all(isinstance(one, dict) for one in known):
        raise ValueError("no list of language models")
    wanted = set(llms)
    asked = [one for one in known if one.get("slug") in wanted] or known[:1]
    return json.dumps({"models": [{**one, **{name: _NO_TOOLS[name] for name in _NO_TOOLS if name in one}} for one in asked]})


def default_effort(listed: str, llm: str) -> str | None:
    """Return how hard a language model thinks by default, None where it is not in the list."""
    for one in json.loads(listed)["models"]:
        if one.get("slug") == llm and isinstance(one.get("default_reasoning_level"), str):
            return str(one["default_reasoning_level"])
    return None


def rules(home: Path) -> str:
    """Return the file of the user's rules that codex would put into every prompt, "" where there is none."""
    for name in _RULES:
        try:
            if (home / name).read_bytes().strip():
                return str(home / name)
        except OSError:
            continue
    return ""


def risks(home: Path) -> str:
    """Return what in the user's settings could start programs, add tools or change prompts; "" where nothing could.

    `codex exec` can be told to pass them over, `codex app-server` cannot.
    """
    path = home / "config.toml"
    try:
        found = set(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError):
        return f"{path} cannot be read"
    risky = sorted(found - _HARMLESS)
    return f"{path} sets {', '.join(risky)}" if risky else ""
