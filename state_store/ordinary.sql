-- What the ordinary case asks of SQLite for many deliveries at once.

-- name: ready
-- Of these events, those that a role can handle without a question: recorded, never begun by it, nothing earlier of the
-- task open for it, nobody at work on the task, no kill in force, and the view of the task at its head.
SELECT e.event_id, e.sequence, e.type, t.task_id, t.sequence, t.head_hash, t.state,
       (SELECT coalesce(max(seq), 0) FROM kills)
FROM json_each(:events) asked
JOIN events e ON e.event_id = asked.value
JOIN tasks t ON t.task_id = e.task_id AND t.fold_version = :fold_version
WHERE t.sequence = (SELECT max(sequence) FROM events WHERE task_id = t.task_id)
  AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.role = :role AND d.event_id = e.event_id)
  AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.role = :role AND d.task_id = t.task_id
                  AND d.status IN ('started', 'waiting', 'retry', 'parked'))
  AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.role = :role AND l.task_id = t.task_id)
  AND NOT EXISTS (SELECT 1 FROM kills WHERE lifted_by IS NULL)

-- name: obstacles
-- What may have come since: a kill, somebody at work on one of these tasks, an act without receipt in a task that ends.
SELECT (SELECT coalesce(max(seq), 0) FROM kills) > :kill_seq
    OR EXISTS (SELECT 1 FROM leases WHERE role = :role AND task_id IN (SELECT value FROM json_each(:tasks)))
    OR EXISTS (SELECT 1 FROM effects WHERE receipt IS NULL AND task_id IN (SELECT value FROM json_each(:ending)))

-- name: delivery_insert
-- A delivery that was begun and ended at once; refused where anybody began it before.
INSERT INTO deliveries (role, event_id, task_id, cause_id, event_type, sequence, status, basis, starts, attempt, due_us,
                        reason, reason_code, kill_seq, published, emitted_from, emitted_upto, holder, updated_at_us)
VALUES (?, ?, ?, ?, ?, ?, 'done', ?, 0, ?, NULL, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: view_moved
-- Move the view of a task whose status and title stay; what is not named here is not written into its index again.
UPDATE tasks SET sequence = :sequence, head_hash = :head_hash, fold_version = :fold_version, step = :step,
                 owner = :owner, due_us = :due_us, updated_at_us = :updated_at_us, state = :state
WHERE task_id = :task_id AND fold_version <= :fold_version

-- name: view_first
-- The view of a task that was just submitted.
INSERT INTO tasks (first_position, correlation_id, task_id, sequence, head_hash, fold_version, status, step, owner,
                   due_us, title, updated_at_us, state)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
