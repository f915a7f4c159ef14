"""What a log is made of in Postgres: tables, the functions that append to it, and the migrations that make them.

All of it lies in one schema, named as the log is, so that many logs live in one database.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from agentfund.buses.postgres_groups import GROUPS
from agentfund.errors import BusError

VERSION = 1
LONGEST = 1_000  # bytes of a name that is part of an index, whose entries have to fit a third of a page

# Row by row the same order as in `COLUMNS`; times are microseconds since 1970 (UTC). The payload is text, because jsonb
# takes neither lone surrogates nor \u0000 and json takes no NaN: all of them may come out of a language model.
_TABLES = """
CREATE TABLE {log}.agent_messages (
    "offset" bigint PRIMARY KEY, id text COLLATE "C" NOT NULL UNIQUE, stream text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL, type text NOT NULL, version bigint NOT NULL, cycle bigint NOT NULL, cause text NOT NULL,
    producer text NOT NULL, time bigint NOT NULL, appended bigint NOT NULL, payload text NOT NULL, token bigint NOT NULL
);
CREATE INDEX agent_messages_of_a_stream ON {log}.agent_messages (stream, "offset");
CREATE FUNCTION {log}.agent_messages_stay() RETURNS trigger LANGUAGE plpgsql AS $agentfund$
BEGIN
    RAISE EXCEPTION 'the log is append-only' USING ERRCODE = 'restrict_violation';
END $agentfund$;
CREATE TRIGGER agent_messages_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON {log}.agent_messages
    FOR EACH STATEMENT EXECUTE FUNCTION {log}.agent_messages_stay();
"""

# Whoever appends holds the log's lock until its commit, so offsets are given in the order in which readers see them, and
# the end of the log is known. A counter's row would do too, but every backup that runs long would keep all its versions.
# The statements after the lock see what the one before us committed: each has its own snapshot.
#
# Who listens holds the bell's lock, shared; where it can be had alone nobody does, and a wake-up would be work for nothing.
#
# A message that is there already may have been appended without sync. The empty record makes this commit wait for it.
_APPEND = """
CREATE FUNCTION {log}.agent_append(
    a_id text, a_stream text, a_key text, a_type text, a_version bigint, a_cycle bigint, a_cause text, a_producer text,
    a_time bigint, a_appended bigint, a_payload text, a_token bigint, a_sync boolean
) RETURNS bigint LANGUAGE plpgsql AS $agentfund$
DECLARE
    place bigint;
    quiet boolean;
BEGIN
    IF NOT a_sync THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    quiet := pg_advisory_xact_lock({log_lock}) IS NULL OR pg_try_advisory_xact_lock({bell_lock});
    SELECT coalesce(max(m."offset"), 0) + 1 INTO place FROM {log}.agent_messages AS m;
    INSERT INTO {log}.agent_messages VALUES (
        place, a_id, a_stream, a_key, a_type, a_version, a_cycle, a_cause, a_producer, a_time, a_appended, a_payload, a_token
    ) ON CONFLICT (id) DO NOTHING;
    IF FOUND THEN
        RETURN CASE WHEN quiet THEN place ELSE -place END;
    END IF;
    IF a_sync THEN
        PERFORM pg_logical_emit_message(true, 'agentfund', '');
    END IF;
    RETURN (SELECT m."offset" FROM {log}.agent_messages AS m WHERE m.id = a_id);
END $agentfund$;

CREATE FUNCTION {log}.agent_append_all(
    a_ids text[], a_streams text[], a_keys text[], a_types text[], a_versions bigint[], a_cycles bigint[], a_causes text[],
    a_producers text[], a_times bigint[], a_appended bigint[], a_payloads text[], a_tokens bigint[], a_sync boolean
) RETURNS bigint[] LANGUAGE plpgsql AS $agentfund$
DECLARE
    places bigint[];
    newest bigint;
    quiet boolean;
BEGIN
    IF NOT a_sync THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    quiet := pg_advisory_xact_lock({log_lock}) IS NULL OR pg_try_advisory_xact_lock({bell_lock});
    SELECT coalesce(max(m."offset"), 0) INTO newest FROM {log}.agent_messages AS m;
    IF NOT EXISTS (SELECT FROM {log}.agent_messages AS m WHERE m.id = ANY (a_ids)) THEN
        INSERT INTO {log}.agent_messages
        SELECT newest + r.n, r.id, r.stream, r.key, r.type, r.version, r.cycle, r.cause, r.producer, r.time, r.appended,
            r.payload, r.token
        FROM unnest(a_ids, a_streams, a_keys, a_types, a_versions, a_cycles, a_causes, a_producers, a_times, a_appended,
            a_payloads, a_tokens) WITH ORDINALITY AS r(id, stream, key, type, version, cycle, cause, producer, time, appended,
            payload, token, n);
        SELECT array_agg(newest + n) INTO places FROM generate_series(1, cardinality(a_ids)) AS n;
    ELSE
        INSERT INTO {log}.agent_messages
        SELECT newest + row_number() OVER (ORDER BY r.n), r.id, r.stream, r.key, r.type, r.version, r.cycle, r.cause,
            r.producer, r.time, r.appended, r.payload, r.token
        FROM unnest(a_ids, a_streams, a_keys, a_types, a_versions, a_cycles, a_causes, a_producers, a_times, a_appended,
            a_payloads, a_tokens) WITH ORDINALITY AS r(id, stream, key, type, version, cycle, cause, producer, time, appended,
            payload, token, n)
        WHERE NOT EXISTS (SELECT FROM {log}.agent_messages AS m WHERE m.id = r.id);
        IF a_sync THEN
            PERFORM pg_logical_emit_message(true, 'agentfund', '');
        END IF;
        SELECT array_agg(m."offset" ORDER BY r.n) INTO places
        FROM unnest(a_ids) WITH ORDINALITY AS r(id, n) JOIN {log}.agent_messages AS m ON m.id = r.id;
    END IF;
    RETURN CASE WHEN quiet THEN 0 ELSE 1 END || places;
END $agentfund$;
"""

# The same, and the wake-up after the commit, in one round trip. Within the transaction it would serialise all commits.
_PUBLISH = """
CREATE PROCEDURE {log}.agent_publish(
    a_id text, a_stream text, a_key text, a_type text, a_version bigint, a_cycle bigint, a_cause text, a_producer text,
    a_time bigint, a_appended bigint, a_payload text, a_token bigint, a_sync boolean, INOUT place bigint
) LANGUAGE plpgsql AS $agentfund$
BEGIN
    place := {log}.agent_append(
        a_id, a_stream, a_key, a_type, a_version, a_cycle, a_cause, a_producer, a_time, a_appended, a_payload, a_token, a_sync
    );
    IF place < 0 THEN
        COMMIT;
        PERFORM pg_notify('{channel}', (-place)::text);
    END IF;
END $agentfund$;

CREATE PROCEDURE {log}.agent_publish_all(
    a_ids text[], a_streams text[], a_keys text[], a_types text[], a_versions bigint[], a_cycles bigint[], a_causes text[],
    a_producers text[], a_times bigint[], a_appended bigint[], a_payloads text[], a_tokens bigint[], a_sync boolean,
    INOUT places bigint[]
) LANGUAGE plpgsql AS $agentfund$
BEGIN
    places := {log}.agent_append_all(
        a_ids, a_streams, a_keys, a_types, a_versions, a_cycles, a_causes, a_producers, a_times, a_appended, a_payloads,
        a_tokens, a_sync
    );
    IF places[1] = 1 THEN
        COMMIT;
        PERFORM pg_notify('{channel}', (SELECT max(place) FROM unnest(places) AS place)::text);
    END IF;
END $agentfund$;
"""

# The short way of a lone publisher: the place after the end of the log as its session last saw it, if it is free still and the
# message is not there; else nothing happens. Another session's word on the end would not do: a server that died may have lost
# its newest messages, and then there would be a gap.
_NEXT = """
INSERT INTO {log}.agent_messages SELECT $13::bigint + 1, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12
WHERE pg_advisory_xact_lock({log_lock}) IS NOT NULL ON CONFLICT DO NOTHING RETURNING pg_try_advisory_xact_lock({bell_lock})
"""

MIGRATIONS = (_TABLES + _APPEND + _PUBLISH + GROUPS,)
"""The script that brings a log from the version of its place in this list to the next."""

_COLUMNS = '"offset", id, stream, key, type, version, cycle, cause, producer, time, appended, payload, token'


@dataclass(frozen=True)
class Names:
    """What a log is called in a database.

    Args:
        name: of the log.

    Raises:
        BusError: it cannot be the name of a schema.
    """

    name: str

    def __post_init__(self) -> None:
        bad = not self.name.isprintable() or set('"$') & set(self.name) or self.name.startswith("pg_")
        if bad or not 0 < len(self.name.encode(errors="replace")) <= 63:
            raise BusError(
                f"{self.name!r} cannot be the name of a log in Postgres: it is a schema there, so choose up to 63 bytes "
                "that can be printed, without quotes and dollars, and not beginning with pg_"
            )

    @property
    def channel(self) -> str:
        """The channel of wake-ups."""
        return f"agentfund_{self.lock('log'):x}".replace("-", "_")

    def lock(self, what: str) -> int:
        """Return the number of an advisory lock of this log: 64 bits, signed."""
        return int.from_bytes(hashlib.blake2b(f"{what} {self.name}".encode(), digest_size=8).digest(), "big", signed=True)

    def sql(self, text: str) -> str:
        """Return a text of SQL with the names in it."""
        groups = self.lock("groups") % 2**31
        for place, name in (("log_lock", self.lock("log")), ("bell_lock", self.lock("bell")), ("groups_lock", groups)):
            text = text.replace(f"{{{place}}}", str(name))
        return text.replace("{channel}", self.channel).replace("{log}", f'"{self.name}"')


class Statements:
    """What is asked of a log, ready to be prepared.

    Args:
        names: what it is called.
    """

    def __init__(self, names: Names) -> None:
        chosen, messages = f"SELECT {_COLUMNS} FROM", "{log}.agent_messages"

        def marks(number: int) -> str:
            return ", ".join(f"${place}" for place in range(1, number + 1))

        self.append_next = names.sql(_NEXT)
        self.append = names.sql(f"SELECT {{log}}.agent_append({marks(13)})")
        self.append_all = names.sql(f"SELECT {{log}}.agent_append_all({marks(13)})")
        self.publish = names.sql(f"CALL {{log}}.agent_publish({marks(13)}, NULL)")
        self.publish_all = names.sql(f"CALL {{log}}.agent_publish_all({marks(13)}, NULL)")
        self.end = names.sql('SELECT coalesce(max("offset"), 0) FROM {log}.agent_messages')
        self.last = names.sql(f'{chosen} {messages} ORDER BY "offset" DESC LIMIT 1')
        self.last_of = names.sql(f'{chosen} {messages} WHERE stream = $1 ORDER BY "offset" DESC LIMIT 1')
        self.join = names.sql("SELECT {log}.agent_join($1, $2)")
        self.take = names.sql("SELECT * FROM {log}.agent_take($1, $2, $3, $4)")
        self.settle = names.sql("SELECT {log}.agent_settle($1, $2, $3, $4, $5, $6, $7)")
        self.release = names.sql("SELECT {log}.agent_release($1, $2, $3)")
        self.dead = names.sql(
            "SELECT m.*, d.reason FROM {log}.agent_dead_letters AS d JOIN {log}.agent_groups AS g ON g.id = d.grp "
            'JOIN {log}.agent_messages AS m ON m."offset" = d."offset" WHERE g.name = $1 ORDER BY m."offset"'
        )
        self.backlog = names.sql(
            'SELECT (SELECT count(*) FROM {log}.agent_messages AS m WHERE m."offset" > coalesce(g.position, 0) AND '
            "($2::text IS NULL OR m.stream = $2)) + (SELECT count(*) FROM {log}.agent_pending AS p WHERE p.grp = g.id) "
            "FROM (SELECT) AS one LEFT JOIN {log}.agent_groups AS g ON g.name = $1 AND g.stream IS NOT DISTINCT FROM $2"
        )
        self._page = names.sql(f'{chosen} {messages} WHERE "offset" > $1 AND "offset" <= $2')

    def page(self, stream: bool, since: bool) -> str:
        """Return the statement of a page: beyond an offset, up to another, so many, of a stream, from a time on."""
        more = (" AND stream = $4" if stream else "") + (f" AND time >= ${5 if stream else 4}" if since else "")
        return f'{self._page}{more} ORDER BY "offset" LIMIT $3'
