-- What changes at each hop changes in place: the new row lies beside the old one, and no index hears of it.

-- A task's turn and time change with each hop, so no index has them; a sweep looks through the tasks that are open. Half of
-- a page is left for what replaces its rows.
DROP INDEX tasks_due;
ALTER TABLE tasks SET (fillfactor = 50);

-- Nor has any index the mark of a delivery that what it emitted is on the bus. A role's sweep looks for those that have
-- none behind the position up to which it knows that all have; no delivery can still come before it, since positions are
-- committed in their order.
DROP INDEX deliveries_unpublished;
CREATE INDEX deliveries_emitted ON deliveries (role, emitted_upto) WHERE emitted_upto IS NOT NULL;
ALTER TABLE deliveries SET (fillfactor = 50);
ALTER TABLE sweep_marks ADD COLUMN published_upto bigint NOT NULL DEFAULT 0;

-- Each row is found by its key, one after the other. A plan for the list as a whole is made while the table is empty, and
-- reads all deliveries of the role each time. A row that somebody changes at this moment is left to the sweep.
CREATE OR REPLACE FUNCTION ordinary_published(said_by text, event_ids text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE deliveries d SET published = 1
    FROM unnest(event_ids) AS k (event_id)
    CROSS JOIN LATERAL (SELECT o.ctid FROM deliveries o WHERE o.role = said_by AND o.event_id = k.event_id OFFSET 0) AS o
    WHERE d.ctid = o.ctid;
END $$;

-- What a call writes comes as rows, which cost either side less than a list for each column.

CREATE TYPE ordinary_event AS (
    event_id text, task_id text, sequence bigint, type text, version bigint, source text, correlation_id text,
    causation_id text, time_us bigint, traceparent text, tracestate text, tenant text, trust text, prev_hash text,
    hash text, value bytea
);
CREATE TYPE ordinary_view AS (
    head_hash text, status text, step text, owner text, due_us bigint, title text, state text
);
-- A delivery and the view of its task; of the events it has as many as `emitted` says, `ends` as below.
CREATE TYPE ordinary_delivery AS (
    event_id text, task_id text, type text, sequence bigint, basis bigint, attempt bigint, emitted bigint, ends text,
    head_sequence bigint, head_hash text, status text, step text, owner text, due_us bigint, title text, state text
);

DROP FUNCTION ordinary_commit(
    bigint, bigint, bigint[], bigint, bigint, text, text, text[], bigint, text[], text[], text[], bigint[], bigint[],
    bigint[], bigint[], text[], bigint[], text[], text[], text[], text[], bigint[], text[], text[], text[], text[],
    bigint[], text[], bigint[], text[], text[], text[], bigint[], text[], text[], text[], text[], text[], text[], bytea[]
);
DROP FUNCTION ordinary_first(
    bigint, bigint, bigint[], bigint, bigint, text[], text[], text[], text[], bigint[], text[], text[], text[], text[],
    bigint[], text[], bigint[], text[], text[], text[], bigint[], text[], text[], text[], text[], text[], text[], bytea[]
);
DROP FUNCTION ordinary_events(
    bigint, text[], text[], bigint[], text[], bigint[], text[], text[], text[], bigint[], text[], text[], text[],
    text[], text[], text[], bytea[], bigint
);

-- Append events behind the last one, whose position is returned. Nobody else appends from here to the flush: so whoever
-- writes anything besides writes it before, where it can.
CREATE FUNCTION ordinary_events(log bigint, added ordinary_event[], now_us bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    last bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(log);
    SELECT coalesce(max(position), 0) INTO last FROM events;
    INSERT INTO events (position, event_id, task_id, sequence, type, version, source, correlation_id, causation_id,
                        time_us, traceparent, tracestate, tenant, trust, recorded_at_us, prev_hash, hash, value)
    SELECT last + k.n, k.event_id, k.task_id, k.sequence, k.type, k.version, k.source, k.correlation_id,
           k.causation_id, k.time_us, k.traceparent, k.tracestate, k.tenant, k.trust, now_us, k.prev_hash, k.hash,
           k.value
    FROM unnest(added) WITH ORDINALITY
         AS k (event_id, task_id, sequence, type, version, source, correlation_id, causation_id, time_us, traceparent,
               tracestate, tenant, trust, prev_hash, hash, value, n);
    RETURN last;
END $$;

-- The first events of tasks, with their views. Null where somebody is at work on one of these tasks.
CREATE FUNCTION ordinary_first(
    everything bigint, log bigint, keys bigint[], fold_version bigint, now_us bigint, added ordinary_event[],
    views ordinary_view[]
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    last bigint;
BEGIN
    IF NOT ordinary_locks(everything, keys) THEN
        RETURN NULL;
    END IF;
    last := ordinary_events(log, added, now_us);
    INSERT INTO tasks (task_id, first_position, correlation_id, sequence, head_hash, fold_version, status, step, owner,
                       due_us, title, updated_at_us, state)
    SELECT k.task_id, last + k.n, k.correlation_id, k.sequence, k.head_hash, ordinary_first.fold_version, k.status,
           k.step, k.owner, k.due_us, k.title, now_us, k.state
    FROM unnest(added, views) WITH ORDINALITY
         AS k (event_id, task_id, sequence, type, version, source, correlation_id, causation_id, time_us, traceparent,
               tracestate, tenant, trust, prev_hash, hash, value, head_hash, status, step, owner, due_us, title, state,
               n);
    RETURN last;
END $$;

-- Deliveries of one role that were begun and are done: what they emitted, the views of their tasks, their rows. The
-- events stand one delivery after the other; `ends` names the type of the one that ends the task. Null where something
-- came between: somebody at work, a kill, an act without receipt in a task that ends.
CREATE FUNCTION ordinary_commit(
    everything bigint, log bigint, keys bigint[], fold_version bigint, now_us bigint, said_by text, held_by text,
    core_roles text[], known_kill_seq bigint, done ordinary_delivery[], added ordinary_event[]
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    last bigint;
BEGIN
    IF NOT ordinary_locks(everything, keys)
       OR (SELECT max(seq) FROM kills) > known_kill_seq
       OR EXISTS (SELECT FROM unnest(done) AS k JOIN leases l ON l.role = said_by AND l.task_id = k.task_id)
       OR EXISTS (SELECT FROM unnest(done) AS k JOIN effects e ON e.task_id = k.task_id AND e.receipt IS NULL
                  WHERE k.ends <> '')
    THEN
        RETURN NULL;
    END IF;
    UPDATE tasks t SET sequence = k.head_sequence, head_hash = k.head_hash, fold_version = ordinary_commit.fold_version,
                       status = k.status, step = k.step, owner = k.owner, due_us = k.due_us, title = k.title,
                       updated_at_us = now_us, state = k.state
    FROM unnest(done) AS k
    WHERE t.task_id = k.task_id AND k.emitted > 0 AND t.fold_version <= ordinary_commit.fold_version;
    IF EXISTS (SELECT FROM unnest(done) AS k WHERE k.ends <> '') THEN
        UPDATE deliveries d SET status = 'superseded', due_us = NULL, reason = 'the task ended with ' || k.ends,
                                reason_code = 'ended', updated_at_us = now_us
        FROM unnest(done) AS k
        WHERE k.ends <> '' AND d.task_id = k.task_id AND d.status IN ('started', 'waiting', 'retry', 'parked')
          AND d.role = ANY (core_roles);
        DELETE FROM leases l USING unnest(done) AS k
        WHERE k.ends <> '' AND l.task_id = k.task_id AND l.role = ANY (core_roles);
    END IF;
    last := ordinary_events(log, added, now_us);
    INSERT INTO deliveries (role, event_id, task_id, cause_id, event_type, sequence, status, basis, starts, attempt,
                            due_us, reason, reason_code, kill_seq, published, emitted_from, emitted_upto, holder,
                            updated_at_us)
    SELECT said_by, k.event_id, k.task_id, k.event_id, k.type, k.sequence, 'done', k.basis, 0, k.attempt, NULL,
           '', '', known_kill_seq, CASE k.emitted WHEN 0 THEN 1 ELSE 0 END,
           CASE WHEN k.emitted > 0 THEN last + k.upto - k.emitted + 1 END, CASE WHEN k.emitted > 0 THEN last + k.upto END,
           held_by, now_us
    FROM (SELECT u.event_id, u.task_id, u.type, u.sequence, u.basis, u.attempt, u.emitted,
                 sum(u.emitted) OVER (ORDER BY u.n) AS upto
          FROM unnest(done) WITH ORDINALITY
               AS u (event_id, task_id, type, sequence, basis, attempt, emitted, ends, head_sequence, head_hash, status,
                     step, owner, due_us, title, state, n)) AS k;
    RETURN last;
END $$;
