from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.batcher import BATCHES_WAITING, PATIENCE_MS, Batcher, Bounds, Lane

PARTITIONS = 3
BOUNDS = Bounds(rows=6, bytes=60, bulk_rows=2)


class Rec(NamedTuple):
    lane: Lane
    partition: int
    offset: int
    size: int


class Replica(RuleBasedStateMachine):
    """Logs that grow, a position in each, what is committed: and no record may be lost, repeated or overtaken."""

    def __init__(self) -> None:
        super().__init__()
        self.batcher: Batcher[Rec] = Batcher(BOUNDS)
        self.now_ms = 1_000_000
        places = [(lane, p) for lane in Lane for p in range(PARTITIONS)]
        self.position = dict.fromkeys(places, 0)
        self.taken = dict.fromkeys(places, 0)
        self.owned = set(range(PARTITIONS))

    @rule(
        lane=st.sampled_from(Lane),
        partition=st.integers(0, PARTITIONS - 1),
        size=st.integers(1, 90),
        due_in_ms=st.none() | st.integers(-50, 3_000),
        count=st.integers(1, 8),
    )
    def consume(
        self, lane: Lane, partition: int, size: int, due_in_ms: int | None, count: int
    ) -> None:
        if partition not in self.owned:
            return
        for _ in range(min(count, self.batcher.room(lane))):
            offset = self.position[lane, partition]
            due_ms = None if due_in_ms is None else self.now_ms + due_in_ms
            record = Rec(lane, partition, offset, size)
            self.batcher.offer(
                lane, partition, record, size=size, came_ms=self.now_ms, due_ms=due_ms
            )
            self.position[lane, partition] += 1

    @rule(ms=st.integers(1, 2_000))
    def time_goes_on(self, ms: int) -> None:
        self.now_ms += ms

    @rule()
    def take(self) -> None:
        waiting = {lane: self.batcher.waiting(lane) for lane in Lane}
        batch = self.batcher.take(self.now_ms)
        assert bool(batch) == bool(sum(waiting.values())), "without linger, what is there is taken"
        assert len(batch) <= BOUNDS.rows
        self._in_order(batch)
        mine = {lane: [r for r in batch if r.lane is lane] for lane in Lane}
        assert batch == mine[Lane.INTERACTIVE] + mine[Lane.BULK], "interactive first"
        if mine[Lane.INTERACTIVE]:
            assert len(mine[Lane.BULK]) <= BOUNDS.bulk_rows, "bulk takes no more than its share"
        if waiting[Lane.INTERACTIVE]:
            assert mine[Lane.INTERACTIVE], "bulk never stands in the way"
        over = sum(r.size for r in batch) - BOUNDS.bytes
        assert over <= sum(max(r.size for r in lane) for lane in mine.values() if lane)
        waits = bool(waiting[Lane.BULK])
        assert bool(mine[Lane.BULK]) == waits, "every batch has a bulk record while one waits"

    def _in_order(self, batch: list[Rec]) -> None:
        for record in batch:
            place = (record.lane, record.partition)
            assert record.offset == self.taken[place], "nothing lost, twice or overtaken"
            self.taken[place] += 1

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        partition = data.draw(st.sampled_from(sorted(self.owned)))
        self.batcher.drop(partition)
        self.owned.discard(partition)
        self._back(partition)

    @rule(partition=st.integers(0, PARTITIONS - 1))
    def gain(self, partition: int) -> None:
        self.owned.add(partition)

    @rule()
    def rewind(self) -> None:
        self.batcher.clear()
        for partition in range(PARTITIONS):
            self._back(partition)

    def _back(self, partition: int) -> None:
        for lane in Lane:
            self.position[lane, partition] = self.taken[lane, partition]

    @invariant()
    def the_queue_is_bounded(self) -> None:
        for lane in Lane:
            assert self.batcher.waiting(lane) <= BOUNDS.rows * BATCHES_WAITING
        held = sum(self.position.values()) - sum(self.taken.values())
        assert held == sum(self.batcher.waiting(lane) for lane in Lane)

    @invariant()
    def it_can_always_go_on(self) -> None:
        if self.batcher.waiting(Lane.INTERACTIVE) == 0:
            assert self.batcher.room(Lane.INTERACTIVE) > 0


TestReplica = Replica.TestCase
TestReplica.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def offer(batcher: Batcher[str], name: str, partition: int, **more: int) -> None:
    lane = Lane(more.pop("lane", 0))
    batcher.offer(
        lane, partition, name, size=more.pop("size", 1), came_ms=more.pop("came_ms", 0), **more
    )


def test_the_partition_whose_head_is_due_first_goes_first() -> None:
    batcher: Batcher[str] = Batcher(Bounds(rows=2, bytes=100, bulk_rows=1))
    offer(batcher, "patient", 0)
    offer(batcher, "late", 1, due_ms=500)
    offer(batcher, "urgent", 2, due_ms=40)
    offer(batcher, "behind it", 2, due_ms=30)
    assert batcher.take(0) == ["urgent", "behind it"]
    assert batcher.take(0) == ["late", "patient"]


def test_without_a_deadline_nobody_waits_for_ever() -> None:
    batcher: Batcher[str] = Batcher(Bounds(rows=2, bytes=100, bulk_rows=1))
    offer(batcher, "patient", 0)
    for turn in range(30):
        now_ms = turn * 100
        offer(batcher, f"a{turn}", 1, due_ms=now_ms + 50, came_ms=now_ms)
        offer(batcher, f"b{turn}", 2, due_ms=now_ms + 50, came_ms=now_ms)
        if "patient" in batcher.take(now_ms):
            assert now_ms <= PATIENCE_MS
            return
    pytest.fail("it never came")


def test_a_batch_lingers_until_it_is_full_old_or_urgent() -> None:
    bounds = Bounds(rows=3, bytes=100, bulk_rows=1, linger_ms=20)
    batcher: Batcher[str] = Batcher(bounds)
    assert batcher.wait_ms(0) is None
    offer(batcher, "a", 0)
    assert batcher.wait_ms(0) == 20
    assert batcher.take(5) == []
    assert batcher.take(20) == ["a"]
    offer(batcher, "b", 0, came_ms=30, due_ms=50)
    assert batcher.wait_ms(30) == 10
    assert batcher.take(50) == ["b"]
    offer(batcher, "large", 0, came_ms=60, size=100)
    assert batcher.take(60) == ["large"]
    for name in "cde":
        offer(batcher, name, 0, came_ms=70)
    assert batcher.take(70) == ["c", "d", "e"]


def test_a_lane_without_a_row_is_refused() -> None:
    for bulk_rows in (0, 6):
        with pytest.raises(ValueError, match="bulk_rows"):
            Bounds(rows=6, bytes=1, bulk_rows=bulk_rows)
