-- What the store keeps. Events are the only truth about a task; tasks is a view of them; deliveries are the inbox.
-- Times end in _us: microseconds since the epoch, UTC. Ids are canonical uuid text.

CREATE TABLE IF NOT EXISTS events (
    position       INTEGER PRIMARY KEY,
    event_id       TEXT NOT NULL UNIQUE,
    task_id        TEXT NOT NULL,
    sequence       INTEGER NOT NULL,
    type           TEXT NOT NULL,
    version        INTEGER NOT NULL,
    source         TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    causation_id   TEXT,
    time_us        INTEGER NOT NULL,
    traceparent    TEXT NOT NULL,
    tracestate     TEXT NOT NULL,
    tenant         TEXT NOT NULL,
    trust          TEXT NOT NULL,
    recorded_at_us INTEGER NOT NULL,
    prev_hash      TEXT NOT NULL,
    hash           TEXT NOT NULL,
    value          BLOB NOT NULL,  -- last, so that the columns before it are read without it
    UNIQUE (task_id, sequence)
) STRICT;

-- Every task ends once: succeeded, failed or cancelled.
CREATE UNIQUE INDEX IF NOT EXISTS events_one_end ON events (task_id)
    WHERE type IN ('TaskSucceeded', 'TaskFailed', 'TaskCancelled');

CREATE TRIGGER IF NOT EXISTS events_no_update BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'events are append-only: UPDATE is refused'); END;

CREATE TRIGGER IF NOT EXISTS events_no_delete BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'events are append-only: DELETE is refused'); END;

-- Without gaps, and no INSERT OR REPLACE behind the back of the two triggers above.
CREATE TRIGGER IF NOT EXISTS events_only_append BEFORE INSERT ON events
BEGIN
    SELECT RAISE(ABORT, 'events are append-only: the sequence is not the next one of its task')
    WHERE NEW.sequence <> 1 + coalesce((SELECT max(sequence) FROM events WHERE task_id = NEW.task_id), 0);
    SELECT RAISE(ABORT, 'events are append-only: this event is there already')
    WHERE EXISTS (SELECT 1 FROM events WHERE event_id = NEW.event_id)
       OR (NEW.position > 0 AND NEW.position <= (SELECT max(position) FROM events));
END;

CREATE TRIGGER IF NOT EXISTS events_only_one_end BEFORE INSERT ON events
WHEN NEW.type IN ('TaskSucceeded', 'TaskFailed', 'TaskCancelled')
BEGIN
    SELECT RAISE(ABORT, 'events: this task has ended already')
    WHERE EXISTS (SELECT 1 FROM events WHERE task_id = NEW.task_id
                  AND type IN ('TaskSucceeded', 'TaskFailed', 'TaskCancelled'));
END;

-- The view: every column follows from the task's events alone.
CREATE TABLE IF NOT EXISTS tasks (
    task_id        TEXT PRIMARY KEY,
    first_position INTEGER NOT NULL,
    correlation_id TEXT NOT NULL,
    sequence       INTEGER NOT NULL,
    head_hash      TEXT NOT NULL,
    fold_version   INTEGER NOT NULL,
    status         TEXT NOT NULL,
    step           TEXT NOT NULL,
    owner          TEXT,
    due_us         INTEGER,
    title          TEXT NOT NULL,
    updated_at_us  INTEGER NOT NULL,
    state          TEXT NOT NULL
) STRICT;  -- with row ids: its rows are large, and would spill out of the pages of an index

-- A task's turn and time change with each hop, so no index has them; a sweep looks through the tasks that are open.
DROP INDEX IF EXISTS tasks_due;
CREATE INDEX IF NOT EXISTS tasks_newest ON tasks (first_position);
CREATE INDEX IF NOT EXISTS tasks_status ON tasks (status, first_position);

-- The inbox: one row per role and event (or deadline) once something other than "handled at once" is to be said, and
-- at the latest when it is done.
CREATE TABLE IF NOT EXISTS deliveries (
    role          TEXT NOT NULL,
    event_id      TEXT NOT NULL,
    task_id       TEXT NOT NULL,
    cause_id      TEXT NOT NULL,
    event_type    TEXT NOT NULL,
    sequence      INTEGER,  -- of the consumed event in its task; null where it could not be recorded
    status        TEXT NOT NULL
        CHECK (status IN ('started', 'waiting', 'retry', 'parked', 'done', 'superseded', 'dead')),
    basis         INTEGER NOT NULL,
    starts        INTEGER NOT NULL,
    attempt       INTEGER NOT NULL,
    due_us        INTEGER,
    reason        TEXT NOT NULL,
    reason_code   TEXT NOT NULL,
    kill_seq      INTEGER NOT NULL,
    published     INTEGER NOT NULL,
    emitted_from  INTEGER,  -- positions of the emitted events, both ends included
    emitted_upto  INTEGER,
    holder        TEXT NOT NULL,
    updated_at_us INTEGER NOT NULL,
    PRIMARY KEY (role, event_id)
) STRICT;  -- with row ids: what is written together lies together, and is found together to be marked

-- What is not finished: claim and sweep look here, so that finished deliveries cost them nothing.
CREATE INDEX IF NOT EXISTS deliveries_open ON deliveries (role, task_id, sequence)
    WHERE status IN ('started', 'waiting', 'retry', 'parked');
CREATE INDEX IF NOT EXISTS deliveries_task ON deliveries (task_id);

-- Closed, but nobody noted that its events are on the bus: rare, so the index is nearly empty.
CREATE INDEX IF NOT EXISTS deliveries_unpublished ON deliveries (role, updated_at_us)
    WHERE published = 0 AND emitted_from IS NOT NULL;

-- Who works on a task for a role. The token fences: it only grows, also over deleted rows.
CREATE TABLE IF NOT EXISTS leases (
    token      INTEGER PRIMARY KEY AUTOINCREMENT,
    role       TEXT NOT NULL,
    task_id    TEXT NOT NULL,
    event_id   TEXT NOT NULL,
    holder     TEXT NOT NULL,
    expires_us INTEGER NOT NULL,
    UNIQUE (role, task_id)
) STRICT;
CREATE INDEX IF NOT EXISTS leases_holder ON leases (holder);
CREATE INDEX IF NOT EXISTS leases_task ON leases (task_id);

CREATE TABLE IF NOT EXISTS kills (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id  TEXT NOT NULL UNIQUE,
    scope     TEXT NOT NULL CHECK (scope IN ('task', 'role', 'all')),
    target    TEXT NOT NULL,
    reason    TEXT NOT NULL,
    lifted_by TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS kills_active ON kills (seq) WHERE lifted_by IS NULL;

-- The journal: the intent and the outcome of every model and tool call. `lost_*` is what earlier tries without an
-- answer are charged at; while an outcome is unknown, so is the time up to `deadline_us`. Of equal keys one row is not
-- abandoned.
CREATE TABLE IF NOT EXISTS steps (
    step_id          INTEGER PRIMARY KEY,
    task_id          TEXT NOT NULL,
    cause_id         TEXT NOT NULL,
    role             TEXT NOT NULL,
    ordinal          INTEGER NOT NULL,
    kind             TEXT NOT NULL,
    name             TEXT NOT NULL,
    arguments        TEXT,  -- null where it lies in a body
    arguments_body   TEXT,
    arguments_digest TEXT NOT NULL,
    state_digest     TEXT NOT NULL,
    why              TEXT NOT NULL,
    began_at_us      INTEGER NOT NULL,
    ended_at_us      INTEGER,
    outcome          TEXT NOT NULL,
    result           TEXT,
    result_body      TEXT,
    error            TEXT NOT NULL,
    reserved_tokens  INTEGER NOT NULL,
    reserved_cost_microdollars INTEGER NOT NULL,
    tokens_in        INTEGER NOT NULL,
    tokens_out       INTEGER NOT NULL,
    cost_microdollars INTEGER NOT NULL,
    lost_tokens      INTEGER NOT NULL,
    lost_cost_microdollars INTEGER NOT NULL,
    wall_us          INTEGER NOT NULL,
    estimated        INTEGER NOT NULL,
    model            TEXT NOT NULL,
    prompt           TEXT NOT NULL,
    prompt_hash      TEXT NOT NULL,
    abandoned        INTEGER NOT NULL,
    attempt          INTEGER NOT NULL,
    deadline_us      INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS steps_key ON steps (task_id, cause_id, role, ordinal) WHERE abandoned = 0;
CREATE INDEX IF NOT EXISTS steps_task ON steps (task_id);

CREATE TABLE IF NOT EXISTS effects (
    key          TEXT PRIMARY KEY,
    task_id      TEXT NOT NULL,
    role         TEXT NOT NULL,
    kind         TEXT NOT NULL,
    intent       TEXT NOT NULL,
    receipt      TEXT,
    token        INTEGER NOT NULL,
    intended_us  INTEGER NOT NULL,
    receipted_us INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS effects_task ON effects (task_id);
CREATE INDEX IF NOT EXISTS effects_open ON effects (task_id) WHERE receipt IS NULL;

-- Small bodies; large ones are files named by their digest.
CREATE TABLE IF NOT EXISTS bodies (
    digest TEXT PRIMARY KEY,
    raw    BLOB NOT NULL
) STRICT;

-- Every version of a project's settings; the newest counts, the others stay for the tasks that pinned them.
CREATE TABLE IF NOT EXISTS projects (
    version    INTEGER PRIMARY KEY,
    project_id TEXT NOT NULL,
    name       TEXT NOT NULL,
    path       TEXT NOT NULL,
    digest     TEXT NOT NULL,
    project    TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS projects_id ON projects (project_id, version);

CREATE TRIGGER IF NOT EXISTS projects_no_update BEFORE UPDATE ON projects
BEGIN SELECT RAISE(ABORT, 'project settings are append-only: UPDATE is refused'); END;

CREATE TRIGGER IF NOT EXISTS projects_no_delete BEFORE DELETE ON projects
BEGIN SELECT RAISE(ABORT, 'project settings are append-only: DELETE is refused'); END;

CREATE TABLE IF NOT EXISTS agents (
    role     TEXT PRIMARY KEY,
    consumes TEXT NOT NULL,  -- JSON arrays of event types
    emits    TEXT NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS schemas (
    id          INTEGER PRIMARY KEY,
    role        TEXT NOT NULL,
    type        TEXT NOT NULL,
    version     INTEGER NOT NULL,
    text        TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    UNIQUE (type, version)
) STRICT;

-- Partitions whose records a worker may be decoding right now; what a dead worker left is approached with care.
CREATE TABLE IF NOT EXISTS partition_marks (
    role      TEXT NOT NULL,
    partition INTEGER NOT NULL,
    holder    TEXT NOT NULL,
    PRIMARY KEY (role, partition)
) STRICT, WITHOUT ROWID;

-- Up to here every event that the role consumes is settled: the search for missed ones starts behind it. `consumes`
-- is part of the mark: a role that hears more types from now on starts over.
CREATE TABLE IF NOT EXISTS sweep_marks (
    role     TEXT PRIMARY KEY,
    consumes TEXT NOT NULL,
    position INTEGER NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS store_facts (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
INSERT OR IGNORE INTO store_facts (name, value) VALUES ('schema_version', '1');
