"""What a Redis server says of itself, and what follows for a log on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentfund.messages import Durability

OLDEST = 7  # scripts that a full server refuses before they begin, and that may declare so


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found at a connection.

    Args:
        server: product and version.
        level: what a message survives once it is published.
        why: what makes it so.
        fix: what would raise the level, empty at the highest.
        trouble: why no log may be kept here, with the fix; empty where one may.
        failing: why nothing can be written now, with the fix; empty where it can.
    """

    server: str
    level: Durability
    why: str
    fix: str = ""
    trouble: str = ""
    failing: str = ""


def judge(info: Mapping[str, str], config: Mapping[str, str]) -> Finding:
    """Return what a log on this server survives.

    Args:
        info: the fields of INFO.
        config: what CONFIG GET tells, empty where it is forbidden.
    """
    server = f"Redis {info.get('redis_version', '')}".strip()
    if "valkey_version" in info:
        server = f"Valkey {info['valkey_version']}"
    level, why, fix = _level(info, config)
    if replicas := int(info.get("connected_slaves") or 0):
        why += f"; {replicas} replica(s) follow later, so a failover may lose the newest messages"
    failing = ""
    if info.get("aof_last_write_status", "ok") != "ok":
        failing = "the last write to its append-only file failed: free some space on its disk, or repair it"
    return Finding(server, level, why, fix, _trouble(info, config), failing)


def _trouble(info: Mapping[str, str], config: Mapping[str, str]) -> str:
    version = info.get("redis_version", f"{OLDEST}")  # where INFO is forbidden, the scripts will show
    if int(version.split(".")[0]) < OLDEST:
        return f"version {version} is too old: use Redis {OLDEST} or newer, or Valkey"
    if info.get("role", "master") != "master":
        primary = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
        return f"it is a replica, and what is written to it is lost: give the address of its primary, {primary}"
    policy = config.get("maxmemory-policy") or info.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys-"):
        return (
            f"its maxmemory-policy is {policy}, which deletes the log when memory is full: "
            "CONFIG SET maxmemory-policy noeviction, or use another server"
        )
    return ""


def _level(info: Mapping[str, str], config: Mapping[str, str]) -> tuple[Durability, str, str]:
    on = config.get("appendonly") or ("yes" if info.get("aof_enabled", "0") == "1" else "no")
    if on != "yes":
        snapshots = config.get("save", "")
        lost = "what came after its last snapshot" if snapshots else "the log"
        unknown = "" if config or info.get("aof_enabled") else ", as far as INFO and CONFIG may be read"
        return (
            "none",
            f"it keeps no append-only file{unknown}: a restart loses {lost}",
            ("CONFIG SET appendonly yes and appendfsync always, and the same in its configuration file"),
        )
    fix = "CONFIG SET appendfsync always, and the same in its configuration file"
    match config.get("appendfsync"):
        case "always" if config.get("no-appendfsync-on-rewrite") == "yes":
            return (
                "process",
                "its append-only file is synced before each answer, but not while it is rewritten (no-appendfsync-on-rewrite)",
                "CONFIG SET no-appendfsync-on-rewrite no, and the same in its configuration file",
            )
        case "always":
            return "power", "its append-only file is synced before each answer (appendfsync always)", ""
        case "everysec":
            return (
                "process",
                "its append-only file is synced once a second (appendfsync everysec): a loss of power may lose the last "
                "second, and a kill of the server what it held back while a slow disk was syncing, up to two seconds",
                fix,
            )
        case "no":
            return "process", "its append-only file is written before each answer, and synced when the system likes", fix
        case _:
            return "process", "it keeps an append-only file; how often it is synced is not known, CONFIG is forbidden here", fix
