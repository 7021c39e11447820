-- The ordinary case (state_store/ordinary.py) as one call: many deliveries that give the rules nothing to judge are
-- written by one statement, which is its own transaction. What it finds in its way it does not wait for: then it writes
-- nothing and returns nothing, or fails, and the rules judge each delivery apart. The locks are those of
-- state_store/postgres/together.py. Whoever calls needs the rights on the tables as ever.

-- Whether nobody else is at work on these tasks; nobody will be until the transaction ends.
CREATE FUNCTION ordinary_locks(everything bigint, keys bigint[]) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(everything);
    RETURN NOT EXISTS (SELECT FROM unnest(keys) AS k WHERE NOT pg_try_advisory_xact_lock(k));
END $$;

-- Append events behind the last one, whose position is returned.
CREATE FUNCTION ordinary_events(
    log bigint, event_ids text[], task_ids text[], sequences bigint[], types text[], versions bigint[], sources text[],
    correlation_ids text[], causation_ids text[], times_us bigint[], traceparents text[], tracestates text[],
    tenants text[], trusts text[], prev_hashes text[], hashes text[], contents bytea[], now_us bigint
) RETURNS bigint LANGUAGE plpgsql AS $$
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
    FROM unnest(event_ids, task_ids, sequences, types, versions, sources, correlation_ids, causation_ids, times_us,
                traceparents, tracestates, tenants, trusts, prev_hashes, hashes, contents)
         WITH ORDINALITY AS k (event_id, task_id, sequence, type, version, source, correlation_id, causation_id, time_us,
                               traceparent, tracestate, tenant, trust, prev_hash, hash, value, n);
    RETURN last;
END $$;

-- The first events of tasks, with their views. Null where somebody is at work on one of these tasks.
CREATE FUNCTION ordinary_first(
    everything bigint, log bigint, keys bigint[], fold_version bigint, now_us bigint, head_hashes text[],
    statuses text[], steps text[], owners text[], dues_us bigint[], titles text[], states text[], event_ids text[],
    task_ids text[], sequences bigint[], types text[], versions bigint[], sources text[], correlation_ids text[],
    causation_ids text[], times_us bigint[], traceparents text[], tracestates text[], tenants text[], trusts text[],
    prev_hashes text[], hashes text[], contents bytea[]
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    last bigint;
BEGIN
    IF NOT ordinary_locks(everything, keys) THEN
        RETURN NULL;
    END IF;
    last := ordinary_events(log, event_ids, task_ids, sequences, types, versions, sources, correlation_ids,
                            causation_ids, times_us, traceparents, tracestates, tenants, trusts, prev_hashes,
                            hashes, contents, now_us);
    INSERT INTO tasks (task_id, first_position, correlation_id, sequence, head_hash, fold_version, status, step, owner,
                       due_us, title, updated_at_us, state)
    SELECT k.task_id, last + k.n, k.correlation_id, k.sequence, k.head_hash, ordinary_first.fold_version, k.status,
           k.step, k.owner, k.due_us, k.title, now_us, k.state
    FROM unnest(task_ids, correlation_ids, sequences, head_hashes, statuses, steps, owners, dues_us, titles, states)
         WITH ORDINALITY AS k (task_id, correlation_id, sequence, head_hash, status, step, owner, due_us, title, state,
                               n);
    RETURN last;
END $$;

-- Deliveries of one role that were begun and are done: what they emitted, the views of their tasks, their rows. Of the
-- events each has as many as `emitted` says, one delivery after the other; `ends` names the type of the one that ends
-- the task. Null where something came between: somebody at work, a kill, an act without receipt in a task that ends.
CREATE FUNCTION ordinary_commit(
    everything bigint, log bigint, keys bigint[], fold_version bigint, now_us bigint, said_by text, held_by text,
    core_roles text[], known_kill_seq bigint, cause_ids text[], of_tasks text[], cause_types text[],
    cause_sequences bigint[], bases bigint[], attempts bigint[], emitted bigint[], ends text[],
    head_sequences bigint[], head_hashes text[], statuses text[], steps text[], owners text[], dues_us bigint[],
    titles text[], states text[], event_ids text[], task_ids text[], sequences bigint[], types text[],
    versions bigint[], sources text[], correlation_ids text[], causation_ids text[], times_us bigint[],
    traceparents text[], tracestates text[], tenants text[], trusts text[], prev_hashes text[], hashes text[],
    contents bytea[]
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    last bigint;
BEGIN
    IF NOT ordinary_locks(everything, keys)
       OR (SELECT max(seq) FROM kills) > known_kill_seq
       OR EXISTS (SELECT FROM unnest(of_tasks) AS k (task_id) JOIN leases l ON l.role = said_by AND l.task_id = k.task_id)
       OR EXISTS (SELECT FROM unnest(of_tasks, ends) AS k (task_id, ending)
                  JOIN effects e ON e.task_id = k.task_id AND e.receipt IS NULL WHERE k.ending <> '')
    THEN
        RETURN NULL;
    END IF;
    last := ordinary_events(log, event_ids, task_ids, sequences, types, versions, sources, correlation_ids,
                            causation_ids, times_us, traceparents, tracestates, tenants, trusts, prev_hashes,
                            hashes, contents, now_us);
    UPDATE tasks t SET sequence = k.sequence, head_hash = k.head_hash, fold_version = ordinary_commit.fold_version,
                       status = k.status, step = k.step, owner = k.owner, due_us = k.due_us, title = k.title,
                       updated_at_us = now_us, state = k.state
    FROM unnest(of_tasks, emitted, head_sequences, head_hashes, statuses, steps, owners, dues_us, titles, states)
         AS k (task_id, emitted, sequence, head_hash, status, step, owner, due_us, title, state)
    WHERE t.task_id = k.task_id AND k.emitted > 0 AND t.fold_version <= ordinary_commit.fold_version;
    IF EXISTS (SELECT FROM unnest(ends) AS ending WHERE ending <> '') THEN
        UPDATE deliveries d SET status = 'superseded', due_us = NULL, reason = 'the task ended with ' || k.ending,
                                reason_code = 'ended', updated_at_us = now_us
        FROM unnest(of_tasks, ends) AS k (task_id, ending)
        WHERE k.ending <> '' AND d.task_id = k.task_id AND d.status IN ('started', 'waiting', 'retry', 'parked')
          AND d.role = ANY (core_roles);
        DELETE FROM leases l USING unnest(of_tasks, ends) AS k (task_id, ending)
        WHERE k.ending <> '' AND l.task_id = k.task_id AND l.role = ANY (core_roles);
    END IF;
    INSERT INTO deliveries (role, event_id, task_id, cause_id, event_type, sequence, status, basis, starts, attempt,
                            due_us, reason, reason_code, kill_seq, published, emitted_from, emitted_upto, holder,
                            updated_at_us)
    SELECT said_by, k.event_id, k.task_id, k.event_id, k.type, k.sequence, 'done', k.basis, 0, k.attempt, NULL,
           '', '', known_kill_seq, CASE k.emitted WHEN 0 THEN 1 ELSE 0 END,
           CASE WHEN k.emitted > 0 THEN last + k.upto - k.emitted + 1 END, CASE WHEN k.emitted > 0 THEN last + k.upto END,
           held_by, now_us
    FROM (SELECT *, sum(u.emitted) OVER (ORDER BY u.n) AS upto
          FROM unnest(cause_ids, of_tasks, cause_types, cause_sequences, bases, attempts, emitted)
               WITH ORDINALITY AS u (event_id, task_id, type, sequence, basis, attempt, emitted, n)) AS k;
    RETURN last;
END $$;

-- What these deliveries emitted is on the bus. Not flushed: a mark that is lost with the power is made again by the sweep,
-- which publishes once more what has none.
CREATE FUNCTION ordinary_published(said_by text, event_ids text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE deliveries SET published = 1 WHERE role = said_by AND event_id = ANY (event_ids);
END $$;
