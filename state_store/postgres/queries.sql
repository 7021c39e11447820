-- Every statement of the store, by name, as ../queries.sql has them for SQLite.
--
-- `(gathered)` marks those that are asked for many deliveries at once: each parameter is an array with an element for
-- each who asks. A gathered query answers with the number of who asked (k.n) in front; a gathered insert with one number
-- for each, in their order; a gathered change with the numbers of those it changed something for, or with nothing.

-- ---------------------------------------------------------------------------------------------------- locks

-- name: lock_tasks
-- Nobody else changes these tasks, nor all tasks at once, until the transaction ends; then the time by the server's clock.
SELECT count(pg_advisory_xact_lock(k)), pg_advisory_xact_lock_shared(?::bigint),
       (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
FROM unnest(?::bigint[]) AS k

-- name: lock_all
-- Nobody else changes any task until the transaction ends; then the time.
SELECT pg_advisory_xact_lock(?::bigint), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint

-- name: lock_log
-- Nobody else appends until the transaction ends: positions are committed in their order, and readers miss none.
SELECT pg_advisory_xact_lock(?::bigint)

-- name: server_time
-- The server's clock.
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint

-- ---------------------------------------------------------------------------------------------------- ordinary

-- name: ready
-- Of these events, those that a role can handle without a question, as ../ordinary.sql has it. Each is looked up by
-- itself (that is what OFFSET 0 says): a plan for all is made while the tables are empty, and reads too much later.
SELECT e.event_id, e.sequence, e.type, t.task_id, t.sequence, t.head_hash, t.state,
       (SELECT coalesce(max(seq), 0) FROM kills)
FROM unnest(:events::text[]) AS k (event_id)
JOIN events e ON e.event_id = k.event_id
JOIN tasks t ON t.task_id = e.task_id AND t.fold_version = :fold_version::bigint
WHERE t.sequence = (SELECT max(sequence) FROM events WHERE task_id = t.task_id)
  AND NOT EXISTS (SELECT FROM deliveries d WHERE d.role = :role::text AND d.event_id = e.event_id OFFSET 0)
  AND NOT EXISTS (SELECT FROM deliveries d WHERE d.role = :role::text AND d.task_id = t.task_id
                  AND d.status IN ('started', 'waiting', 'retry', 'parked') OFFSET 0)
  AND NOT EXISTS (SELECT FROM leases l WHERE l.role = :role::text AND l.task_id = t.task_id OFFSET 0)
  AND NOT EXISTS (SELECT FROM kills WHERE lifted_by IS NULL)

-- name: ordinary_first
-- The first events of many tasks, written together: the position before them, or null; then the time.
SELECT ordinary_first(?, ?, ?, ?, ?, ?, ?), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint

-- name: ordinary_commit
-- Many deliveries that are done, written together: the position before their events, or null; then the time.
SELECT ordinary_commit(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint

-- name: ordinary_published
-- What these deliveries emitted is on the bus.
SELECT ordinary_published(?, ?)

-- ---------------------------------------------------------------------------------------------------- streams

-- name: event_insert (gathered)
-- Append one event; the triggers refuse a gap.
INSERT INTO events (position, event_id, task_id, sequence, type, version, source, correlation_id, causation_id, time_us,
                    traceparent, tracestate, tenant, trust, recorded_at_us, prev_hash, hash, value)
SELECT l.last + k.n, k.event_id, k.task_id, k.sequence, k.type, k.version, k.source, k.correlation_id, k.causation_id,
       k.time_us, k.traceparent, k.tracestate, k.tenant, k.trust, k.recorded_at_us, k.prev_hash, k.hash, k.value
FROM (SELECT coalesce(max(position), 0) AS last FROM events) l,
     unnest(?::text[], ?::text[], ?::bigint[], ?::text[], ?::bigint[], ?::text[], ?::text[], ?::text[], ?::bigint[],
            ?::text[], ?::text[], ?::text[], ?::text[], ?::bigint[], ?::text[], ?::text[], ?::bytea[])
     WITH ORDINALITY AS k (event_id, task_id, sequence, type, version, source, correlation_id, causation_id, time_us,
                           traceparent, tracestate, tenant, trust, recorded_at_us, prev_hash, hash, value, n)
ORDER BY k.n
ON CONFLICT DO NOTHING
RETURNING position

-- name: stream_upto
-- The events of a task in order, up to a sequence.
SELECT event_id, type, version, task_id, correlation_id, causation_id, time_us, source, traceparent, tracestate,
       tenant, trust, value, sequence, position, recorded_at_us, prev_hash, hash
FROM events WHERE task_id = ? AND sequence <= ? ORDER BY sequence

-- name: event_by_id (gathered)
-- One event.
SELECT k.n, e.event_id, e.type, e.version, e.task_id, e.correlation_id, e.causation_id, e.time_us, e.source,
       e.traceparent, e.tracestate, e.tenant, e.trust, e.value, e.sequence, e.position, e.recorded_at_us, e.prev_hash,
       e.hash
FROM unnest(?::text[]) WITH ORDINALITY AS k (event_id, n) JOIN events e ON e.event_id = k.event_id

-- name: event_by_sequence
-- One event by its place in its task.
SELECT event_id, type, version, task_id, correlation_id, causation_id, time_us, source, traceparent, tracestate,
       tenant, trust, value, sequence, position, recorded_at_us, prev_hash, hash
FROM events WHERE task_id = ? AND sequence = ?

-- name: events_between
-- What one commit emitted: between its first and its last position a task has nothing else.
SELECT event_id, type, version, task_id, correlation_id, causation_id, time_us, source, traceparent, tracestate,
       tenant, trust, value, sequence, position, recorded_at_us, prev_hash, hash
FROM events WHERE position BETWEEN ? AND ? AND task_id = ? ORDER BY position

-- name: tail
-- Events of all tasks after a position.
SELECT event_id, type, version, task_id, correlation_id, causation_id, time_us, source, traceparent, tracestate,
       tenant, trust, value, sequence, position, recorded_at_us, prev_hash, hash
FROM events WHERE position > ? ORDER BY position LIMIT ?

-- name: envelopes
-- The same without what only payloads and proofs need.
SELECT position, event_id, type, version, task_id, correlation_id, causation_id, time_us, source, traceparent,
       tracestate, tenant, trust
FROM events WHERE position > ? ORDER BY position LIMIT ?

-- name: head (gathered)
-- The end of a stream, and the view if it is there.
SELECT k.n, h.sequence, h.hash, t.sequence, t.fold_version, t.state
FROM unnest(?::text[]) WITH ORDINALITY AS k (task_id, n)
CROSS JOIN LATERAL (SELECT sequence, hash FROM events WHERE task_id = k.task_id ORDER BY sequence DESC LIMIT 1) h
LEFT JOIN tasks t ON t.task_id = k.task_id

-- name: moved_since
-- What was recorded in a stream after a sequence: to say what overtook a decision.
SELECT type, event_id, source FROM events WHERE task_id = ? AND sequence > ? ORDER BY sequence

-- ---------------------------------------------------------------------------------------------------- views

-- name: view_update (gathered)
-- Move the view of a task to its head; a lower fold version never overwrites a higher one.
UPDATE tasks t SET sequence = k.sequence, head_hash = k.head_hash, fold_version = k.fold_version, status = k.status,
                   step = k.step, owner = k.owner, due_us = k.due_us, title = k.title,
                   updated_at_us = k.updated_at_us, state = k.state
FROM unnest(:task_id::text[], :sequence::bigint[], :head_hash::text[], :fold_version::bigint[], :status::text[],
            :step::text[], :owner::text[], :due_us::bigint[], :title::text[], :updated_at_us::bigint[],
            :state::text[])
     WITH ORDINALITY AS k (task_id, sequence, head_hash, fold_version, status, step, owner, due_us, title,
                           updated_at_us, state, n)
WHERE t.task_id = k.task_id AND t.fold_version <= k.fold_version
RETURNING k.n

-- name: view_insert (gathered)
-- The first view of a task; what names its beginning is read from its first event.
INSERT INTO tasks (task_id, first_position, correlation_id, sequence, head_hash, fold_version, status, step, owner,
                   due_us, title, updated_at_us, state)
SELECT k.task_id, e.position, e.correlation_id, k.sequence, k.head_hash, k.fold_version, k.status, k.step, k.owner,
       k.due_us, k.title, k.updated_at_us, k.state
FROM unnest(:task_id::text[], :sequence::bigint[], :head_hash::text[], :fold_version::bigint[], :status::text[],
            :step::text[], :owner::text[], :due_us::bigint[], :title::text[], :updated_at_us::bigint[],
            :state::text[])
     AS k (task_id, sequence, head_hash, fold_version, status, step, owner, due_us, title, updated_at_us, state)
JOIN events e ON e.task_id = k.task_id AND e.sequence = 1
ON CONFLICT (task_id) DO NOTHING

-- name: view_put (gathered)
-- A view as it was folded anew. What is the same already is left as it is: nothing is written for it. A lower fold version
-- never overwrites a higher one.
INSERT INTO tasks AS t (task_id, first_position, correlation_id, sequence, head_hash, fold_version, status, step, owner,
                        due_us, title, updated_at_us, state)
SELECT * FROM unnest(:task_id::text[], :first_position::bigint[], :correlation_id::text[], :sequence::bigint[],
                     :head_hash::text[], :fold_version::bigint[], :status::text[], :step::text[], :owner::text[],
                     :due_us::bigint[], :title::text[], :updated_at_us::bigint[], :state::text[])
ON CONFLICT (task_id) DO UPDATE SET
    first_position = excluded.first_position, correlation_id = excluded.correlation_id, sequence = excluded.sequence,
    head_hash = excluded.head_hash, fold_version = excluded.fold_version, status = excluded.status,
    step = excluded.step, owner = excluded.owner, due_us = excluded.due_us, title = excluded.title,
    updated_at_us = excluded.updated_at_us, state = excluded.state
WHERE t.fold_version <= excluded.fold_version
  AND (t.first_position, t.correlation_id, t.sequence, t.head_hash, t.fold_version, t.status, t.step, t.owner, t.due_us,
       t.title, t.updated_at_us, t.state)
      IS DISTINCT FROM (excluded.first_position, excluded.correlation_id, excluded.sequence, excluded.head_hash,
                        excluded.fold_version, excluded.status, excluded.step, excluded.owner, excluded.due_us,
                        excluded.title, excluded.updated_at_us, excluded.state)

-- name: views_drop
-- Views of a range of ids that none of its tasks has, but for those of a newer build.
DELETE FROM tasks WHERE fold_version <= ? AND task_id > ? AND task_id <= ?
  AND task_id NOT IN (SELECT jsonb_array_elements_text(?::text::jsonb))

-- name: views_drop_after
-- The same behind the last page.
DELETE FROM tasks WHERE fold_version <= ? AND task_id > ?
  AND task_id NOT IN (SELECT jsonb_array_elements_text(?::text::jsonb))

-- name: told_after
-- What views follow from, a page at a time, each stream in order: payloads of some types alone.
SELECT task_id, sequence, type, version, event_id, time_us, source, correlation_id, position, recorded_at_us, hash,
       CASE WHEN type IN (SELECT jsonb_array_elements_text(?::text::jsonb)) THEN value END
FROM events WHERE task_id > ? ORDER BY task_id, sequence LIMIT ?

-- name: told_of
-- The same of one stream.
SELECT task_id, sequence, type, version, event_id, time_us, source, correlation_id, position, recorded_at_us, hash,
       CASE WHEN type IN (SELECT jsonb_array_elements_text(?::text::jsonb)) THEN value END
FROM events WHERE task_id = ? ORDER BY sequence

-- name: task_rows
-- Tasks for people, newest first, with their unfinished deliveries counted.
SELECT t.task_id, t.sequence, t.fold_version, t.state, t.correlation_id, t.updated_at_us,
       (SELECT count(*) FROM deliveries d WHERE d.task_id = t.task_id AND d.status = 'retry') AS retrying,
       (SELECT count(*) FROM deliveries d WHERE d.task_id = t.task_id AND d.status = 'parked') AS parked
FROM tasks t
WHERE (:task_id::text IS NULL OR t.task_id = :task_id::text)
  AND (:statuses::text IS NULL OR t.status IN (SELECT jsonb_array_elements_text(:statuses::text::jsonb)))
  AND (:text::text = '' OR strpos(lower(t.title), lower(:text::text)) > 0)
  AND (NOT :retrying::boolean OR EXISTS (SELECT 1 FROM deliveries d WHERE d.task_id = t.task_id AND d.status = 'retry'))
ORDER BY t.first_position DESC LIMIT :limit

-- name: task_ids_like
-- Tasks whose id has this part.
SELECT task_id FROM tasks WHERE strpos(task_id, ?) > 0 ORDER BY first_position DESC LIMIT ?

-- ---------------------------------------------------------------------------------------------------- inbox

-- name: context (gathered)
-- All that claim, start and commit judge on, in one look: the delivery's row, the lease of its role and task, the
-- consumed event, the head with its view, whether anything else is open, and the newest kills.
SELECT k.n, d.status, d.basis, d.starts, d.attempt, d.due_us, d.published, d.emitted_from, d.emitted_upto, d.reason,
       d.reason_code,
       l.token, l.event_id, l.holder, l.expires_us,
       c.sequence, c.type,
       h.sequence, h.hash, t.sequence, t.fold_version, t.state,
       EXISTS (SELECT 1 FROM deliveries o WHERE o.role = k.role AND o.task_id = k.task_id AND o.event_id <> k.event_id
               AND o.status IN ('started', 'waiting', 'retry', 'parked')),
       (SELECT coalesce(max(seq), 0) FROM kills),
       (SELECT max(seq) FROM kills WHERE lifted_by IS NULL
        AND (scope = 'all' OR (scope = 'role' AND target = k.role) OR (scope = 'task' AND target = k.task_id)))
FROM unnest(:role::text[], :event_id::text[], :cause_id::text[], :task_id::text[])
     WITH ORDINALITY AS k (role, event_id, cause_id, task_id, n)
LEFT JOIN deliveries d ON d.role = k.role AND d.event_id = k.event_id
LEFT JOIN leases l ON l.role = k.role AND l.task_id = k.task_id
LEFT JOIN events c ON c.event_id = k.cause_id
LEFT JOIN LATERAL (SELECT sequence, hash FROM events WHERE task_id = k.task_id ORDER BY sequence DESC LIMIT 1) h ON true
LEFT JOIN tasks t ON t.task_id = k.task_id

-- name: earlier_open
-- The first unfinished delivery of this role and task before a sequence, in whose turn all others wait.
SELECT event_id, status FROM deliveries
WHERE role = :role AND task_id = :task_id AND sequence < :sequence AND event_id <> :event_id
  AND status IN ('started', 'waiting', 'retry', 'parked')
ORDER BY sequence LIMIT 1

-- name: earlier_begun
-- The same for those who pass what is parked, retried or queued behind that: operators' words and deadlines wait for
-- work that has begun, and for each other.
SELECT event_id, status FROM deliveries
WHERE role = :role AND task_id = :task_id AND sequence < :sequence AND event_id <> :event_id
  AND status IN ('started', 'waiting', 'retry', 'parked')
  AND (status = 'started' OR (status = 'waiting' AND (event_type IN (SELECT jsonb_array_elements_text(:control::jsonb)))))
ORDER BY sequence LIMIT 1

-- name: delivery_put (gathered)
-- Write the row of a delivery.
INSERT INTO deliveries (role, event_id, task_id, cause_id, event_type, sequence, status, basis, starts, attempt, due_us,
                        reason, reason_code, kill_seq, published, emitted_from, emitted_upto, holder, updated_at_us)
SELECT * FROM unnest(?::text[], ?::text[], ?::text[], ?::text[], ?::text[], ?::bigint[], ?::text[], ?::bigint[],
                     ?::bigint[], ?::bigint[], ?::bigint[], ?::text[], ?::text[], ?::bigint[], ?::bigint[],
                     ?::bigint[], ?::bigint[], ?::text[], ?::bigint[])
ON CONFLICT (role, event_id) DO UPDATE SET
    event_type = excluded.event_type, sequence = excluded.sequence, status = excluded.status, basis = excluded.basis,
    starts = excluded.starts, attempt = excluded.attempt, due_us = excluded.due_us, reason = excluded.reason,
    reason_code = excluded.reason_code, kill_seq = excluded.kill_seq, published = excluded.published,
    emitted_from = excluded.emitted_from, emitted_upto = excluded.emitted_upto, holder = excluded.holder,
    updated_at_us = excluded.updated_at_us

-- name: delivery_published (gathered)
-- What this delivery emitted is on the bus.
UPDATE deliveries d SET published = 1
FROM unnest(?::text[], ?::text[]) AS k (role, event_id)
WHERE d.role = k.role AND d.event_id = k.event_id

-- name: delivery_reopen
-- Make one dead or parked delivery due now, on the task as it stands, with its journal and fresh attempts.
UPDATE deliveries SET status = 'retry', due_us = :now_us, attempt = 0, starts = 0, updated_at_us = :now_us,
    basis = coalesce((SELECT max(sequence) FROM events WHERE task_id = deliveries.task_id), basis)
WHERE role = :role AND event_id = :event_id AND status IN ('dead', 'parked')

-- name: delivery_forgive
-- Take back one start.
UPDATE deliveries SET starts = greatest(0, starts - 1), updated_at_us = ?
WHERE role = ? AND event_id = ? AND status = 'started'

-- name: delivery_progressed
-- A new outcome in the journal: the starts so far were not in vain.
UPDATE deliveries SET starts = 0 WHERE role = ? AND event_id = ? AND starts > 0

-- name: inbox_rows
-- Deliveries for people, newest first.
SELECT role, event_id, event_type, task_id, status, attempt, starts, due_us, reason, reason_code, published, holder,
       updated_at_us
FROM deliveries
WHERE (:statuses::text IS NULL OR status IN (SELECT jsonb_array_elements_text(:statuses::text::jsonb)))
ORDER BY updated_at_us DESC, event_id DESC, role LIMIT :limit

-- name: inbox_rows_of_task
-- The same for one task.
SELECT role, event_id, event_type, task_id, status, attempt, starts, due_us, reason, reason_code, published, holder,
       updated_at_us
FROM deliveries
WHERE task_id = :task_id AND (:statuses::text IS NULL OR status IN (SELECT jsonb_array_elements_text(:statuses::text::jsonb)))
ORDER BY updated_at_us DESC, event_id DESC, role LIMIT :limit

-- ---------------------------------------------------------------------------------------------------- consequences

-- name: resume_parked
-- TaskResumed reopens what the task parked, on the state that holds the corrections.
UPDATE deliveries SET status = 'retry', due_us = :now_us, attempt = 0, starts = 0, basis = :basis, updated_at_us = :now_us
WHERE task_id = :task_id AND status = 'parked' AND reason_code <> 'killed'
  AND NOT (reason_code = 'exhausted' OR reason_code LIKE 'budget%')

-- name: raise_parked
-- BudgetRaised reopens what waits for a larger budget.
UPDATE deliveries SET status = 'retry', due_us = :now_us, attempt = 0, starts = 0, basis = :basis, updated_at_us = :now_us
WHERE task_id = :task_id AND status = 'parked' AND (reason_code = 'exhausted' OR reason_code LIKE 'budget%')

-- name: lift_parked
-- KillLifted reopens what no other kill covers; only the index of open rows is read.
UPDATE deliveries SET status = 'retry', due_us = :now_us, starts = 0, updated_at_us = :now_us
WHERE status IN ('started', 'waiting', 'retry', 'parked') AND status = 'parked' AND reason_code = 'killed'
  AND NOT EXISTS (SELECT 1 FROM kills k WHERE k.lifted_by IS NULL
                  AND (k.scope = 'all' OR (k.scope = 'role' AND k.target = deliveries.role)
                       OR (k.scope = 'task' AND k.target = deliveries.task_id)))

-- name: close_open
-- The task has ended: what the roles of the dance still had open is superseded. (The delivery that says so is done,
-- and writes its own row after this.)
UPDATE deliveries SET status = 'superseded', due_us = NULL, reason = :reason, reason_code = 'ended',
    updated_at_us = :now_us
WHERE task_id = :task_id AND status IN ('started', 'waiting', 'retry', 'parked')
  AND role IN (SELECT jsonb_array_elements_text(:roles::jsonb))

-- name: drop_leases
-- And nobody of them works on it any more.
DELETE FROM leases WHERE task_id = :task_id AND role IN (SELECT jsonb_array_elements_text(:roles::jsonb))

-- name: kill_insert
-- A kill, as a row that workers read with each renewal.
INSERT INTO kills (event_id, scope, target, reason) VALUES (?, ?, ?, ?)

-- name: kill_lift
-- The kill no longer holds.
UPDATE kills SET lifted_by = ? WHERE event_id = ?

-- name: kill_by_event
-- A kill by the event that raised it.
SELECT seq, event_id, scope, target, reason, lifted_by FROM kills WHERE event_id = ?

-- name: kill_by_seq
-- A kill by its number.
SELECT seq, event_id, scope, target, reason, lifted_by FROM kills WHERE seq = ?

-- name: kills_all
-- Every kill, newest last.
SELECT seq, event_id, scope, target, reason, lifted_by FROM kills ORDER BY seq

-- name: kills_active
-- The kills that hold now.
SELECT seq, event_id, scope, target, reason, lifted_by FROM kills WHERE lifted_by IS NULL ORDER BY seq

-- name: open_effect
-- An act of this task that was intended and has no receipt.
SELECT key FROM effects WHERE task_id = ? AND receipt IS NULL LIMIT 1

-- name: unfinished_act
-- An act of this task that is not certain yet, or one that changed production and is not told in the task's history.
SELECT key FROM effects e
WHERE task_id = ? AND (receipt IS NULL OR kind = 'production' AND receipted_us > coalesce(
    (SELECT max(recorded_at_us) FROM events t
     WHERE t.task_id = e.task_id AND t.type IN ('ProductionDeployed', 'DeploymentRolledBack')), 0))
LIMIT 1

-- ---------------------------------------------------------------------------------------------------- leases

-- name: lease_take (gathered)
-- A new lease with a new token; an older one of this role and task is gone.
INSERT INTO leases (role, task_id, event_id, holder, expires_us)
SELECT role, task_id, event_id, holder, expires_us
FROM unnest(?::text[], ?::text[], ?::text[], ?::text[], ?::bigint[])
     WITH ORDINALITY AS k (role, task_id, event_id, holder, expires_us, n)
ORDER BY n
ON CONFLICT (role, task_id) DO UPDATE SET token = DEFAULT, event_id = excluded.event_id, holder = excluded.holder,
    expires_us = excluded.expires_us
RETURNING token

-- name: lease_release (gathered)
-- Let a lease go, if it is still this one.
DELETE FROM leases WHERE token = ANY (?::bigint[])

-- name: lease_of
-- The lease of a role and task.
SELECT token, event_id, holder, expires_us FROM leases WHERE role = ? AND task_id = ?

-- name: leases_renew
-- All leases of a holder live on.
UPDATE leases SET expires_us = ?
WHERE token IN (SELECT token FROM leases WHERE holder = ? AND role = ? FOR UPDATE SKIP LOCKED)

-- name: leases_of
-- What a holder has.
SELECT role, task_id, token, expires_us FROM leases WHERE holder = ?

-- ---------------------------------------------------------------------------------------------------- sweep

-- name: open_of_role
-- What the role has unfinished and not parked, task by task in order, with the lease of the task and its first in line.
SELECT d.event_id, d.cause_id, d.task_id, d.status, d.due_us, d.event_type, d.sequence, l.holder, l.expires_us,
       (SELECT min(o.sequence) FROM deliveries o WHERE o.role = d.role AND o.task_id = d.task_id
        AND o.status IN ('started', 'waiting', 'retry', 'parked'))
FROM deliveries d LEFT JOIN leases l ON l.role = d.role AND l.task_id = d.task_id
WHERE d.role = :role
  AND d.status IN ('started', 'waiting', 'retry', 'parked') AND d.status <> 'parked'
  AND (d.status <> 'retry' OR d.due_us <= :now_us)
ORDER BY d.task_id, d.sequence

-- name: open_of_task
-- The same for one task.
SELECT d.event_id, d.cause_id, d.task_id, d.status, d.due_us, d.event_type, d.sequence, l.holder, l.expires_us,
       (SELECT min(o.sequence) FROM deliveries o WHERE o.role = d.role AND o.task_id = d.task_id
        AND o.status IN ('started', 'waiting', 'retry', 'parked'))
FROM deliveries d LEFT JOIN leases l ON l.role = d.role AND l.task_id = d.task_id
WHERE d.role = :role AND d.task_id = :task_id
  AND d.status IN ('started', 'waiting', 'retry', 'parked') AND d.status <> 'parked'
  AND (d.status <> 'retry' OR d.due_us <= :now_us)
ORDER BY d.task_id, d.sequence

-- name: unpublished
-- Deliveries of a role that were closed a while ago and whose events may not be on the bus.
SELECT event_id, cause_id FROM deliveries
WHERE role = :role AND published = 0 AND updated_at_us <= :before_us
  AND emitted_upto > coalesce((SELECT published_upto FROM sweep_marks WHERE role = :role), 0)
ORDER BY emitted_upto LIMIT :limit

-- name: missed
-- Events the role consumes, behind its mark and old enough, without a delivery; those of ended tasks no longer matter
-- to the roles of the dance.
SELECT e.event_id, e.type, e.version, e.task_id, e.correlation_id, e.causation_id, e.time_us, e.source, e.traceparent,
       e.tracestate, e.tenant, e.trust, e.value, e.sequence, e.position, e.recorded_at_us, e.prev_hash, e.hash
FROM events e
WHERE e.position > :after AND e.position <= :upto
  AND e.type IN (SELECT jsonb_array_elements_text(:types::jsonb))
  AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.role = :role AND d.event_id = e.event_id)
  AND NOT (:core::boolean AND EXISTS (SELECT 1 FROM tasks t WHERE t.task_id = e.task_id
                                      AND t.status IN ('succeeded', 'failed', 'cancelled')))
ORDER BY e.position LIMIT :limit

-- name: first_younger
-- The first event after a position that is too young to be missed.
SELECT min(position) FROM events WHERE position > ? AND recorded_at_us > ?

-- name: last_position
-- The end of the log.
SELECT coalesce(max(position), 0) FROM events

-- name: sweep_mark
-- How far the role's events are settled.
SELECT position FROM sweep_marks WHERE role = ? AND consumes = ?

-- name: sweep_mark_put
-- Move that mark; of two sweeps at once the farther one stands. With it moves the position up to which all that the role
-- emitted is known to be on the bus.
INSERT INTO sweep_marks AS m (role, consumes, position) VALUES (:role, :consumes, :position)
ON CONFLICT (role) DO UPDATE SET consumes = excluded.consumes,
    position = CASE WHEN m.consumes = excluded.consumes THEN greatest(m.position, excluded.position)
                    ELSE excluded.position END,
    published_upto = greatest(m.published_upto, coalesce(
        (SELECT d.emitted_upto - 1 FROM deliveries d
         WHERE d.role = m.role AND d.emitted_upto > m.published_upto AND d.emitted_upto <= excluded.position
           AND d.published = 0
         ORDER BY d.emitted_upto LIMIT 1),
        excluded.position))

-- name: overdue_tasks
-- Tasks whose state has outlasted its time, of which the role is the owner: among those that are open, see migration 0005.
SELECT task_id, state, fold_version FROM tasks
WHERE status IN ('running', 'waiting', 'escalated') AND owner = ? AND due_us <= ? ORDER BY due_us

-- name: delivery_exists
-- Whether this delivery was ever begun.
SELECT 1 FROM deliveries WHERE role = ? AND event_id = ?

-- name: marks_of
-- Who marked these partitions dirty.
SELECT partition, holder FROM partition_marks
WHERE role = ? AND partition IN (SELECT jsonb_array_elements_text(?::jsonb)::bigint)

-- name: mark_put (gathered)
-- This holder may be decoding records of the partition.
INSERT INTO partition_marks (role, partition, holder) SELECT * FROM unnest(?::text[], ?::bigint[], ?::text[])
ON CONFLICT (role, partition) DO UPDATE SET holder = excluded.holder

-- name: mark_clean (gathered)
-- It let go in an orderly way.
DELETE FROM partition_marks m USING unnest(?::text[], ?::bigint[], ?::text[]) AS k (role, partition, holder)
WHERE m.role = k.role AND m.partition = k.partition AND m.holder = k.holder

-- ---------------------------------------------------------------------------------------------------- journal

-- name: steps_of_task
-- The whole journal of a task, in the order in which steps were begun.
SELECT task_id, cause_id, role, ordinal, kind, name, arguments, arguments_digest, state_digest, why, began_at_us,
       ended_at_us, outcome, result, error, reserved_tokens, reserved_cost_microdollars, tokens_in, tokens_out,
       cost_microdollars, estimated, model, prompt, prompt_hash, abandoned, attempt, deadline_us, arguments_body,
       result_body
FROM steps WHERE task_id = ? ORDER BY step_id

-- name: steps_of_delivery
-- The journal of one delivery, as a rerun is answered from it.
SELECT task_id, cause_id, role, ordinal, kind, name, arguments, arguments_digest, state_digest, why, began_at_us,
       ended_at_us, outcome, result, error, reserved_tokens, reserved_cost_microdollars, tokens_in, tokens_out,
       cost_microdollars, estimated, model, prompt, prompt_hash, abandoned, attempt, deadline_us, arguments_body,
       result_body
FROM steps WHERE task_id = ? AND cause_id = ? AND role = ? AND abandoned = 0 ORDER BY ordinal

-- name: step_by_key
-- The step that stands under a key.
SELECT task_id, cause_id, role, ordinal, kind, name, arguments, arguments_digest, state_digest, why, began_at_us,
       ended_at_us, outcome, result, error, reserved_tokens, reserved_cost_microdollars, tokens_in, tokens_out,
       cost_microdollars, estimated, model, prompt, prompt_hash, abandoned, attempt, deadline_us, arguments_body,
       result_body
FROM steps WHERE task_id = ? AND cause_id = ? AND role = ? AND ordinal = ? AND abandoned = 0

-- name: step_insert
-- The intent of a step.
INSERT INTO steps (task_id, cause_id, role, ordinal, kind, name, arguments, arguments_body, arguments_digest,
                   state_digest, why, began_at_us, outcome, error, reserved_tokens, reserved_cost_microdollars,
                   tokens_in, tokens_out, cost_microdollars, lost_tokens, lost_cost_microdollars, wall_us, estimated,
                   model, prompt, prompt_hash, abandoned, attempt, deadline_us)
VALUES (:task_id, :cause_id, :role, :ordinal, :kind, :name, :arguments, :arguments_body, :arguments_digest,
        :state_digest, :why, :began_at_us, '', '', :reserved_tokens, :reserved_cost_microdollars, 0, 0, 0, 0, 0, 0, 0,
        :model, :prompt, :prompt_hash, 0, 1, :deadline_us)

-- name: step_again
-- Another try of a step: the last one stays charged, at its reservation where nothing is known of it; of its time only
-- what has passed since.
UPDATE steps SET
    lost_tokens = lost_tokens + CASE outcome WHEN '' THEN reserved_tokens ELSE tokens_in + tokens_out END,
    lost_cost_microdollars = lost_cost_microdollars
        + CASE outcome WHEN '' THEN reserved_cost_microdollars ELSE cost_microdollars END,
    wall_us = wall_us
        + CASE outcome WHEN '' THEN greatest(0, least(deadline_us, :began_at_us::bigint) - began_at_us) ELSE 0 END,
    estimated = CASE outcome WHEN '' THEN 1 ELSE estimated END,
    reserved_tokens = :reserved_tokens, reserved_cost_microdollars = :reserved_cost_microdollars,
    tokens_in = 0, tokens_out = 0, cost_microdollars = 0, outcome = '', error = '', ended_at_us = NULL,
    began_at_us = :began_at_us::bigint, deadline_us = :deadline_us, state_digest = :state_digest,
    why = :why, attempt = attempt + 1
WHERE task_id = :task_id AND cause_id = :cause_id AND role = :role AND ordinal = :ordinal AND abandoned = 0

-- name: steps_abandon
-- The program took another way: from here on the old journal answers nothing, and stays charged.
UPDATE steps SET abandoned = 1, estimated = CASE outcome WHEN '' THEN 1 ELSE estimated END,
    deadline_us = least(deadline_us, ?::bigint)
WHERE task_id = ? AND cause_id = ? AND role = ? AND ordinal >= ? AND abandoned = 0

-- name: step_awaiting
-- The row that an outcome belongs to: the live one of this digest, else an abandoned one.
SELECT step_id, outcome, attempt FROM steps
WHERE task_id = ? AND cause_id = ? AND role = ? AND ordinal = ? AND arguments_digest = ?
ORDER BY abandoned, step_id DESC LIMIT 1

-- name: step_settle
-- The outcome of a step. Its time is charged once for each try, and never past the deadline up to which it was held: while
-- a machine sleeps, or its clock is put forward, nobody works.
UPDATE steps SET outcome = :outcome, result = :result, result_body = :result_body, error = :error,
    ended_at_us = :ended_at_us::bigint, tokens_in = :tokens_in, tokens_out = :tokens_out,
    cost_microdollars = :cost_microdollars, model = :model,
    wall_us = wall_us + CASE WHEN outcome <> '' OR kind = 'value' THEN 0
        ELSE greatest(0, least(:ended_at_us::bigint, nullif(deadline_us, 0)) - began_at_us) END,
    estimated = CASE WHEN attempt > 1 THEN estimated ELSE :estimated::bigint END
WHERE step_id = :step_id

-- name: spent
-- What a task has used: unknown outcomes at their reservation, and then how much of it those hold that may still come in.
-- Steps of kind value cost nothing.
SELECT coalesce(sum(lost_tokens + CASE outcome WHEN '' THEN reserved_tokens ELSE tokens_in + tokens_out END), 0)::bigint,
       coalesce(sum(CASE kind WHEN 'value' THEN 0 ELSE attempt END), 0)::bigint,
       coalesce(sum(wall_us + CASE outcome WHEN '' THEN greatest(0, deadline_us - began_at_us) ELSE 0 END), 0)::bigint,
       coalesce(sum(lost_cost_microdollars
                    + CASE outcome WHEN '' THEN reserved_cost_microdollars ELSE cost_microdollars END), 0)::bigint,
       coalesce(sum(CASE WHEN outcome = '' AND abandoned = 0 THEN reserved_tokens END), 0)::bigint,
       coalesce(sum(CASE WHEN outcome = '' AND abandoned = 0 AND kind <> 'value' THEN 1 END), 0)::bigint,
       coalesce(sum(CASE WHEN outcome = '' AND abandoned = 0 THEN greatest(0, deadline_us - began_at_us) END), 0)::bigint,
       coalesce(sum(CASE WHEN outcome = '' AND abandoned = 0 THEN reserved_cost_microdollars END), 0)::bigint
FROM steps WHERE task_id = ?

-- name: cancelled_since
-- Whether a cancellation was requested after a sequence.
SELECT 1 FROM events WHERE task_id = ? AND sequence > ? AND type = 'TaskCancelRequested' LIMIT 1

-- ---------------------------------------------------------------------------------------------------- effects

-- name: effect_by_key
-- An act by its semantic key.
SELECT key, task_id, kind, intent, receipt, token FROM effects WHERE key = ?

-- name: effects_of_task
-- All acts of a task in the order in which they were intended.
SELECT key, task_id, kind, intent, receipt, token FROM effects WHERE task_id = ? ORDER BY intended_us, key

-- name: effect_insert
-- The intent of an act.
INSERT INTO effects (key, task_id, role, kind, intent, token, intended_us) VALUES (?, ?, ?, ?, ?, ?, ?)

-- name: effect_hand_over
-- An open intent is reconciled by whoever holds the lease now.
UPDATE effects SET token = ? WHERE key = ? AND receipt IS NULL

-- name: effect_receipt
-- The act happened: what the world answered. The first receipt stands.
UPDATE effects SET receipt = ?, receipted_us = ? WHERE key = ? AND receipt IS NULL

-- name: effect_withdraw
-- The act did not happen and will not.
DELETE FROM effects WHERE key = ? AND receipt IS NULL

-- ---------------------------------------------------------------------------------------------------- bodies

-- name: body_put
-- A body; equal bytes are stored once, and count as stored now.
INSERT INTO bodies AS b (digest, raw, stored_at_us) VALUES (?, ?, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
ON CONFLICT (digest) DO UPDATE SET stored_at_us = excluded.stored_at_us

-- name: body_by_digest
-- The bytes of a small body.
SELECT raw FROM bodies WHERE digest = ?

-- ---------------------------------------------------------------------------------------------------- projects, agents

-- name: project_put
-- A new version of a project's settings.
INSERT INTO projects (project_id, name, path, digest, project) VALUES (?, ?, ?, ?, ?)

-- name: project_newest
-- The newest version of a project by id, name or path.
SELECT project FROM projects p
WHERE (project_id = :wanted OR name = :wanted OR path = :wanted)
  AND version = (SELECT max(version) FROM projects WHERE project_id = p.project_id)
ORDER BY version DESC LIMIT 1

-- name: project_pinned
-- The settings that a task pinned.
SELECT project FROM projects WHERE project_id = ? AND digest = ? ORDER BY version DESC LIMIT 1

-- name: projects_newest
-- The newest version of each project.
SELECT project FROM projects WHERE version IN (SELECT max(version) FROM projects GROUP BY project_id) ORDER BY name

-- name: agent_put
-- A further agent's row.
INSERT INTO agents (role, consumes, emits) VALUES (?, ?, ?)
ON CONFLICT (role) DO UPDATE SET consumes = excluded.consumes, emits = excluded.emits

-- name: agents_all
-- Every further agent.
SELECT role, consumes, emits FROM agents ORDER BY role

-- name: schema_of
-- Who registered an event version, and how it reads.
SELECT id, role, fingerprint FROM schemas WHERE type = ? AND version = ?

-- name: schema_put
-- A further agent's event version under the next free id.
INSERT INTO schemas (id, role, type, version, text, fingerprint)
VALUES (greatest(:first::bigint, 1 + coalesce((SELECT max(id) FROM schemas), 0)), :role, :type, :version, :text,
        :fingerprint)

-- name: schemas_all
-- Every further schema.
SELECT role, id, type, version, text FROM schemas ORDER BY id

-- ---------------------------------------------------------------------------------------------------- checks

-- name: chain
-- All streams, each in order, a page at a time.
SELECT event_id, type, version, task_id, correlation_id, causation_id, time_us, source, traceparent, tracestate,
       tenant, trust, value, sequence, position, recorded_at_us, prev_hash, hash
FROM events WHERE (task_id, sequence) > (?, ?) ORDER BY task_id, sequence LIMIT ?

-- name: hashes
-- The hashes of all events up to a position, in the order of the log, a page at a time.
SELECT position, hash FROM events WHERE position > ? AND position <= ? ORDER BY position LIMIT ?

-- name: view_heads
-- What the views say about the ends of the streams.
SELECT task_id, sequence, head_hash FROM tasks

-- name: stream_heads
-- The ends of all streams.
SELECT DISTINCT ON (task_id) task_id, sequence, hash FROM events ORDER BY task_id, sequence DESC

-- name: position_gaps
-- How many events the log has, and where it ends: equal unless something was taken out.
SELECT count(*), coalesce(min(position), 1), coalesce(max(position), 0) FROM events

-- name: count_tasks
-- How many tasks stand how.
SELECT status, count(*) FROM tasks GROUP BY status

-- name: count_deliveries
-- How many deliveries stand how.
SELECT status, count(*) FROM deliveries GROUP BY status

-- name: count_open_tasks
-- How many tasks that have not ended stand how.
SELECT status, count(*) FROM tasks WHERE status IN ('running', 'waiting', 'escalated') GROUP BY status

-- name: count_open_deliveries
-- How many deliveries of a role that are not finished stand how.
SELECT status, count(*) FROM deliveries
WHERE role = ? AND status IN ('started', 'waiting', 'retry', 'parked') GROUP BY status

-- name: fact
-- A fact about the store itself.
SELECT value FROM store_facts WHERE name = ?

-- ---------------------------------------------------------------------------------------------------- retention

-- name: prunable_tasks
-- Tasks that ended before a moment, have no delivery that may still run, and have steps with words in them.
SELECT t.task_id, count(*) FROM tasks t JOIN steps s ON s.task_id = t.task_id
WHERE t.status IN ('succeeded', 'failed', 'cancelled') AND t.updated_at_us < ?
  AND (s.arguments <> '' OR s.result <> '' OR s.arguments_body IS NOT NULL OR s.result_body IS NOT NULL)
  AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.task_id = t.task_id
                  AND d.status IN ('started', 'waiting', 'retry', 'parked', 'dead'))
GROUP BY t.task_id ORDER BY t.task_id

-- name: steps_empty
-- The words of a task's steps are gone; the lines stay.
UPDATE steps SET arguments = '', arguments_body = NULL, result = '', result_body = NULL WHERE task_id = ?

-- name: event_texts
-- All payloads, a page at a time, to see which bodies they name: where the page ended, the task, texts.
SELECT position, task_id, value FROM events WHERE position > ? ORDER BY position LIMIT ?

-- name: step_texts
-- The words of all steps, likewise.
SELECT step_id, task_id, arguments, result, arguments_body, result_body FROM steps
WHERE step_id > ? ORDER BY step_id LIMIT ?

-- name: effect_texts
-- The words of all effects, likewise.
SELECT key, task_id, intent, receipt FROM effects WHERE key > ? ORDER BY key LIMIT ?

-- name: body_texts
-- Bodies, likewise: they may name others. They may be large, so the names are looked for by the server.
SELECT digest, '', (SELECT string_agg(m.found[1], ' ')
                    FROM regexp_matches(encode(raw, 'escape'), 'sha256:[0-9a-f]{64}', 'g') AS m (found))
FROM bodies WHERE digest > ? ORDER BY digest LIMIT ?

-- name: bodies_before
-- Large bodies last stored before a moment, and their bytes.
SELECT digest, length(raw) FROM bodies WHERE stored_at_us < ? AND length(raw) > 65536

-- name: body_remove
-- A body goes, unless it was stored again meanwhile.
DELETE FROM bodies WHERE digest = ? AND stored_at_us < ?

-- ---------------------------------------------------------------------------------------------------- metrics

-- name: count_open_tasks
-- How many tasks that have not ended stand how.
SELECT status, count(*) FROM tasks WHERE status IN ('running', 'waiting', 'escalated') GROUP BY status

-- name: count_open_deliveries
-- How many deliveries of a role that are not finished stand how.
SELECT status, count(*) FROM deliveries
WHERE role = ? AND status IN ('started', 'waiting', 'retry', 'parked') GROUP BY status
