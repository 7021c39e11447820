"""The bus suite: what every backend of the port promises. A backend's test file subclasses it with its cluster."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

import pytest

from bus.dead_letters import explain, letter, letter_topic
from bus.partitions import PARTITIONS, partition_of
from bus.port import Bus, Consumer, Message, Record, Subscription
from contracts.errors import Busy, Rejected, Unavailable
from tests.contract.bus.cluster import Cluster, Node, offsets_of, until

KEYS = [f"task-{number}".encode() for number in range(40)]


async def collect(subscription: Subscription, count: int) -> list[Record]:
    """Fetch until so many records came."""
    records: list[Record] = []

    async def enough() -> bool:
        records.extend(await subscription.fetch(1000, 0.2))
        return len(records) >= count

    await until(enough, f"{count} records")
    return records


async def nothing(subscription: Subscription) -> bool:
    """Whether there is nothing to fetch."""
    return not await subscription.fetch(100, 0.3)


def numbered(topic: str, count: int, start: int = 0) -> list[Message]:
    return [Message(topic, KEYS[n % len(KEYS)], str(n).encode()) for n in range(start, start + count)]


def values(records: Sequence[Record]) -> list[int]:
    return [int(record.value) for record in records]


def assert_order_per_key(records: Sequence[Record]) -> None:
    """Every first appearance comes after those before it; repetitions are allowed."""
    newest: dict[bytes, int] = defaultdict(lambda: -1)
    seen: set[bytes] = set()
    for record in records:
        if record.value in seen:
            continue
        seen.add(record.value)
        number = int(record.value)
        assert number > newest[record.key], f"{record.key!r}: {number} after {newest[record.key]}"
        newest[record.key] = number


class Member:
    """A subscription that notes what it gained and lost, and may commit when it loses."""

    def __init__(self, name: str, journal: list[tuple[str, str, frozenset[int]]] | None = None) -> None:
        self.name = name
        self.journal = journal if journal is not None else []
        self.subscription: Subscription | None = None
        self.unacknowledged: dict[tuple[str, int], int] = {}
        self.slow_seconds = 0.0

    async def join(self, bus: Bus, group: str = "g", topics: tuple[str, ...] = ("t",)) -> Subscription:
        consumer = Consumer(group, self.name, topics, self.gained, self.lost)
        self.subscription = await bus.subscribe(consumer)
        return self.subscription

    async def gained(self, parts: frozenset[int]) -> None:
        self.journal.append((self.name, "gained", parts))

    async def lost(self, parts: frozenset[int]) -> None:
        if self.subscription is not None and self.unacknowledged:
            await asyncio.sleep(self.slow_seconds)
            await self.subscription.commit(self.unacknowledged)
        self.journal.append((self.name, "lost", parts))

    @property
    def assigned(self) -> frozenset[int]:
        return self.subscription.assigned if self.subscription else frozenset()


class BusSuite:
    """Tests over `cluster`, a fixture of the subclass."""

    # -- records ------------------------------------------------------------------------------------------------------

    async def test_records_pass_through_untouched(self, cluster: Cluster) -> None:
        node = await cluster.node("a")
        messages = [
            Message("t", b"", b""),
            Message("t", b"\x00\xff", b"\x00\x00\x00\x00\x01\xfe" * 3),
            Message("t", b"key", b"\x80" * 200_000, (("a", b""), ("a", b"\x00again"), ("Ünïcode", "Zoë".encode()))),
            Message("t", "Schlüssel".encode(), b"Obj\x01 no Avro", tuple((f"h{n}", bytes([n])) for n in range(40))),
        ]
        await node.bus.publish(messages)
        subscription = await Member("m").join(node.bus)
        found = {record.key: record for record in await collect(subscription, len(messages))}
        for message in messages:
            record = found[message.key]
            assert (record.topic, record.value, record.headers) == ("t", message.value, message.headers)
            assert record.partition == partition_of(message.key)
            assert record.timestamp_us > 1_600_000_000_000_000

    async def test_a_key_keeps_its_order_and_its_partition_on_all_topics(self, cluster: Cluster) -> None:
        node = await cluster.node("a")
        subscription = await Member("m").join(node.bus, topics=("t", "u"))
        for start in range(0, 200, 20):
            await node.bus.publish([*numbered("t", 20, start), *numbered("u", 20, start)])
        records = await collect(subscription, 400)
        for topic in ("t", "u"):
            assert_order_per_key([record for record in records if record.topic == topic])
            assert sorted(values([record for record in records if record.topic == topic])) == list(range(200))
        assert all(record.partition == partition_of(record.key, PARTITIONS) for record in records)
        for place in {(record.topic, record.partition) for record in records}:
            offsets = [record.offset for record in records if (record.topic, record.partition) == place]
            assert offsets == sorted(set(offsets))

    async def test_concurrent_publishers_lose_nothing(self, cluster: Cluster) -> None:
        nodes = [await cluster.node(name) for name in "abc"]
        subscription = await Member("m").join(nodes[0].bus)
        await asyncio.gather(*(nodes[n % 3].bus.publish(numbered("t", 5, 5 * n)) for n in range(60)))
        assert sorted(values(await collect(subscription, 300))) == list(range(300))

    async def test_fetch_takes_what_is_there_and_at_most_what_is_asked(self, cluster: Cluster) -> None:
        node = await cluster.node("a")
        subscription = await Member("m").join(node.bus)
        assert await subscription.fetch(10, 0.05) == []
        await node.bus.publish(numbered("t", 25))
        records: list[Record] = []

        async def all_there() -> bool:
            some = await subscription.fetch(10, 1.0)
            assert len(some) <= 10
            records.extend(some)
            return len(records) == 25

        await until(all_there)
        assert await nothing(subscription)

    async def test_fetches_at_the_same_time_and_pauses_between_hand_nothing_out_twice(self, cluster: Cluster) -> None:
        node = await cluster.node("a")
        subscription = await Member("m").join(node.bus)
        await until(lambda: len(subscription.assigned) == 8)
        await node.bus.publish(numbered("t", 200))
        found = [asyncio.create_task(subscription.fetch(30, 0.5)) for _ in range(20)]
        await asyncio.sleep(0)
        subscription.pause({0, 1, 2})
        await asyncio.sleep(0.01)
        subscription.resume({0, 1, 2})
        some = values([record for records in await asyncio.gather(*found) for record in records])
        rest = values(await collect(subscription, 200 - len(some))) if len(some) < 200 else []
        assert sorted(some + rest) == list(range(200))

    async def test_a_fetch_that_waits_is_woken_by_a_publish_of_another_node(self, cluster: Cluster) -> None:
        here, there = await cluster.node("a"), await cluster.node("b")
        subscription = await Member("m").join(here.bus)
        assert await subscription.fetch(10, 0.1) == []
        waiting = asyncio.create_task(subscription.fetch(10, 25.0))
        await asyncio.sleep(0.05)
        await there.bus.publish(numbered("t", 1))
        assert values(await waiting) == [0]

    async def test_publishing_nothing_is_nothing(self, cluster: Cluster) -> None:
        node = await cluster.node("a")
        await node.bus.publish([])
        await node.bus.ensure_topics(["t"])
        await node.bus.ensure_topics(["t", "t2"])
        assert await node.bus.read("t") == []
        assert await node.bus.read("never heard of") == []

    # -- acknowledgement ----------------------------------------------------------------------------------------------

    async def test_what_was_not_committed_comes_again(self, cluster: Cluster) -> None:
        node = await cluster.node("a")
        await node.bus.publish(numbered("t", 40))
        first = await Member("m1").join(node.bus)
        records = await collect(first, 40)
        done = [record for record in records if record.partition < 4]
        await first.commit(offsets_of(done))
        await first.close()
        second = await Member("m2").join(node.bus)
        again = await collect(second, 40 - len(done))
        assert sorted(values(again)) == sorted(set(values(records)) - set(values(done)))
        assert await nothing(second)

    async def test_a_committed_offset_holds_back_the_rest_of_its_partition(self, cluster: Cluster) -> None:
        node = await cluster.node("a")
        await node.bus.publish([Message("t", b"k", str(n).encode()) for n in range(10)])
        first = await Member("m").join(node.bus)
        records = await collect(first, 10)
        await first.commit({("t", records[3].partition): records[3].offset + 1})
        await first.close()
        second = await Member("m").join(node.bus)
        assert values(await collect(second, 6)) == [4, 5, 6, 7, 8, 9]

    async def test_a_commit_of_a_partition_that_went_to_another_is_ignored(self, cluster: Cluster) -> None:
        node = await cluster.node("a")
        await node.bus.publish(numbered("t", 40))
        first, second = Member("m1"), Member("m2")
        old = await first.join(node.bus)
        records = await collect(old, 40)
        await second.join(node.bus)
        await until(lambda: len(first.assigned) == len(second.assigned) == 4, "a fair split")
        await old.commit(offsets_of(records))
        assert {
            each.partition for each in await node.bus.lag("g", ["t"]) if each.committed is not None
        } <= first.assigned

    async def test_lag_counts_what_is_not_committed(self, cluster: Cluster) -> None:
        node = await cluster.node("a")
        await node.bus.ensure_topics(["t"])
        assert [(each.committed, each.behind) for each in await node.bus.lag("g", ["t"])] == [(None, 0)] * PARTITIONS
        await node.bus.publish(numbered("t", 40))
        before = await node.bus.lag("g", ["t"])
        assert sum(each.behind for each in before) == 40
        subscription = await Member("m").join(node.bus)
        records = await collect(subscription, 40)
        half = [record for record in records if record.partition < 4]
        await subscription.commit(offsets_of(half))
        after = {each.partition: each for each in await node.bus.lag("g", ["t"])}
        assert sum(each.behind for each in after.values()) == 40 - len(half)
        for record in half:
            place = after[record.partition]
            assert (place.behind, place.committed) == (0, place.end)

    # -- groups -------------------------------------------------------------------------------------------------------

    async def test_two_groups_each_get_everything(self, cluster: Cluster) -> None:
        node = await cluster.node("a")
        one, two = await Member("m").join(node.bus, "one"), await Member("m").join(node.bus, "two")
        await node.bus.publish(numbered("t", 40))
        records = await collect(one, 40)
        await one.commit(offsets_of(records))
        assert sorted(values(await collect(two, 40))) == list(range(40))

    async def test_a_late_group_starts_at_the_start_of_the_log(self, cluster: Cluster) -> None:
        node = await cluster.node("a")
        await node.bus.publish(numbered("t", 40))
        early = await Member("m").join(node.bus, "early")
        await early.commit(offsets_of(await collect(early, 40)))
        late = await Member("m").join(node.bus, "late")
        assert sorted(values(await collect(late, 40))) == list(range(40))

    async def test_members_split_the_partitions_fairly_and_hand_over_in_order(self, cluster: Cluster) -> None:
        nodes = [await cluster.node(name) for name in "abc"]
        journal: list[tuple[str, str, frozenset[int]]] = []
        members = [Member(f"m{number}", journal) for number in range(3)]
        for member, node, counts in zip(members, nodes, [[8], [4, 4], [2, 3, 3]], strict=True):
            await member.join(node.bus)
            await until(lambda counts=counts: sorted(len(each.assigned) for each in members if each.assigned) == counts)  # type: ignore[misc]  # bound now
            assert frozenset().union(*(each.assigned for each in members)) == frozenset(range(8))
        holder: dict[int, str] = {}
        for name, what, parts in journal:
            for part in parts:
                assert holder.get(part) == (None if what == "gained" else name), (name, what, part, journal)
                if what == "gained":
                    holder[part] = name
                else:
                    del holder[part]
        closing = members[0].subscription
        assert closing is not None
        await closing.close()
        await until(lambda: len(members[1].assigned) == len(members[2].assigned) == 4)
        assert closing.assigned == frozenset()

    async def test_the_old_member_commits_before_the_new_one_starts(self, cluster: Cluster) -> None:
        here, there = await cluster.node("a"), await cluster.node("b")
        await here.bus.publish(numbered("t", 40))
        old, new = Member("m1"), Member("m2")
        old.slow_seconds = 0.2
        records = await collect(await old.join(here.bus), 40)
        old.unacknowledged = offsets_of(records)
        subscription = await new.join(there.bus)
        await until(lambda: len(new.assigned) == 4, "half of the partitions")
        assert await nothing(subscription), "what the old member acknowledged in on_lost came again"

    async def test_a_killed_member_is_taken_over(self, cluster: Cluster) -> None:
        here, there = await cluster.node("a"), await cluster.node("b")
        dying, heir = Member("m1"), Member("m2")
        await dying.join(here.bus)
        subscription = await heir.join(there.bus)
        await until(lambda: len(dying.assigned) == len(heir.assigned) == 4, "a fair split")
        await there.bus.publish(numbered("t", 40))
        assert dying.subscription is not None
        theirs = {value for value in range(40) if partition_of(KEYS[value % len(KEYS)]) in dying.assigned}
        got = await collect(dying.subscription, len(theirs))
        assert set(values(got)) == theirs
        acknowledged = [record for record in got if record.partition == min(dying.assigned)]
        await dying.subscription.commit(offsets_of(acknowledged))
        await cluster.kill(here)
        records = await collect(subscription, 40 - len(acknowledged))
        assert sorted(values(records)) == sorted(set(range(40)) - set(values(acknowledged)))
        assert heir.assigned == frozenset(range(8))
        assert await nothing(subscription)

    async def test_a_killed_member_that_comes_back_by_its_name_goes_on(self, cluster: Cluster) -> None:
        first = await cluster.node("a")
        member = Member("m")
        await member.join(first.bus)
        await until(lambda: len(member.assigned) == 8)
        await cluster.kill(first)
        second = await cluster.node("a2")
        again = Member("m")
        subscription = await again.join(second.bus)
        await second.bus.publish(numbered("t", 8))
        assert len(await collect(subscription, 8)) == 8
        assert again.assigned == frozenset(range(8))

    async def test_a_member_is_one_process(self, cluster: Cluster) -> None:
        here, there = await cluster.node("a"), await cluster.node("b")
        older = await Member("m").join(here.bus)
        if not cluster.features.newest_member_wins:
            with pytest.raises(Busy, match="m"):
                await Member("m").join(there.bus)
            return
        newer = Member("m")
        subscription = await newer.join(there.bus)
        with pytest.raises(Busy, match="member m"):
            await older.fetch(1, 25.0)
        await until(lambda: len(newer.assigned) == 8)
        await older.close()
        await there.bus.publish(numbered("t", 40))
        assert len(await collect(subscription, 40)) == 40

    async def test_paused_partitions_rest_and_the_others_go_on(self, cluster: Cluster) -> None:
        node = await cluster.node("a")
        subscription = await Member("m").join(node.bus)
        await until(lambda: len(subscription.assigned) == 8)
        subscription.pause({0, 1, 2, 3})
        await node.bus.publish(numbered("t", 40))
        awake = {value for value in range(40) if partition_of(KEYS[value % len(KEYS)]) > 3}
        assert set(values(await collect(subscription, len(awake)))) == awake
        assert await nothing(subscription)
        assert len(subscription.assigned) == 8
        subscription.resume({0, 1, 2, 3, 7})
        assert set(values(await collect(subscription, 40 - len(awake)))) == set(range(40)) - awake

    # -- people and letters -------------------------------------------------------------------------------------------

    async def test_people_read_a_topic_without_a_group(self, cluster: Cluster) -> None:
        node = await cluster.node("a")
        await node.bus.publish(numbered("t", 40))
        records = await node.bus.read("t")
        assert_order_per_key(records)
        assert sorted(values(records)) == list(range(40))
        assert len(await node.bus.read("t", records_max=7)) == 7
        rest = await node.bus.read("t", after=offsets_by_partition(records[:15]))
        assert sorted(values(records[:15]) + values(rest)) == list(range(40))
        assert [each.committed for each in await node.bus.lag("g", ["t"])] == [None] * PARTITIONS

    async def test_a_letter_carries_the_record_and_explains_itself(self, cluster: Cluster) -> None:
        node = await cluster.node("a")
        poison = Message("t", b"task-1", b"\xff\x00poison", (("ce_id", b"1"), ("traceparent", b"00-ab-cd-01")))
        await node.bus.publish([poison])
        record = (await collect(await Member("m").join(node.bus), 1))[0]
        await node.bus.publish([letter(record, "g", Rejected("no event of ours"), attempt=1, stage="decode")])
        found = explain((await node.bus.read(letter_topic("t", "g")))[0])
        assert (found.key, found.value, found.headers) == (poison.key, poison.value, poison.headers)
        assert (found.topic, found.partition, found.offset) == ("t", record.partition, record.offset)
        assert (found.timestamp_us, found.group, found.stage) == (record.timestamp_us, "g", "decode")
        assert (found.code, found.message, found.retryable, found.attempt) == ("rejected", "no event of ours", False, 1)

    # -- ends ---------------------------------------------------------------------------------------------------------

    async def test_what_is_closed_says_so(self, cluster: Cluster) -> None:
        node = await cluster.node("a")
        subscription = await Member("m").join(node.bus)
        waiting = asyncio.create_task(subscription.fetch(10, 25.0))
        await asyncio.sleep(0.05)
        await node.bus.close()
        await node.bus.close()
        await subscription.close()
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable):
            await subscription.fetch(1, 0.1)
        with pytest.raises(Unavailable):
            await node.bus.publish(numbered("t", 1))

    async def test_a_callback_that_fails_is_heard_of(self, cluster: Cluster) -> None:
        node = await cluster.node("a")

        async def gained(_: frozenset[int]) -> None:
            raise RuntimeError("cannot mark the partitions")

        subscription = await node.bus.subscribe(Consumer("g", "m", ("t",), gained))
        with pytest.raises(RuntimeError, match="cannot mark"):
            await subscription.fetch(1, 25.0)

    # -- everything together ------------------------------------------------------------------------------------------

    async def test_ten_thousand_messages_through_four_nodes_while_some_die(self, cluster: Cluster) -> None:
        count = 10_000
        publisher = await cluster.node("publisher")
        nodes: list[Node] = []

        async def another(number: int) -> None:
            node = await cluster.node(f"n{number}")
            await node.relay(Consumer("relays", f"m{number}", ("in",)), "out")
            nodes.append(node)

        for number in range(4):
            await another(number)
        for start in range(0, count, 100):
            await publisher.bus.publish(numbered("in", 100, start))
            if start in {3_000, 6_000}:
                await cluster.kill(nodes.pop(0))
                await another(start)

        copies: list[Record] = []
        after: dict[int, int] = {}

        async def all_copied() -> bool:
            records = await publisher.bus.read("out", after=after, records_max=5_000)
            copies.extend(records)
            after.update(offsets_by_partition(records))
            return len({record.value for record in copies}) == count

        await until(all_copied, "that all came through")
        assert_order_per_key(copies)

        async def all_committed() -> bool:
            return sum(each.behind for each in await publisher.bus.lag("relays", ["in"])) == 0

        await until(all_committed)


def offsets_by_partition(records: Sequence[Record]) -> dict[int, int]:
    return {record.partition: record.offset + 1 for record in sorted(records, key=lambda record: record.offset)}
