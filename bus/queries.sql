-- What the embedded bus asks of its tables; each statement has a name and a line of purpose.

-- name: topics
-- all topics
SELECT topic, id, partitions FROM bus_topics;

-- name: add_topic
-- a new topic, if it is new
INSERT INTO bus_topics (topic, partitions) VALUES (?, ?) ON CONFLICT DO NOTHING;

-- name: append
-- one record; its offset is the next id of the whole log
INSERT INTO bus_log (topic, part, time_us, key, headers, value, stored) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: newest
-- the last offset given
SELECT coalesce(max(id), 0) FROM bus_log;

-- name: read
-- records of a topic from an offset on, of the partitions in a bit mask
SELECT id, topic, part, time_us, key, headers, value, stored FROM bus_log INDEXED BY bus_log_topic
WHERE topic = ? AND id >= ? AND (? >> part) & 1 ORDER BY id LIMIT ?;

-- name: generation
-- changes with every change of the members
SELECT generation FROM bus_generation;

-- name: listeners
-- whom to wake for which topics
SELECT socket, topics FROM bus_members;

-- name: add_group
-- retention waits for this group on this topic
INSERT INTO bus_groups (grp, topic) VALUES (?, ?) ON CONFLICT DO NOTHING;

-- name: join
-- a member comes, or comes back after it died
INSERT INTO bus_members (grp, member, presence, token, socket, topics)
VALUES (:group, :member, :presence, :token, :socket, :topics)
ON CONFLICT (grp, member) DO UPDATE
SET presence = excluded.presence, token = excluded.token, socket = excluded.socket, topics = excluded.topics;

-- name: members
-- all members of a group
SELECT member, presence, token, socket FROM bus_members WHERE grp = ? ORDER BY member;

-- name: remove_member
-- a member left or died; the token spares one that came back meanwhile
DELETE FROM bus_members WHERE grp = ? AND member = ? AND token = ?;

-- name: owners
-- who reads which partition
SELECT part, member FROM bus_owners WHERE grp = ?;

-- name: claim
-- a free partition becomes this member's
INSERT INTO bus_owners (grp, part, member) VALUES (?, ?, ?);

-- name: release
-- a partition is free again
DELETE FROM bus_owners WHERE grp = ? AND part = ? AND member = ?;

-- name: release_orphans
-- what belonged to members that are no more is free again
DELETE FROM bus_owners WHERE grp = ?1 AND member NOT IN (SELECT member FROM bus_members WHERE grp = ?1);

-- name: committed
-- how far a group is
SELECT topic, part, next FROM bus_offsets WHERE grp = ?;

-- name: commit
-- the group read so far; only its owner may say so of a partition, and never less than before
INSERT INTO bus_offsets (grp, topic, part, next)
SELECT :group, :topic, :part, :next
WHERE EXISTS (SELECT 1 FROM bus_owners WHERE grp = :group AND part = :part AND member = :member)
ON CONFLICT (grp, topic, part) DO UPDATE SET next = excluded.next WHERE excluded.next > bus_offsets.next;

-- name: behind
-- per partition of a topic, from an offset on: each record's partition and offset
SELECT part, id FROM bus_log INDEXED BY bus_log_topic WHERE topic = ? AND id >= ?;

-- name: slowest
-- per partition of a topic that groups listen to: below which offset every group has read everything
SELECT g.topic, p.value, min(coalesce(o.next, 0))
FROM bus_groups AS g
JOIN bus_topics AS t ON t.id = g.topic
JOIN json_each(?) AS p
LEFT JOIN bus_offsets AS o ON o.grp = g.grp AND o.topic = g.topic AND o.part = p.value
GROUP BY g.topic, p.value;

-- name: first_since
-- the first offset that is too young to be removed
SELECT id FROM bus_log WHERE time_us >= ? ORDER BY id LIMIT 1;

-- name: removable
-- how many records of a partition lie below an offset
SELECT count(*) FROM bus_log INDEXED BY bus_log_topic WHERE topic = ? AND id < ? AND part = ?;

-- name: remove
-- some records of a partition below an offset, oldest first
DELETE FROM bus_log WHERE id IN (
    SELECT id FROM bus_log INDEXED BY bus_log_topic
    WHERE topic = ? AND id < ? AND part = ? ORDER BY id LIMIT ?
);
