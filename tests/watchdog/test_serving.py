"""Which session `agentfund watchdog --broker` means, and what is said where it means none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agentfund.errors import ConfigError
from agentfund.watchdog.serving import serve, session_maker
from agentfund.watchdog.state import make_folder

SESSION = """
import threading
from decimal import Decimal
from agentfund.errors import BrokerUnavailable
from agentfund.secrets import Secret
from agentfund.trading import Account, Book

MADE = []
KEY = Secret("correct-horse-battery-0123456789abcdef")

class Looking:
    pace_s = 3.0

    async def book(self):
        return Book(Account(Decimal(1000), {}))

class Hands(Looking):
    async def cancel(self, order_id): ...
    async def submit(self, order): ...

def make():
    MADE.append(threading.current_thread() is threading.main_thread())
    return Looking()

def hands():
    return Hands()

def needs(key):
    return Looking()

def fails():
    raise RuntimeError(f"no such gateway for {KEY.reveal()}")

def away():
    raise BrokerUnavailable("it is down")

def nothing():
    return None

async def awaited():
    return Looking()

ready = 5
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "desk.py").write_text(SESSION)
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "hungry.py").write_text("import no_such_package")
    make_folder(str(tmp_path / "watch"), passphrase=None, fund="fund", config="")
    return tmp_path


def begin(file: Path, broker: str, hands: str = "") -> str:
    """Begin to watch; end once it would watch, and return what it told."""

    class Told(Exception):
        pass

    def tell(text: str) -> None:
        raise Told(text)

    with pytest.raises(Told) as told:
        serve(
            file / "watch",
            broker=broker,
            bus="",
            caps=(),
            fund="",
            config="",
            period_s=0.2,
            poll_s=0.5,
            ttl_s=2.0,
            hands=hands,
            close=False,
            tell=tell,
        )
    return str(told.value)


def test_a_function_of_a_file_makes_the_session_that_looks(file: Path) -> None:
    """Once, in the thread in which it is asked, before anything is watched."""
    assert "by broker" in begin(file, f"{file}/desk.py:make")
    assert sys.modules["_loaded_desk"].MADE == [False]


def test_a_module_is_named_without_py(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for where the command stands."""
    monkeypatch.syspath_prepend(file)
    assert type(session_maker("desk:make")()).__name__ == "Looking"


def test_a_broker_that_is_away_may_come_later(file: Path) -> None:
    """The watchdog watches, and gives no lease until it sees."""
    assert "by broker" in begin(file, f"{file}/desk.py:away")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.py:make", "there is no file"),
        ("desk.py:nothere", "has no 'nothere'; it has Looking, Hands, make"),
        ("desk.py:ready", "is a int and cannot be called"),
        ("desk.py:needs", r"needs arguments \(missing a required argument: 'key'\)"),
        ("desk.py:fails", r"cannot be run: RuntimeError: no such gateway for \*\*\*"),
        ("desk.py:nothing", r"gives a NoneType, which has no book\(\)"),
        ("desk.py:awaited", "gives a coroutine"),
        ("broken.py:make", "cannot be run: ZeroDivisionError"),
        ("hungry.py:make", "No module named 'no_such_package'"),
    ],
)
def test_what_cannot_look_is_refused_in_words(file: Path, name: str, words: str) -> None:
    """Before it watches: a watchdog that can never see is found out by whoever starts it."""
    with pytest.raises(ConfigError, match=words) as told:
        begin(file, f"{file}/{name}")
    assert "0123456789abcdef" not in str(told.value)


def test_modules_and_entry_points_that_are_none_are_refused() -> None:
    """ccxt and others need arguments, which only a function of one's own can give."""
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: session_maker("no_such_module:make"), "there is no module 'no_such_module'"),
        (lambda: session_maker("nobody"), "a function of your own is named file.py:make"),
        (lambda: session_maker("ccxt"), "needs arguments"),
    ]
    for ask, words in wrong:
        with pytest.raises(ConfigError, match=words):
            ask()


def test_hands_must_be_able_to_act(file: Path) -> None:
    """A session that only looks takes nothing back."""
    with pytest.raises(ConfigError, match="cannot cancel and submit"):
        begin(file, f"{file}/desk.py:make", f"{file}/desk.py:make")
