-- The ordinary commit looks at its list less often. Each look takes all rows apart, whatever it wants of them; most of what
-- was looked for is never there, and that is seen without the list.

ALTER TYPE ordinary_delivery ADD ATTRIBUTE upto bigint;

DROP FUNCTION ordinary_commit(
    bigint, bigint, bigint[], bigint, bigint, text, text, text[], bigint, ordinary_delivery[], ordinary_event[]
);

-- Deliveries of one role that were begun and are done: what they emitted, the views of their tasks, their rows. The
-- events stand one delivery after the other, `upto` says how many there are to the end of each; `ends` names the type of
-- the one that ends the task, and `ending` whether there is any such. Null where something came between: somebody at
-- work, a kill, an act without receipt in a task that ends.
CREATE FUNCTION ordinary_commit(
    everything bigint, log bigint, keys bigint[], fold_version bigint, now_us bigint, said_by text, held_by text,
    core_roles text[], known_kill_seq bigint, ending boolean, done ordinary_delivery[], added ordinary_event[]
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    last bigint;
BEGIN
    IF NOT ordinary_locks(everything, keys) OR (SELECT max(seq) FROM kills) > known_kill_seq THEN
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM leases WHERE role = said_by)
       AND EXISTS (SELECT FROM unnest(done) AS k JOIN leases l ON l.role = said_by AND l.task_id = k.task_id)
    THEN
        RETURN NULL;
    END IF;
    IF ending
       AND EXISTS (SELECT FROM unnest(done) AS k JOIN effects e ON e.task_id = k.task_id AND e.receipt IS NULL
                   WHERE k.ends <> '')
    THEN
        RETURN NULL;
    END IF;
    UPDATE tasks t SET sequence = k.head_sequence, head_hash = k.head_hash, fold_version = ordinary_commit.fold_version,
                       status = k.status, step = k.step, owner = k.owner, due_us = k.due_us, title = k.title,
                       updated_at_us = now_us, state = k.state
    FROM unnest(done) AS k
    WHERE t.task_id = k.task_id AND k.emitted > 0 AND t.fold_version <= ordinary_commit.fold_version;
    IF ending THEN
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
    FROM unnest(done) AS k;
    RETURN last;
END $$;
