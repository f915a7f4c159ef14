"""Questions with a deadline, a heart that beats on, keys that do not print."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from agentfund.core.pulse import Pulse
from agentfund.errors import BrokerUnavailable, ConfigError
from agentfund.secrets import Secret
from agentfund.trading import Book
from agentfund.watchdog import Heart, Machine, make_folder, read_beat
from agentfund.watchdog.keys import Key, load_key, verifier
from agentfund.watchdog.looking import Apart, Look
from tests.watchdog.scenes import START, D, Stub, World, book


async def test_an_answer_that_does_not_come_is_an_error_and_the_old_one_stays() -> None:
    """With the time at which it was asked for."""
    stub, world = Stub(), World()
    look = Look(stub.book, world.machine, 0.05)
    await look.once()
    assert (look.value, look.at, look.error) == (book(), 1_000.0, "")
    world.advance(5)
    token = Secret("sk-very-secret-token")
    stub.fails = f"401 for {token.reveal()}"
    await look.once()
    assert (look.value, look.at) == (book(), 1_000.0)
    assert look.error == "BrokerUnavailable: 401 for ***"
    hangs = Look(lambda: asyncio.sleep(60), world.machine, 0.01)
    await hangs.once()
    assert (hangs.value, hangs.error) == (None, "no answer within 0.01 s")


async def test_an_answer_is_as_old_as_its_question() -> None:
    """What came late tells of the moment at which it was asked for, at best."""
    world = World()

    async def slow() -> Book:
        world.advance(4)
        return book()

    look = Look(slow, world.machine, 1)
    await look.once()
    assert look.at == 1_000.0


class Blocking(Stub):
    """A session that blocks its thread, as an SDK does that knows no asyncio."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()

    async def book(self) -> Book:
        self.free.wait(30)
        return await super().book()


async def test_a_session_that_blocks_its_thread_blocks_nobody_else() -> None:
    """The loop of the checks goes on, and the answer comes when it comes."""
    session = Blocking()
    look = Look(Apart(lambda: session).book, Machine(), 0.05)
    await look.once()
    assert look.error == "no answer within 0.05 s"
    session.free.set()
    await asyncio.sleep(0.05)
    look = Look(Apart(lambda: session).book, Machine(), 5)
    await look.once()
    assert look.value == book()

    def refuses() -> Stub:
        raise BrokerUnavailable("no login")

    failed = Look(Apart(refuses).book, Machine(), 5)
    await failed.once()
    assert failed.error == "BrokerUnavailable: no login"


PULSE = Pulse("fund", "limits", "asking", 1.5, 3, 9, D("100.5"), D("0.25"), START, 2, True)


def test_a_heartbeat_is_read_as_it_was_written(tmp_path: Path) -> None:
    """And torn, or of anything else, it is none."""
    heart = Heart(tmp_path, machine=World().machine)
    heart.beat(PULSE)
    heart.beat(replace(PULSE, heard=None))
    beat = read_beat(tmp_path)
    assert beat is not None
    assert (beat.pulse, beat.count, beat.boot, beat.uptime) == (replace(PULSE, heard=None), 2, "boot-1", 1_000.0)
    heart.beat(PULSE)
    content = heart.folder.beat.read_bytes()
    assert read_beat(tmp_path).pulse == PULSE  # type: ignore[union-attr]
    for at in range(len(content) - 1):
        heart.folder.beat.write_bytes(content[:at])
        assert read_beat(tmp_path) is None
    for wrong in ("[]", "{}", json.dumps({**json.loads(content), "pulse": None}), "[" * 100_000):
        heart.folder.beat.write_text(wrong)
        assert read_beat(tmp_path) is None


async def test_a_heart_beats_on_whatever_happens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder that is gone is told once, and beats go on when it is back; the last one tells how it ended."""
    folder, stage = tmp_path / "w", ["waiting"]
    heart = Heart(folder)
    with caplog.at_level(logging.WARNING, "agentfund"):
        beating = asyncio.ensure_future(heart.keep(lambda: replace(PULSE, stage=stage[0])))
        await asyncio.sleep(0.6)
        folder.mkdir()
        while read_beat(folder) is None:
            await asyncio.sleep(0.01)
        stage[0] = "ended"
        beating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await beating
    assert len(caplog.records) == 1
    assert read_beat(folder).pulse.stage == "ended"  # type: ignore[union-attr]


def test_keys_sign_and_do_not_print(tmp_path: Path) -> None:
    """Neither themselves nor what opens them."""
    key, phrase = Key.new(), Secret("correct horse")
    verify = verifier(key.public)
    assert verify(bytes.fromhex(key.sign(b"x")), b"x")
    assert not verify(bytes.fromhex(key.sign(b"x")), b"y")
    assert not verify(b"", b"x")
    sealed = key.dump(phrase)
    assert load_key(sealed, phrase).public == key.public
    assert load_key(key.dump()).public == key.public
    seed = json.loads(key.dump())["seed"]
    assert seed not in repr(key)
    assert seed.encode() not in sealed
    for content in (b"", b"{}", b"[]", sealed[:50], b'{"kind": "plain", "seed": "00"}'):
        with pytest.raises(ConfigError):
            load_key(content, phrase)
    with pytest.raises(ConfigError, match="no public key"):
        verifier("xyz")
    folder = make_folder(str(tmp_path / "w"), passphrase=None)
    folder.watchdog_pub.write_text(key.public)
    with pytest.raises(ConfigError, match="is not the public half"):
        folder.own_key()
