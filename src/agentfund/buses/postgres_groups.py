"""Consumer groups in a log's schema: who holds which message until when, and what was given up on.

Each step is one function, so that a consumer asks once for its next message and once to answer for it. A group's steps
happen one after another, by a lock that ends with each step's transaction. Leases are timed by the server's clock alone:
consumers on several machines need not agree on the time.

No step is synced, by a setting of the sessions that take them: to sync an answer would cost as much as a message. Where the
server dies, the steps of its last moments may be gone. What was answered for then comes again, as it does where a consumer dies
before it answers, and what is in work may go to a second consumer at once: the first one's number is not the holder's any more,
and its answer is refused.
"""

from __future__ import annotations

# Only the first message of a key that waits is a head, and only heads are handed over: so order within a key outlives the
# consumers. To find one takes one look at an index of heads, however many messages wait behind those in work.
_TABLES = """
CREATE TABLE {log}.agent_groups (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text COLLATE "C" NOT NULL, stream text COLLATE "C",
    position bigint NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX agent_groups_of_a_name ON {log}.agent_groups (name, (coalesce(stream, '')), (stream IS NULL));
CREATE TABLE {log}.agent_pending (
    grp integer NOT NULL, key text COLLATE "C" NOT NULL, "offset" bigint NOT NULL, head boolean NOT NULL,
    attempt integer NOT NULL, until timestamptz NOT NULL, holder bigint NOT NULL, PRIMARY KEY (grp, key, "offset")
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX agent_pending_heads ON {log}.agent_pending (grp, "offset") WHERE head;
CREATE TABLE {log}.agent_dead_letters (
    grp integer NOT NULL, "offset" bigint NOT NULL, reason text NOT NULL, PRIMARY KEY (grp, "offset")
);
"""

# A group's number is synced whatever the session's setting: lost, it would be given to another group.
_JOIN = """
CREATE FUNCTION {log}.agent_join(a_name text, a_stream text) RETURNS integer LANGUAGE plpgsql AS $agentfund$
DECLARE
    place integer;
BEGIN
    FOR turn IN 1..2 LOOP
        SELECT g.id INTO place FROM {log}.agent_groups AS g
        WHERE g.name = a_name AND coalesce(g.stream, '') = coalesce(a_stream, '') AND (g.stream IS NULL) = (a_stream IS NULL);
        EXIT WHEN FOUND;
        PERFORM set_config('synchronous_commit', 'on', true);
        INSERT INTO {log}.agent_groups (name, stream) VALUES (a_name, a_stream) ON CONFLICT DO NOTHING;
    END LOOP;
    RETURN place;
END $agentfund$;
"""

# Takes the next message for a consumer until its lease ends: the first free head. Where there is none, the group looks further
# into the log, a page at a time and no further than a window, so that one slow key costs bounded memory. A single new message
# whose key is free is taken at once: that is how messages come to a consumer that waits, and it should not wait for more.
_TAKE = """
CREATE FUNCTION {log}.agent_take(a_grp integer, a_holder bigint, a_lease interval, a_most integer) RETURNS TABLE (
    tries integer, "offset" bigint, id text, stream text, key text, type text, version bigint, cycle bigint, cause text,
    producer text, "time" bigint, appended bigint, payload text, token bigint
) LANGUAGE plpgsql AS $agentfund$
#variable_conflict use_column
DECLARE
    place record;
    upto bigint;
    locked boolean := pg_advisory_xact_lock({groups_lock}, a_grp) IS NOT NULL;
BEGIN
    LOOP
        SELECT g.position, g.stream, (SELECT max(m."offset") FROM {log}.agent_messages AS m) AS newest, (
            SELECT p."offset" FROM {log}.agent_pending AS p
            WHERE p.grp = a_grp AND p.head AND p.until <= clock_timestamp() ORDER BY p."offset" LIMIT 1
        ) AS free INTO place FROM {log}.agent_groups AS g WHERE g.id = a_grp;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'group % is not there any more', a_grp;
        END IF;
        IF place.free IS NOT NULL THEN
            RETURN QUERY UPDATE {log}.agent_pending AS p
            SET attempt = p.attempt + 1, until = clock_timestamp() + a_lease, holder = a_holder
            FROM {log}.agent_messages AS m
            WHERE p.grp = a_grp AND p.head AND p."offset" = place.free AND p.attempt < a_most AND m."offset" = place.free
            RETURNING p.attempt, m.*;
            EXIT WHEN FOUND;
            PERFORM {log}.agent_bury(a_grp, m.key, m."offset", 'no consumer answered for it within its lease')
            FROM {log}.agent_messages AS m WHERE m."offset" = place.free;
            CONTINUE;
        END IF;
        EXIT WHEN place.newest IS NULL OR place.position >= place.newest;
        IF place.position + 1 = place.newest THEN
            RETURN QUERY WITH found AS MATERIALIZED (
                SELECT m.* FROM {log}.agent_messages AS m
                WHERE m."offset" = place.newest AND (place.stream IS NULL OR m.stream = place.stream)
                    AND NOT EXISTS (SELECT FROM {log}.agent_pending AS p WHERE p.grp = a_grp AND p.key = m.key)
            ), taken AS (
                INSERT INTO {log}.agent_pending
                SELECT a_grp, m.key, m."offset", true, 1, clock_timestamp() + a_lease, a_holder FROM found AS m
            ), moved AS (
                UPDATE {log}.agent_groups SET position = place.newest WHERE id = a_grp AND EXISTS (SELECT FROM found)
            )
            SELECT 1, m.* FROM found AS m;
            EXIT WHEN FOUND;
        END IF;
        EXIT WHEN 1024 <= (
            SELECT count(*) FROM (SELECT FROM {log}.agent_pending AS p WHERE p.grp = a_grp LIMIT 1024) AS window_
        );
        upto := least(place.position + 256, place.newest);
        IF place.stream IS NOT NULL THEN
            SELECT CASE WHEN count(*) = 256 THEN max(m."offset") ELSE place.newest END INTO upto FROM (
                SELECT m."offset" FROM {log}.agent_messages AS m
                WHERE m.stream = place.stream AND m."offset" > place.position ORDER BY m."offset" LIMIT 256
            ) AS m;
        END IF;
        INSERT INTO {log}.agent_pending
        SELECT a_grp, m.key, m."offset", row_number() OVER (PARTITION BY m.key ORDER BY m."offset") = 1 AND NOT EXISTS (
            SELECT FROM {log}.agent_pending AS p WHERE p.grp = a_grp AND p.key = m.key
        ), 0, '-infinity', 0
        FROM {log}.agent_messages AS m
        WHERE m."offset" > place.position AND m."offset" <= upto AND (place.stream IS NULL OR m.stream = place.stream);
        UPDATE {log}.agent_groups SET position = upto WHERE id = a_grp;
    END LOOP;
END $agentfund$;
"""

_ANSWER = """
CREATE FUNCTION {log}.agent_finish(a_grp integer, a_key text, a_offset bigint) RETURNS void LANGUAGE plpgsql AS $agentfund$
BEGIN
    DELETE FROM {log}.agent_pending AS p WHERE p.grp = a_grp AND p.key = a_key AND p."offset" = a_offset;
    UPDATE {log}.agent_pending AS p SET head = true WHERE p.grp = a_grp AND p.key = a_key AND p."offset" = (
        SELECT min(q."offset") FROM {log}.agent_pending AS q WHERE q.grp = a_grp AND q.key = a_key
    );
END $agentfund$;

CREATE FUNCTION {log}.agent_bury(a_grp integer, a_key text, a_offset bigint, a_reason text) RETURNS void
LANGUAGE plpgsql AS $agentfund$
BEGIN
    PERFORM {log}.agent_finish(a_grp, a_key, a_offset);
    INSERT INTO {log}.agent_dead_letters VALUES (a_grp, a_offset, a_reason);
END $agentfund$;

CREATE FUNCTION {log}.agent_settle(
    a_grp integer, a_key text, a_offset bigint, a_attempt integer, a_holder bigint, a_reason text, a_last boolean
) RETURNS boolean LANGUAGE plpgsql AS $agentfund$
DECLARE
    locked boolean := pg_advisory_xact_lock({groups_lock}, a_grp) IS NOT NULL;
BEGIN
    IF NOT EXISTS (
        SELECT FROM {log}.agent_pending AS p
        WHERE p.grp = a_grp AND p.key = a_key AND p."offset" = a_offset AND p.attempt = a_attempt AND p.holder = a_holder
    ) THEN
        RETURN false;
    END IF;
    IF a_reason IS NULL THEN
        PERFORM {log}.agent_finish(a_grp, a_key, a_offset);
    ELSIF a_last THEN
        PERFORM {log}.agent_bury(a_grp, a_key, a_offset, a_reason);
    ELSE
        UPDATE {log}.agent_pending AS p SET until = '-infinity' WHERE p.grp = a_grp AND p.key = a_key AND p."offset" = a_offset;
    END IF;
    RETURN true;
END $agentfund$;

CREATE FUNCTION {log}.agent_release(a_grp integer, a_holder bigint, a_kept bigint[]) RETURNS void
LANGUAGE plpgsql AS $agentfund$
DECLARE
    locked boolean := pg_advisory_xact_lock({groups_lock}, a_grp) IS NOT NULL;
BEGIN
    UPDATE {log}.agent_pending AS p SET until = '-infinity'
    WHERE p.grp = a_grp AND p.head AND p.holder = a_holder AND p."offset" <> ALL (a_kept);
END $agentfund$;
"""

GROUPS = _TABLES + _JOIN + _TAKE + _ANSWER
"""The script that makes all this."""
