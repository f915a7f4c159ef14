"""The documentation says what is true: its code runs, its tables are the code's, its tests and links exist."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from inspect import CO_COROUTINE
from io import StringIO
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple, is_typeddict

import pytest

import agentfund

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"<!-- table: (?P<of>[\w.]+) -->\n\n(?P<rows>(?:\|.*\n)+)")


class Block(NamedTuple):
    """A fenced block: its language, what it says, and the line on which it begins."""

    language: str
    title: str
    body: str
    line: int


def name_of(page: Path) -> str:
    """Return a page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        language, _, rest = match["info"].strip().partition(" ")
        title = re.search(r'title="([^"]*)"', rest)
        line = text.count("\n", 0, match.start("body")) + 1
        found.append(Block(language, title[1] if title else "", match["body"], line))
    return found


def code_of(block: Block, page: Path) -> CodeType:
    """Compile a block so that errors name the page and the line; `await` may stand outside functions, as in a notebook."""
    tree = ast.parse("\n" * (block.line - 1) + block.body, filename=name_of(page))
    code: CodeType = compile(tree, name_of(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    return code


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=name_of(p)) for p in PAGES if "```python" in p.read_text(encoding="utf-8")]
)
def test_the_python_of_a_page_runs_and_prints_what_it_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks in order, in one namespace and an empty folder; a block titled "output" is what was printed before it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # no command line of a provider is found, and no key
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = StringIO()
    for block in blocks(page):
        if block.language == "python":
            printed = StringIO()
            with redirect_stdout(printed):
                code = code_of(block, page)
                done = eval(code, namespace)
                if code.co_flags & CO_COROUTINE:
                    asyncio.run(done)
        elif block.title == "output":
            assert printed.getvalue().rstrip() == block.body.rstrip(), f"{name_of(page)}, line {block.line}"


SUITES = [page for page in PAGES if any(re.search(r"^class Test", b.body, re.MULTILINE) for b in blocks(page))]


def test_the_suites_of_the_guides_pass(tmp_path: Path) -> None:
    """A page that shows a test class is run by pytest as well, as its reader would."""
    for page in SUITES:
        code = "\n\n".join(block.body for block in blocks(page) if block.language == "python")
        (tmp_path / f"test_{page.stem}_guide.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert len(SUITES) == 4


@pytest.mark.parametrize("page", [pytest.param(p, id=name_of(p)) for p in PAGES])
def test_a_page_uses_known_kinds_of_blocks(page: Path) -> None:
    """Python runs here, so what must not run is text; a shell is a console."""
    for block in blocks(page):
        assert block.language in ("python", "text", "console", "toml", "markdown"), f"{name_of(page)}, line {block.line}"


def tables() -> Iterator[tuple[str, Path, list[list[str]]]]:
    """Give the tables that say of which object of the code they are, with their cells."""
    for page in PAGES:
        for match in TABLE.finditer(page.read_text(encoding="utf-8")):
            rows = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in match["rows"].splitlines()]
            yield match["of"], page, rows[2:]


def found(path: str) -> Any:
    """Return the object that a dotted path names."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            thing = getattr(thing, part)
        return thing
    raise ModuleNotFoundError(path)


def defaults(thing: Any) -> dict[str, str]:
    """Return the names and default values of what can be set, as a table shows them."""
    if isinstance(thing, Mapping):
        return {name: f"{of[0]:g} to {of[1]:g}" if isinstance(of, tuple) else "" for name, of in thing.items()}
    if is_typeddict(thing):
        return dict.fromkeys(thing.__annotations__, "")
    parameters = inspect.signature(thing).parameters.values()
    return {p.name: _shown(p.default) for p in parameters if p.default is not inspect.Parameter.empty}


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float) and abs(value - 2 / 3) < 1e-9:
        return "2/3"
    if isinstance(value, (int, float)):
        return f"{value:g}"
    if isinstance(value, frozenset):
        return "none" if not value else ", ".join(sorted(value))
    return "see below" if str(value) == "<factory>" else str(value)


@pytest.mark.parametrize(("of", "page", "rows"), [pytest.param(*t, id=t[0]) for t in tables()])
def test_a_table_of_settings_is_the_codes(of: str, page: Path, rows: list[list[str]]) -> None:
    """Every name, in the order of the code, with its default; nothing else."""
    shown = {row[0].strip("`"): row[1] for row in rows}
    expected = defaults(found(of))
    assert list(shown.items()) == list(expected.items()), f"{name_of(page)}: the table of {of} is out of date"


TESTS = {
    (path.relative_to(ROOT).as_posix(), name)
    for folder in (ROOT / "tests", ROOT / "src/agentfund/testing")
    for path in folder.rglob("*.py")
    for name in re.findall(r"^\s*(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
}


@pytest.mark.parametrize("page", [pytest.param(p, id=name_of(p)) for p in PAGES])
def test_what_a_page_names_exists(page: Path) -> None:
    """Tests, modules, names and files that are named in code letters are there."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for file, test in re.findall(r"`([\w/]+\.py)::(test_\w+)`", text):
        assert (file, test) in TESTS, f"{name_of(page)} names {file}::{test}"
    for test in re.findall(r"`(test_\w+)`", text):
        assert test in {name for _, name in TESTS}, f"{name_of(page)} names {test}"
    for dotted in re.findall(r"`(agentfund(?:\.\w+)+)`", text):
        assert found(dotted) is not None
    for file in re.findall(r"`((?:src|tests|docs|examples)/[\w/.-]+\.\w+)`", text):
        assert (ROOT / file).exists(), f"{name_of(page)} names {file}"


def test_the_architecture_is_that_of_the_code() -> None:
    """The layers are those that CI keeps, and the layout has every file of the core."""
    page = ROOT / "docs/architecture.md"
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    (shown,) = [block.body.splitlines() for block in blocks(page) if block.title == "layers"]
    assert shown == contracts[0]["layers"]
    layout = blocks(page)[0].body.partition("  core/")[2].partition("\n  --")[0].split()
    assert sorted(layout) == sorted(path.stem for path in (ROOT / "src/agentfund/core").glob("[!_]*.py"))


def test_contributors_are_told_every_verb() -> None:
    """The verbs of dev.py, in its order."""
    verbs = re.search(r"verb for verb in \(([\w, ]+)\)\s*\}", (ROOT / "dev.py").read_text(encoding="utf-8"))
    assert verbs is not None
    told = re.findall(r"^\| `python3 dev\.py (\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert told == verbs[1].split(", ")


def test_the_reference_has_every_name_of_the_face() -> None:
    """And no other, each with a link to its description."""
    text = (ROOT / "docs/reference/face.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[`(\w+)`\]\[agentfund\.[\w.]+\] \|", text, re.MULTILINE)
    assert listed == [name for name in agentfund.__all__ if name != "__version__"]


def test_the_reference_has_every_command_and_every_option() -> None:
    """The command line is described as it is."""
    from typer.main import get_command

    from agentfund.cli import app

    text = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    assert re.findall(r"^## agentfund (\w+)$", text, re.MULTILINE) == list(commands)
    for name, command in commands.items():
        section = text.partition(f"\n## agentfund {name}\n")[2].partition("\n## ")[0]
        options = {option for p in command.params for option in p.opts if option.startswith("--") and option != "--help"}
        assert set(re.findall(r"^\| `(--[\w-]+)", section, re.MULTILINE)) == options, name


def test_the_documentation_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """No broken link or reference, and no page asks another server for a script, a style, a font or an image."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    loads = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//|<link\b(?![^>]*\brel=\"?canonical)[^>]*href=\"?(?:https?:)?//"
    )
    for html in tmp_path.rglob("*.html"):
        assert not loads.search(html.read_text(encoding="utf-8")), html.name
