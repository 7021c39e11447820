-- The embedded bus in one file: a log, who listens to it, and how far each listener is.

CREATE TABLE IF NOT EXISTS bus_topics (
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL UNIQUE,
    partitions INTEGER NOT NULL
) STRICT;

-- `id` is the offset: one sequence for all topics, so a partition's offsets have gaps. The newest row is never
-- deleted, so that no offset is given twice.
CREATE TABLE IF NOT EXISTS bus_log (
    id INTEGER PRIMARY KEY,
    topic INTEGER NOT NULL,
    part INTEGER NOT NULL,
    time_us INTEGER NOT NULL,
    key BLOB NOT NULL,
    headers BLOB NOT NULL,
    value BLOB NOT NULL,
    stored INTEGER  -- the number under which key, headers and value lie in this file already; then they are empty here
) STRICT;

-- every index ends with the rowid: a topic is read in the order of its offsets
CREATE INDEX IF NOT EXISTS bus_log_topic ON bus_log (topic);

-- which groups have ever listened to a topic: retention waits for them
CREATE TABLE IF NOT EXISTS bus_groups (
    grp TEXT NOT NULL,
    topic INTEGER NOT NULL,
    PRIMARY KEY (grp, topic)
) STRICT, WITHOUT ROWID;

-- `next` is the next offset that the group has not acknowledged
CREATE TABLE IF NOT EXISTS bus_offsets (
    grp TEXT NOT NULL,
    topic INTEGER NOT NULL,
    part INTEGER NOT NULL,
    next INTEGER NOT NULL,
    PRIMARY KEY (grp, topic, part)
) STRICT, WITHOUT ROWID;

-- who listens now; a member whose presence is gone is removed by the others
CREATE TABLE IF NOT EXISTS bus_members (
    grp TEXT NOT NULL,
    member TEXT NOT NULL,
    presence TEXT NOT NULL,
    token TEXT NOT NULL,
    socket TEXT NOT NULL,
    topics TEXT NOT NULL,
    PRIMARY KEY (grp, member)
) STRICT, WITHOUT ROWID;

-- which member reads a partition, of all topics; a partition without a row is free
CREATE TABLE IF NOT EXISTS bus_owners (
    grp TEXT NOT NULL,
    part INTEGER NOT NULL,
    member TEXT NOT NULL,
    PRIMARY KEY (grp, part)
) STRICT, WITHOUT ROWID;

-- raised with every change of bus_members, so that publishers know when to read it again
CREATE TABLE IF NOT EXISTS bus_generation (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    generation INTEGER NOT NULL
) STRICT;

INSERT OR IGNORE INTO bus_generation (one, generation) VALUES (1, 0);

CREATE TRIGGER IF NOT EXISTS bus_member_came AFTER INSERT ON bus_members
BEGIN UPDATE bus_generation SET generation = generation + 1; END;

CREATE TRIGGER IF NOT EXISTS bus_member_changed AFTER UPDATE ON bus_members
BEGIN UPDATE bus_generation SET generation = generation + 1; END;

CREATE TRIGGER IF NOT EXISTS bus_member_went AFTER DELETE ON bus_members
BEGIN UPDATE bus_generation SET generation = generation + 1; END;
