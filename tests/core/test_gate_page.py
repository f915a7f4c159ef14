"""The page of the gate holds the tables that its code gives; `python -m tests.core.test_gate_page` writes them there."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

from agentfund.core.gate import CHECKS, OFF, Limits

PAGE = Path(__file__).parents[2] / "docs/reference/gate.md"
TABLE = r"(<!-- {name} -->\n\n)(?:\|.*\n)+"


def shown(value: object) -> str:
    """Return a default as the tables show it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, frozenset):
        return "none"
    assert isinstance(value, (int, float))
    return "off" if value >= OFF else f"{value:g}"


def checks() -> str:
    """Return the table of the checks, in their order."""
    defaults = {one.name: shown(one.default) for one in fields(Limits)}
    rows = ["| code | denies where | limits and defaults | exits |", "|---|---|---|---|"]
    for one in CHECKS:
        limits = ", ".join(f"`{name}` {defaults[name]}" for name in one.limits)
        rows.append(f"| `{one.code}` | {one.what} | {limits} | {one.exits} |")
    rows.append("| `gate_error` | something is of the wrong kind, so that nobody could judge |  | checked |")
    return "\n".join(rows) + "\n"


def limits() -> str:
    """Return the table of the limits, with the words of the class."""
    told = re.findall(r"^    (\w+): (.+)$", (inspect.getdoc(Limits) or "").partition("Args:")[2], re.MULTILINE)
    words = {name: text.rstrip(".") for name, text in told}
    rows = ["| name | default | meaning |", "|---|---|---|"]
    rows += [f"| `{one.name}` | {shown(one.default)} | {words[one.name]} |" for one in fields(Limits)]
    return "\n".join(rows) + "\n"


def written() -> str:
    """Return the page with the tables of the code."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in (("checks of the gate", checks()), ("limits of the gate", limits())):
        found = re.search(TABLE.format(name=name), text)
        assert found is not None, f"{PAGE.name} has no table of the {name}"
        text = text[: found.end(1)] + table + text[found.end() :]
    return text


def test_the_page_has_the_tables_of_the_code() -> None:
    """Every check in its order, every limit with its default."""
    assert PAGE.read_text(encoding="utf-8") == written(), "run python -m tests.core.test_gate_page"


def test_every_limit_is_looked_at_by_a_check() -> None:
    """A limit that no check names does nothing."""
    assert {name for one in CHECKS for name in one.limits} == {one.name for one in fields(Limits)}


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
