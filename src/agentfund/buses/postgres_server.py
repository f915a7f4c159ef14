"""The server under a log in Postgres: how it is reached, what it promises, and what its errors mean. Only here is asyncpg."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import asyncpg

from agentfund.buses.postgres_schema import MIGRATIONS, Names, Statements
from agentfund.errors import BusError, BusUnavailable, SchemaTooNew

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentfund.messages import Durability

RETRY_S = 0.05  # how soon to try again what failed because the server was away
LOOKS = 10  # how often a connection is looked after in the time that the server may take to answer

_FACTS = """
SELECT current_setting('server_version') AS version, current_setting('server_encoding') AS encoding,
    current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
    (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit') AS synchronous_commit, pg_is_in_recovery() AS standby,
    current_setting('synchronous_standby_names') <> '' AS mirrored
"""
_MADE = """
SELECT (SELECT relpersistence::text FROM pg_class WHERE oid = to_regclass($1 || '.agent_messages')) AS kept,
    to_regclass($1 || '.agent_migrations') IS NOT NULL AS ours, to_regnamespace($1) IS NOT NULL AS there
"""
_WEAK: tuple[tuple[str, str, Durability, str], ...] = (  # setting, value, level, what happens then
    ("fsync", "off", "process", "nothing is synced to the disk: set fsync = on in postgresql.conf and reload"),
    ("full_page_writes", "off", "process", "a loss of power can tear pages: set full_page_writes = on and reload"),
    (
        "synchronous_commit",
        "off",
        "none",
        "commits are acknowledged before they are written: ALTER DATABASE ... SET synchronous_commit = on, "
        "or add ?synchronous_commit=on to the address",
    ),
)
_LEVELS: tuple[Durability, ...] = ("none", "process", "power")
_REMEDIES = {  # by SQLSTATE or its class; True where it may get better by trying
    "25006": (True, "the server only reads, as a standby does: name the primary, or add ?target_session_attrs=primary"),
    "28": (False, "it refuses the login: check the user, the password and pg_hba.conf"),
    "3D000": (False, "make the database: CREATE DATABASE"),
    "3F000": (False, "the log was removed from the database: restore it, or open the bus anew to begin another"),
    "40": (True, "try again"),
    "42501": (False, "grant the role what it needs on the schema, or let the log's owner make and upgrade it"),
    "42": (False, "the log in the database is not as agentfund made it: restore it, or choose another name"),
    "53100": (True, "the disk is full: free some space, the bus goes on then"),
    "53200": (True, "the server is out of memory"),
    "53300": (True, "the server has no connection left: raise max_connections, or close some"),
    "53": (True, "the server is short of something"),
    "54": (True, "a limit of the server was reached"),
    "55": (True, "another session holds what is needed"),
    "57014": (True, "it took too long: another session holds the log's lock, the server is overloaded, or `timeout` is short"),
    "57": (True, "the server is going down or coming up"),
    "58": (True, "the server's system refused to read or write: check its disk"),
    "08": (True, "the connection broke"),
    "P0": (False, "the log or its group was removed while it was in use: begin to consume anew"),
}
_SETTINGS = {
    "default_transaction_isolation": "read committed",  # the functions rely on a snapshot a statement
    "enable_seqscan": "off",  # there is an index for all that is asked; a plan made for a small table is kept
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}


class Server:
    """One log on one server.

    Args:
        url: `postgresql://user:password@host:port/database`; what may follow it is as in libpq, other parameters are
            settings of the sessions.
        names: what the log is called there.
        timeout_s: how long the server may take to answer.
        demand: what a message must survive.

    Raises:
        BusError: the address is none.
    """

    def __init__(self, url: str, names: Names, *, timeout_s: float, demand: Durability) -> None:
        scheme, _, rest = url.partition("://")
        if scheme not in ("postgres", "postgresql"):
            raise BusError("the address is not one of Postgres: write postgresql://user:password@host:port/database")
        place = rest.partition("?")[0]
        if "@" in rest:  # what stands before it may be a password, also one that should have been quoted
            place = place.rpartition("@")[2] if "@" in place else "..."
        self.home = f"postgresql://{place}, log {names.name!r}"
        self.names = names
        self.timeout_s = timeout_s
        self.statements = Statements(names)
        self.level: Durability | None = None
        self.found = ""
        patience = f"{max(1, int(timeout_s * 900))}ms"  # a little less than ours: what failed here is over there too
        self._settings = {**_SETTINGS, "statement_timeout": patience, "idle_in_transaction_session_timeout": patience}
        if "application_name" not in url:
            self._settings["application_name"] = "agentfund"
        self._url = url
        self._demand = demand

    async def line(self) -> Line:
        """Connect.

        Raises:
            BusError: the server does not let us in.
            BusUnavailable: it cannot be reached now.
        """
        try:
            connection = await asyncpg.connect(self._url, timeout=self.timeout_s, server_settings=self._settings)
        except Exception as error:
            raise self.explain(error) from error
        return Line(self, connection)

    async def check(self, line: Line) -> None:
        """Make what is not there yet, find out what a message survives, and refuse what is not enough.

        Raises:
            BusError: another program's tables are in the way, or the server promises too little; names the setting.
            BusUnavailable: the server cannot be asked now.
            SchemaTooNew: a newer agentfund made the log.
        """
        (facts,) = await line.rows(_FACTS)
        if facts["encoding"] != "UTF8":
            raise BusError(f"{self.home}: the database is encoded in {facts['encoding']}: make one with ENCODING 'UTF8'")
        await self._migrate(line, facts["standby"])
        (made,) = await line.rows(_MADE, f'"{self.names.name}"')
        weak: list[tuple[Durability, str]] = [
            (level, f"{name} = {value}: {why}") for name, value, level, why in _WEAK if facts[name] == value
        ]
        if made["kept"] != "p":
            weak.append(("none", "agent_messages is UNLOGGED: ALTER TABLE ... SET LOGGED"))
        self.level = min((level for level, _ in weak), key=_LEVELS.index, default="power")
        settings = ", ".join(f"{name} = {facts[name]}" for name, *_ in _WEAK)
        kept = "the server's disk" + (" and its standbys as synchronous_standby_names says" if facts["mirrored"] else "")
        told = "; ".join(why for _, why in weak) or f"what was published is on {kept}"
        kind = "standby, " if facts["standby"] else ""
        self.found = f"{self.home}: {kind}PostgreSQL {facts['version']}, {settings}; survives {self.level}: {told}"
        if _LEVELS.index(self.level) < _LEVELS.index(self._demand):
            raise BusError(f"{self.home}: demanded is {self._demand!r}, found is {self.level!r}: {told}; or demand less")

    def explain(self, error: Exception) -> BusError:
        """Return an error of asyncpg as one that names the server and the fix."""
        if isinstance(error, BusError):
            return error
        if isinstance(error, asyncpg.PostgresError):
            state = error.sqlstate or ""
            again, remedy = _REMEDIES.get(state) or _REMEDIES.get(state[:2]) or (state[:2] == "XX", "see the server's log")
            return (BusUnavailable if again else BusError)(f"{self.home}: {error}: {remedy}")
        if isinstance(error, asyncpg.exceptions.DataError):
            return BusError(f"{self.home}: {error}")
        if isinstance(error, ValueError):
            return BusError(
                f"{self.home}: the address cannot be used: check its port, its parameters and what has to be quoted"
            )
        if isinstance(error, TimeoutError):
            return BusUnavailable(f"{self.home}: no answer within {self.timeout_s:g} s: check the server, or raise `timeout`")
        return BusUnavailable(f"{self.home}: {error}: start the server, or check the address and the network")

    async def _migrate(self, line: Line, standby: bool) -> None:
        if await self._version(line) == len(MIGRATIONS) or standby:
            return
        schema = f'"{self.names.name}"'
        await line.script("BEGIN")
        try:
            await line.rows("SELECT pg_advisory_xact_lock($1)", self.names.lock("migrations"))
            version = await self._version(line)
            if version is None:
                (made,) = await line.rows(_MADE, schema)
                if not made["there"]:
                    await line.script(f"CREATE SCHEMA {schema}")
                await line.script(
                    f"CREATE TABLE {schema}.agent_migrations "
                    "(version integer PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now())"
                )
            for number, script in enumerate(MIGRATIONS[version or 0 :], (version or 0) + 1):
                await line.script(self.names.sql(script))
                await line.rows(f"INSERT INTO {schema}.agent_migrations (version) VALUES ($1)", number)  # noqa: S608 - a name
            await line.script("COMMIT")
        except BaseException:
            line.drop()  # and with it the transaction
            raise

    async def _version(self, line: Line) -> int | None:
        schema = f'"{self.names.name}"'
        (made,) = await line.rows(_MADE, schema)
        if not made["ours"]:
            if made["kept"] is not None:
                raise BusError(f"{self.home}: the schema has tables of another program: choose another name")
            return None
        (row,) = await line.rows(f"SELECT coalesce(max(version), 0) AS version FROM {schema}.agent_migrations")  # noqa: S608
        version: int = row["version"]
        if version > len(MIGRATIONS):
            raise SchemaTooNew(f"{self.home} has version {version}, this agentfund reads {len(MIGRATIONS)}: upgrade agentfund")
        return version


class Line:
    """A connection, used by one task at a time. Nothing of asyncpg leaves it but rows.

    It has to be looked after: a timer for each question would cost a twentieth of an append.
    """

    def __init__(self, server: Server, connection: asyncpg.Connection[Any]) -> None:
        self.end = 0  # how long the log is at least, as far as this session has seen
        self.alone = False  # whether nobody else appended between the last two times
        self._server = server
        self._connection = connection
        self._prepared: dict[str, asyncpg.prepared_stmt.PreparedStatement[Any]] = {}
        self._asked = 0
        self._answered = 0
        self._looked = 0
        self._looks = 0
        self._late = False

    @property
    def closed(self) -> bool:
        """Whether it is of no more use."""
        return self._connection.is_closed()

    def saw(self, end: int, number: int) -> None:
        """Remember how far the log went when so many messages were appended here."""
        self.alone = end == self.end + number
        self.end = max(self.end, end)

    def look(self) -> None:
        """Give up what took too long; to be called `LOOKS` times in the length of the server's patience."""
        if self._asked == self._answered or self._asked != self._looked:
            self._looked, self._looks = self._asked, 0
            return
        self._looks += 1
        if self._looks > LOOKS:
            self._late = True
            self.drop()

    async def rows(self, query: str, *values: Any) -> list[asyncpg.Record]:
        """Return what a query gives. Cancelled, the server is asked to give it up, and whoever comes next waits for that.

        Raises:
            BusError: the server refused; nothing was changed.
            BusUnavailable: there was no answer; it was done or it was not.
        """
        self._asked += 1
        try:
            prepared = self._prepared.get(query)
            if prepared is None:
                prepared = self._prepared[query] = await self._connection.prepare(query)
            return await prepared.fetch(*values)
        except Exception as error:
            raise self._explain(error) from error
        finally:
            self._answered = self._asked

    async def script(self, script: str) -> None:
        """Run statements that give nothing; errors as in `rows`."""
        self._asked += 1
        try:
            await self._connection.execute(script)
        except Exception as error:
            raise self._explain(error) from error
        finally:
            self._answered = self._asked

    def _explain(self, error: Exception) -> BusError:
        # An answer of the server leaves the connection as it was, but elsewhere there may be one that writes, or other tables.
        kinds = asyncpg.ReadOnlySQLTransactionError | asyncpg.InvalidCachedStatementError
        if not isinstance(error, asyncpg.PostgresError) or isinstance(error, kinds):
            self.drop()
        return self._server.explain(TimeoutError() if self._late else error)

    async def listen(self, heard: Callable[[str], None], ended: Callable[[], None]) -> None:
        """Be told of wake-ups, and of the end of the connection."""
        names = self._server.names
        self._asked += 1
        try:
            self._connection.add_termination_listener(lambda _: ended())
            await self._connection.add_listener(names.channel, lambda *told: heard(str(told[3])))
        except Exception as error:
            raise self._explain(error) from error
        finally:
            self._answered = self._asked
        await self.rows("SELECT pg_advisory_lock_shared($1)", names.lock("bell"))

    def drop(self) -> None:
        """Cut the connection."""
        with suppress(Exception):  # its loop may be closed
            self._connection.terminate()

    async def close(self) -> None:
        """End the connection in good manners, or cut it."""
        try:
            async with asyncio.timeout(1.0):
                await self._connection.close()
        except Exception:
            self.drop()
