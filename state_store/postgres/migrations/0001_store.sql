-- What the store keeps, as in ../../schema.sql; here the server itself holds the rules between users.
-- Times end in _us: microseconds since the epoch, UTC. Ids are canonical uuid text, compared byte by byte.
-- Run by the owner of the tables; agents connect as roles that may do less (see grants.sql).

CREATE TABLE events (
    position       bigint PRIMARY KEY,
    event_id       text COLLATE "C" NOT NULL UNIQUE,
    task_id        text COLLATE "C" NOT NULL,
    sequence       bigint NOT NULL CHECK (sequence > 0),
    type           text COLLATE "C" NOT NULL,
    version        bigint NOT NULL,
    source         text NOT NULL,
    correlation_id text NOT NULL,
    causation_id   text,
    time_us        bigint NOT NULL,
    traceparent    text NOT NULL,
    tracestate     text NOT NULL,
    tenant         text NOT NULL,
    trust          text NOT NULL,
    recorded_at_us bigint NOT NULL,
    prev_hash      text NOT NULL,
    hash           text NOT NULL,
    value          bytea NOT NULL,
    UNIQUE (task_id, sequence)
);
-- Avro is dense already: in the row, and not squeezed again.
ALTER TABLE events SET (toast_tuple_target = 8160);

-- Every task ends once: succeeded, failed or cancelled.
CREATE UNIQUE INDEX events_one_end ON events (task_id)
    WHERE type IN ('TaskSucceeded', 'TaskFailed', 'TaskCancelled');

-- Which login may write which type of event, filled by `gavotte store grants`. Members of the owner may write all.
CREATE TABLE writers (
    db_role name NOT NULL,
    type    text COLLATE "C" NOT NULL,
    PRIMARY KEY (db_role, type)
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Once for each statement, over all that it added: no gap in a stream, none in the log, nothing that this login may not
-- say. Who listens hears of it when it is committed.
CREATE FUNCTION check_added_events() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    foreign_type text;
    counted bigint;
    first_position bigint;
    last_position bigint;
BEGIN
    SELECT count(*), min(position), max(position) INTO counted, first_position, last_position FROM added;
    IF counted = 0 THEN
        RETURN NULL;
    END IF;
    IF last_position - first_position + 1 <> counted
       OR (first_position > 1 AND NOT EXISTS (SELECT 1 FROM events WHERE position = first_position - 1))
       OR first_position < 1 THEN
        RAISE EXCEPTION 'events are append-only: positions % to % are not the next ones', first_position, last_position
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF EXISTS (SELECT 1 FROM added a WHERE a.sequence > 1 AND NOT EXISTS (
                   SELECT 1 FROM events e WHERE e.task_id = a.task_id AND e.sequence = a.sequence - 1)) THEN
        RAISE EXCEPTION 'events are append-only: the sequence is not the next one of its task'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    SELECT a.type INTO foreign_type FROM added a
        WHERE NOT EXISTS (SELECT 1 FROM writers w WHERE w.db_role = session_user AND w.type = a.type) LIMIT 1;
    IF foreign_type IS NOT NULL
       AND NOT pg_has_role(session_user, (SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'MEMBER') THEN
        RAISE EXCEPTION 'the role % may not write events of type %', session_user, foreign_type
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM pg_notify('gavotte_events', last_position::text);
    RETURN NULL;
END $$;

CREATE TRIGGER events_checked AFTER INSERT ON events
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION check_added_events();

-- The view: every column follows from the task's events alone.
CREATE TABLE tasks (
    task_id        text COLLATE "C" PRIMARY KEY,
    first_position bigint NOT NULL,
    correlation_id text NOT NULL,
    sequence       bigint NOT NULL,
    head_hash      text NOT NULL,
    fold_version   bigint NOT NULL,
    status         text COLLATE "C" NOT NULL,
    step           text NOT NULL,
    owner          text COLLATE "C",
    due_us         bigint,
    title          text NOT NULL,
    updated_at_us  bigint NOT NULL,
    state          text NOT NULL
);
ALTER TABLE tasks SET (toast_tuple_target = 8160);
CREATE INDEX tasks_due ON tasks (owner, due_us) WHERE due_us IS NOT NULL;
CREATE INDEX tasks_newest ON tasks (first_position);
CREATE INDEX tasks_status ON tasks (status, first_position);

-- The inbox: one row per role and event (or deadline).
CREATE TABLE deliveries (
    role          text COLLATE "C" NOT NULL,
    event_id      text COLLATE "C" NOT NULL,
    task_id       text COLLATE "C" NOT NULL,
    cause_id      text COLLATE "C" NOT NULL,
    event_type    text COLLATE "C" NOT NULL,
    sequence      bigint,  -- of the consumed event in its task; null where it could not be recorded
    status        text COLLATE "C" NOT NULL
        CHECK (status IN ('started', 'waiting', 'retry', 'parked', 'done', 'superseded', 'dead')),
    basis         bigint NOT NULL,
    starts        bigint NOT NULL,
    attempt       bigint NOT NULL,
    due_us        bigint,
    reason        text NOT NULL,
    reason_code   text NOT NULL,
    kill_seq      bigint NOT NULL,
    published     bigint NOT NULL,
    emitted_from  bigint,  -- positions of the emitted events, both ends included
    emitted_upto  bigint,
    holder        text NOT NULL,
    updated_at_us bigint NOT NULL,
    PRIMARY KEY (role, event_id)
);
-- What is not finished: claim and sweep look here, so that finished deliveries cost them nothing.
CREATE INDEX deliveries_open ON deliveries (role, task_id, sequence)
    WHERE status IN ('started', 'waiting', 'retry', 'parked');
CREATE INDEX deliveries_task ON deliveries (task_id);
-- Closed, but nobody noted that its events are on the bus: rare, so the index is nearly empty.
CREATE INDEX deliveries_unpublished ON deliveries (role, updated_at_us)
    WHERE published = 0 AND emitted_from IS NOT NULL;

-- Who works on a task for a role. The token fences: it only grows.
CREATE TABLE leases (
    token      bigint GENERATED ALWAYS AS IDENTITY,
    role       text COLLATE "C" NOT NULL,
    task_id    text COLLATE "C" NOT NULL,
    event_id   text COLLATE "C" NOT NULL,
    holder     text COLLATE "C" NOT NULL,
    expires_us bigint NOT NULL,
    PRIMARY KEY (role, task_id)
);
CREATE UNIQUE INDEX leases_token ON leases (token);
CREATE INDEX leases_holder ON leases (holder);
CREATE INDEX leases_task ON leases (task_id);

CREATE TABLE kills (
    seq       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id  text COLLATE "C" NOT NULL UNIQUE,
    scope     text NOT NULL CHECK (scope IN ('task', 'role', 'all')),
    target    text COLLATE "C" NOT NULL,
    reason    text NOT NULL,
    lifted_by text
);
CREATE INDEX kills_active ON kills (seq) WHERE lifted_by IS NULL;

-- The journal: the intent and the outcome of every model and tool call. Of equal keys one row is not abandoned.
CREATE TABLE steps (
    step_id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id          text COLLATE "C" NOT NULL,
    cause_id         text COLLATE "C" NOT NULL,
    role             text COLLATE "C" NOT NULL,
    ordinal          bigint NOT NULL,
    kind             text NOT NULL,
    name             text NOT NULL,
    arguments        text,  -- null where it lies in a body
    arguments_body   text,
    arguments_digest text NOT NULL,
    state_digest     text NOT NULL,
    why              text NOT NULL,
    began_at_us      bigint NOT NULL,
    ended_at_us      bigint,
    outcome          text NOT NULL,
    result           text,
    result_body      text,
    error            text NOT NULL,
    reserved_tokens  bigint NOT NULL,
    reserved_cost_microdollars bigint NOT NULL,
    tokens_in        bigint NOT NULL,
    tokens_out       bigint NOT NULL,
    cost_microdollars bigint NOT NULL,
    lost_tokens      bigint NOT NULL,
    lost_cost_microdollars bigint NOT NULL,
    wall_us          bigint NOT NULL,
    estimated        bigint NOT NULL,
    model            text NOT NULL,
    prompt           text NOT NULL,
    prompt_hash      text NOT NULL,
    abandoned        bigint NOT NULL,
    attempt          bigint NOT NULL
);
CREATE UNIQUE INDEX steps_key ON steps (task_id, cause_id, role, ordinal) WHERE abandoned = 0;
CREATE INDEX steps_task ON steps (task_id, step_id);

CREATE TABLE effects (
    key          text COLLATE "C" PRIMARY KEY,
    task_id      text COLLATE "C" NOT NULL,
    role         text NOT NULL,
    kind         text NOT NULL,
    intent       text NOT NULL,
    receipt      text,
    token        bigint NOT NULL,
    intended_us  bigint NOT NULL,
    receipted_us bigint
);
CREATE INDEX effects_task ON effects (task_id);
CREATE INDEX effects_open ON effects (task_id) WHERE receipt IS NULL;

-- Bodies by their digest, small and large.
CREATE TABLE bodies (
    digest text COLLATE "C" PRIMARY KEY,
    raw    bytea NOT NULL
);

-- Every version of a project's settings; the newest counts, the others stay for the tasks that pinned them.
CREATE TABLE projects (
    version    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id text COLLATE "C" NOT NULL,
    name       text COLLATE "C" NOT NULL,
    path       text COLLATE "C" NOT NULL,
    digest     text COLLATE "C" NOT NULL,
    project    text NOT NULL
);
CREATE INDEX projects_id ON projects (project_id, version);

CREATE TRIGGER projects_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON projects
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE agents (
    role     text COLLATE "C" PRIMARY KEY,
    consumes text NOT NULL,  -- JSON arrays of event types
    emits    text NOT NULL
);

CREATE TABLE schemas (
    id          bigint PRIMARY KEY,
    role        text COLLATE "C" NOT NULL,
    type        text COLLATE "C" NOT NULL,
    version     bigint NOT NULL,
    text        text NOT NULL,
    fingerprint text NOT NULL,
    UNIQUE (type, version)
);

-- Partitions whose records a worker may be decoding right now.
CREATE TABLE partition_marks (
    role      text COLLATE "C" NOT NULL,
    partition bigint NOT NULL,
    holder    text NOT NULL,
    PRIMARY KEY (role, partition)
);

-- Up to here every event that the role consumes is settled; `consumes` is part of the mark.
CREATE TABLE sweep_marks (
    role     text COLLATE "C" PRIMARY KEY,
    consumes text NOT NULL,
    position bigint NOT NULL
);

CREATE TABLE store_facts (
    name  text PRIMARY KEY,
    value text NOT NULL
);
INSERT INTO store_facts (name, value) VALUES ('schema_version', '1');
