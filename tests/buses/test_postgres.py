"""The log in Postgres: the suite, and what is particular to it."""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from agentfund.buses import PostgresBus
from agentfund.buses.postgres_schema import Names
from agentfund.errors import BusError, BusUnavailable, SchemaTooNew
from agentfund.messages import Message
from agentfund.protocols import Bus
from agentfund.testing.bus import BusContract, consuming, faults, log, message, take
from tests.buses.servers import free_port, service

ADDRESS = service("AGENTFUND_POSTGRES", 5432)
if ADDRESS is None:
    pytest.skip("no Postgres at 127.0.0.1:5432; set AGENTFUND_POSTGRES=host:port", allow_module_level=True)
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["__main__", __name__])
URL = f"postgresql://postgres@{ADDRESS}/test"
if TYPE_CHECKING:
    Sql = asyncpg.Connection[Any]


@pytest_asyncio.fixture
async def sql() -> AsyncIterator[Sql]:
    """Give a connection of our own, past the bus."""
    connection = await asyncpg.connect(URL)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def name(sql: Sql) -> AsyncIterator[str]:
    """Give the name of a log that is gone after the test."""
    chosen = f"t_{uuid4().hex}"
    yield chosen
    await sql.execute(f'DROP SCHEMA IF EXISTS "{chosen}" CASCADE')


@pytest_asyncio.fixture
async def bus(name: str) -> AsyncIterator[PostgresBus]:
    """Give an empty bus."""
    bus = PostgresBus(URL, name=name)
    yield bus
    await bus.close()


class TestPostgresBus(BusContract):
    """The suite, each test in a schema of its own."""

    @pytest.fixture(autouse=True)
    def _in_a_schema(self, name: str) -> None:
        self.name = name

    def make_bus(self, folder: Path) -> Bus:
        return PostgresBus(URL, name=self.name)


def write(done: Connection, name: str, writer: int, number: int) -> None:
    """Publish messages from four tasks, one by one and two by two."""

    async def main() -> None:
        bus = PostgresBus(URL, name=name)

        async def publish(task: int) -> None:
            for i in range(0, number, 2):
                pair = [message(i + j, key=f"k{writer}-{task}") for j in range(2)]
                for batch in [pair] if i % 4 else [pair[:1], pair[1:]]:
                    await bus.publish(batch, sync=i % 3 == 0)

        await asyncio.gather(*map(publish, range(4)))
        await bus.close()
        done.send(True)

    asyncio.run(main())


def started(work: Any, *arguments: object) -> tuple[Any, Connection]:
    """Start `work(pipe, *arguments)` in a process of its own."""
    mine, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=work, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    return process, mine


async def test_sixteen_writers_in_four_processes_race_to_make_the_log_and_a_follower_skips_nothing(name: str) -> None:
    """Offsets count without a gap in the order in which they are seen, and each key is in order."""
    number = 40
    writers = [started(write, name, writer, number) for writer in range(4)]
    reader = PostgresBus(URL, name=name)
    seen: list[Message] = []
    async with asyncio.timeout(30):
        while len(seen) < 4 * 4 * number:
            seen += await log(reader, after=seen[-1].offset if seen else 0)
            await asyncio.sleep(0.001)
    await reader.close()
    for process, pipe in writers:
        assert pipe.recv()
        process.join()
        pipe.close()
    assert [one.offset for one in seen] == list(range(1, len(seen) + 1))
    written = (message(i, key=f"k{writer}-{task}") for writer in range(4) for task in range(4) for i in range(number))
    assert faults(written, seen) == []


async def test_the_same_messages_from_two_sessions_at_once_are_kept_once(name: str) -> None:
    """Both are told the same places."""
    one, two = PostgresBus(URL, name=name), PostgresBus(URL, name=name)
    for number in range(20):
        batch = [message(number), message(number + 1)][: 1 + number % 2]
        places = await asyncio.gather(one.publish(batch), two.publish(batch))
        assert places[0] == places[1]
    assert [each.cycle for each in await log(one)] == list(range(21))
    await one.close()
    await two.close()


async def test_a_lone_publisher_leaves_no_gap_when_another_session_comes_between(bus: PostgresBus, name: str) -> None:
    """It may know where the log ends, and is wrong then; it is told the place of what is there already."""
    other = PostgresBus(URL, name=name)
    for number in range(0, 30, 6):
        for more in range(5):
            assert await bus.publish([message(number + more)]) == number + more + 1
        assert await bus.publish([message(number + 1)]) == number + 2
        assert await other.publish([message(number + 5)]) == number + 6
    assert [(one.offset, one.cycle) for one in await log(bus)] == [(place, place - 1) for place in range(1, 31)]
    await other.close()


async def test_a_batch_that_is_partly_there_is_completed_without_a_gap(bus: PostgresBus) -> None:
    """The known keep their places, the others follow the end."""
    await bus.publish([message(2), message(4)])
    assert await bus.publish([message(1), message(2), message(3), message(4)]) == 2
    assert await bus.publish([message(4), message(5)]) == 5
    assert [(one.offset, one.cycle) for one in await log(bus)] == [(1, 2), (2, 4), (3, 1), (4, 3), (5, 5)]


async def test_a_large_batch_goes_in_parts_and_still_all_or_nothing(bus: PostgresBus, sql: Sql, name: str) -> None:
    """A part that is refused takes the others with it."""
    await bus.publish([message(0)])
    batch = [message(number) for number in range(1, 2_501)]
    await sql.execute(f'ALTER TABLE "{name}".agent_messages ADD CONSTRAINT early CHECK (cycle < 2400)')
    with pytest.raises(BusError, match="early"):
        await bus.publish(batch)
    assert len(await log(bus)) == 1
    await sql.execute(f'ALTER TABLE "{name}".agent_messages DROP CONSTRAINT early')
    assert await bus.publish(batch) == 2_501
    assert [one.cycle for one in await log(bus)] == list(range(2_501))


async def test_what_a_language_model_may_write_comes_back(bus: PostgresBus) -> None:
    """Lone surrogates, zero characters and keys of all kinds, also in reasons."""
    payload = {"text": "\ud800 \x00 \U0001f600 \x7f", "\udfff": ["\x00"], "deep": {"\x00": None}}
    await bus.publish([replace(message(1), payload=payload)])
    assert (await log(bus))[0].payload == payload
    patient = PostgresBus(URL, name=bus._server.names.name, max_attempts=1)
    async with consuming(patient, "g") as deliveries:
        (one,) = await take(deliveries, 1, ack=False)
        await one.nack("why: \ud800\x00")
    assert [reason for _, reason in await patient.dead_letters("g")] == ["why: \\ud800\\0"]
    await patient.close()


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"id": "zero\0"}, id="zero in an id"),
        pytest.param({"cause": "zero\0"}, id="zero in a cause"),
        pytest.param({"stream": "s" * 1_001}, id="long stream"),
        pytest.param({"key": "ü" * 501}, id="long key"),
        pytest.param({"key": "\ud800"}, id="lone surrogate in a key"),
        pytest.param({"cycle": 2**63}, id="number beyond 64 bits"),
        pytest.param({"payload": {"set": {1}}}, id="no JSON"),
    ],
)
async def test_what_postgres_would_refuse_fails_alone(bus: PostgresBus, wrong: dict[str, Any]) -> None:
    """Others that publish at the same moment, and share the append, are not harmed."""
    bad = bus.publish([replace(message(9), **wrong)])
    results = await asyncio.gather(bus.publish([message(1)]), bad, bus.publish([message(2)]), return_exceptions=True)
    assert isinstance(results[1], BusError)
    assert not isinstance(results[1], BusUnavailable)
    assert sorted(one.cycle for one in await log(bus)) == [1, 2]


async def test_names_that_postgres_cannot_have_are_refused(bus: PostgresBus) -> None:
    """Of a stream that is read, a group, and the log itself."""
    with pytest.raises(BusError, match="cannot be a name"):
        await bus.last("\0")
    with pytest.raises(BusError, match="cannot be a name"):
        await bus.dead_letters("\ud800")
    for chosen in ("", 'a"b', "a$b", "ü" * 32, "pg_catalog", "line\n"):
        with pytest.raises(BusError, match="cannot be the name of a log"):
            PostgresBus(URL, name=chosen)
    odd = PostgresBus(URL, name=f"Ünï log-{uuid4().hex}")
    assert await odd.publish([message(1)]) == 1
    await odd.close()
    connection = await asyncpg.connect(URL)
    await connection.execute(f'DROP SCHEMA "{odd._server.names.name}" CASCADE')
    await connection.close()


@pytest.mark.parametrize(
    "command", ["UPDATE {}.agent_messages SET cycle = 7", "DELETE FROM {}.agent_messages", "TRUNCATE {}.agent_messages"]
)
async def test_the_server_refuses_to_change_what_is_in_the_log(bus: PostgresBus, sql: Sql, name: str, command: str) -> None:
    """The log is append-only for everybody."""
    await bus.publish([message(1)])
    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await sql.execute(command.format(f'"{name}"'))


async def test_a_newer_log_is_not_touched(bus: PostgresBus, sql: Sql, name: str) -> None:
    """It says so."""
    await bus.publish([message(1)])
    await sql.execute(f'INSERT INTO "{name}".agent_migrations (version) VALUES (99)')
    older = PostgresBus(URL, name=name)
    with pytest.raises(SchemaTooNew, match="version 99"):
        await older.publish([message(2)])
    await older.close()


async def test_tables_of_another_program_are_not_touched(sql: Sql, name: str) -> None:
    """A schema that has a table of our name and no record of ours is another's."""
    await sql.execute(f'CREATE SCHEMA "{name}"; CREATE TABLE "{name}".agent_messages (mine text)')
    bus = PostgresBus(URL, name=name)
    with pytest.raises(BusError, match="another program"):
        await bus.publish([message(1)])
    await bus.close()
    assert await sql.fetchval(f'SELECT count(*) FROM "{name}".agent_messages') == 0


async def test_a_role_that_may_only_read_reads_and_is_told_what_is_missing(bus: PostgresBus, sql: Sql, name: str) -> None:
    """Without the right to append, and without any right."""
    await bus.publish([message(1)])
    role = f"r_{uuid4().hex}"
    await sql.execute(f"CREATE ROLE {role} LOGIN")
    reader = PostgresBus(URL.replace("postgres@", f"{role}@"), name=name)
    try:
        with pytest.raises(BusError, match=r"permission denied for schema .* grant"):
            await log(reader)
        await sql.execute(f'GRANT USAGE ON SCHEMA "{name}" TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA "{name}" TO {role}')
        assert [one.cycle for one in await log(reader)] == [1]
        with pytest.raises(BusError, match="permission denied for table agent_messages: grant"):
            await reader.publish([message(2)])
    finally:
        await reader.close()
        await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_server_that_only_reads_is_unavailable(bus: PostgresBus, name: str) -> None:
    """As a primary that has become a standby: perhaps another try finds the new one."""
    await bus.publish([message(1)])
    url = f"{URL}?default_transaction_read_only=on"
    standby = PostgresBus(url, name=name, timeout=timedelta(seconds=0.3))
    assert len(await log(standby)) == 1
    with pytest.raises(BusUnavailable, match="name the primary"):
        await standby.publish([message(2)])
    await standby.close()


@pytest.mark.parametrize(
    ("url", "kind", "words"),
    [
        pytest.param("postgresql://u:secret@{}/nowhere", BusError, "does not exist", id="no database"),
        pytest.param("postgresql://u:secret@127.0.0.1:{free}/test", BusUnavailable, "start the server", id="nobody there"),
        pytest.param("postgresql://u:sec/ret@{}/test", BusError, "what has to be quoted", id="password not quoted"),
        pytest.param("postgresql://u:secret@{}/test?sslmode=odd", BusError, "parameters", id="odd parameter"),
    ],
)
async def test_an_address_that_leads_nowhere_is_told_without_its_password(url: str, kind: type[BusError], words: str) -> None:
    """What gets no better by trying is no outage."""
    bus = PostgresBus(url.format(ADDRESS, free=free_port()), timeout=timedelta(seconds=0.3))
    with pytest.raises(BusError, match=words) as error:
        await bus.publish([message(1)])
    assert type(error.value) is kind
    assert "sec" not in str(error.value)
    await bus.close()


def test_an_address_of_another_kind_is_refused() -> None:
    """Before anything is connected."""
    with pytest.raises(BusError, match="postgresql://user"):
        PostgresBus("redis://127.0.0.1")


def test_without_asyncpg_it_says_what_to_install() -> None:
    """And `agentfund.buses` can be imported all the same."""
    script = (
        "import sys; sys.modules['asyncpg'] = None\n"
        "from agentfund.buses import PostgresBus\n"
        "try: PostgresBus('postgresql://127.0.0.1/test')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told == "BusError asyncpg is not installed: pip install 'agentfund[postgres]'\n"


async def test_it_says_what_it_found(bus: PostgresBus) -> None:
    """What was demanded before it connects; the level and the settings afterwards."""
    levels = [bus.durability]
    told = await bus.describe()
    assert [*levels, bus.durability] == ["process", "power"]
    assert ADDRESS is not None
    for word in (ADDRESS, "PostgreSQL", "fsync = on", "synchronous_commit = on", "on the server's disk"):
        assert word in told


async def test_an_unlogged_log_is_refused(bus: PostgresBus, sql: Sql, name: str) -> None:
    """A crash would empty it."""
    await bus.publish([message(1)])
    await sql.execute(f'ALTER TABLE "{name}".agent_messages SET UNLOGGED')
    with pytest.raises(BusError, match="UNLOGGED"):
        await bus.describe()


async def test_a_session_that_is_ended_in_the_middle_is_replaced(bus: PostgresBus, sql: Sql) -> None:
    """While eight tasks publish all sessions are ended again and again: nobody notices, and nothing is doubled."""
    written = [[message(number, key=f"k{writer}") for number in range(30)] for writer in range(8)]

    async def publish(batch: list[Message]) -> None:
        for one in batch:
            await bus.publish([one])

    await bus.publish([])
    publishing = asyncio.gather(*map(publish, written))
    while not publishing.done():
        await sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agentfund' AND query LIKE $1",
            f"%{bus._server.names.name}%",
        )
        await asyncio.sleep(0.1)
    await publishing
    assert faults((one for batch in written for one in batch), await log(bus)) == []


async def test_the_lock_of_another_session_is_not_waited_for_beyond_patience(name: str, sql: Sql) -> None:
    """Nothing is written then, and the bus goes on when the lock is free."""
    bus = PostgresBus(URL, name=name, timeout=timedelta(seconds=0.3))
    await bus.publish([message(1)])
    async with sql.transaction():
        await sql.execute("SELECT pg_advisory_xact_lock($1)", Names(name).lock("log"))
        with pytest.raises(BusUnavailable, match="took too long"):
            await bus.publish([message(2)])
    assert await bus.publish([message(3)]) == 2
    await bus.close()


def test_a_bus_serves_several_loops_one_after_another_and_at_once(name_: str) -> None:
    """Each loop has connections of its own, which end with it: nothing is left open."""
    bus = PostgresBus(URL, name=name_)

    async def publish(first: int) -> None:
        for number in range(first, first + 20):
            await bus.publish([message(number)])

    for first in (0, 20):
        asyncio.run(publish(first))
    threads = [threading.Thread(target=lambda first=first: asyncio.run(publish(first))) for first in (40, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.cycle for one in asyncio.run(log(bus))) == list(range(80))


@pytest.fixture
def name_() -> Iterator[str]:
    """Give the name of a log that is gone after the test, without a loop."""
    chosen = f"t_{uuid4().hex}"
    yield chosen

    async def drop() -> None:
        connection = await asyncpg.connect(URL)
        await connection.execute(f'DROP SCHEMA IF EXISTS "{chosen}" CASCADE')
        await connection.close()

    asyncio.run(drop())


async def test_pages_of_all_sizes_are_read_whole(bus: PostgresBus) -> None:
    """More than a page, messages that are large, a time that leaves few, and a reader that stops early."""
    written = [message(number, stream=f"s{number % 2}") for number in range(2_500)]
    large = [replace(message(5_000 + number), payload={"text": "x" * 1_000_000}) for number in range(10)]
    await bus.publish([*written, *large])
    assert [one.cycle for one in await log(bus)] == [one.cycle for one in (*written, *large)]
    assert [one.cycle for one in await log(bus, "s1")] == list(range(1, 2_500, 2))
    assert [one.cycle for one in await log(bus, "s1", since=message(2_400).time)] == list(range(2_401, 2_500, 2))
    async for one in bus.read():
        if one.cycle == 150:
            break
    assert await bus.publish([message(9_999)]) == 2_511
