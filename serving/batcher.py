"""Which of the requests that wait make the next batch (pure; the clock is an argument).

Two lanes. The interactive one goes first; the bulk one takes what is left, and never less than its share while it waits.
Within a lane the partition whose head is due first goes first; within a partition nothing overtakes, because a key's order
and Kafka's offsets both depend on it.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from itertools import count
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

# A request without a deadline is ordered as if it were due so long after it came: else those that have one could keep it
# waiting for ever.
PATIENCE_MS = 1_000
# As many batches as may wait in memory, in each lane. What is more stays in the log.
BATCHES_WAITING = 2


class Lane(IntEnum):
    """The order in which lanes are served."""

    INTERACTIVE = 0
    BULK = 1


@dataclass(frozen=True)
class Bounds:
    """Of one batch.

    Attributes:
        rows: At most.
        bytes: At most, and one record a lane more: the head of a lane is never too large.
        bulk_rows: Of them, for bulk requests that wait while interactive ones do too. Every batch has at least one of them,
            so the n-th of them in their order is in one of the next n batches, whatever comes on the other lane.
        linger_ms: How long the oldest request may wait for others to come; 0 takes what is there.
    """

    rows: int
    bytes: int
    bulk_rows: int
    linger_ms: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.bulk_rows < self.rows:
            raise ValueError(f"bulk_rows {self.bulk_rows} of {self.rows}: each lane needs a row")


class _Waiting(NamedTuple, Generic[T]):
    record: T
    size: int
    came_ms: int
    due_ms: int | None
    # By which partitions are ordered: when its head is due, then which came first.
    rank: tuple[int, int]


class Batcher(Generic[T]):
    """Requests that were consumed and are in no batch yet; bounded by `room`, which the caller asks before it polls."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._queues: dict[Lane, dict[int, deque[_Waiting[T]]]] = {lane: {} for lane in Lane}
        self._came = count()

    def waiting(self, lane: Lane) -> int:
        """Requests of a lane."""
        return sum(map(len, self._queues[lane].values()))

    def room(self, lane: Lane) -> int:
        """How many more a lane may hold; at 0 its consumption pauses, and requests wait in the log."""
        rows = self._rows(lane)
        return max(0, rows * BATCHES_WAITING - self.waiting(lane))

    def offer(
        self,
        lane: Lane,
        partition: int,
        record: T,
        *,
        size: int,
        came_ms: int,
        due_ms: int | None = None,
    ) -> None:
        """One more request, later in its partition than all before it.

        Args:
            lane: Where it came from.
            partition: Its place; both lanes of a partition belong to one key space.
            record: Handed back by `take`.
            size: Bytes.
            came_ms: When it was consumed.
            due_ms: Its deadline; None if it has none.
        """
        latest_ms = came_ms + PATIENCE_MS
        rank = (latest_ms if due_ms is None else min(due_ms, latest_ms), next(self._came))
        waiting = _Waiting(record, size, came_ms, due_ms, rank)
        self._queues[lane].setdefault(partition, deque()).append(waiting)

    def drop(self, partition: int) -> None:
        """Forget a partition: it was lost, or is set back, and its records come again from the log."""
        for queues in self._queues.values():
            queues.pop(partition, None)

    def clear(self) -> None:
        """Forget everything, as `drop` does."""
        for queues in self._queues.values():
            queues.clear()

    def wait_ms(self, now_ms: int) -> int | None:
        """How long until there is a batch: 0 now, None never as things stand."""
        heads = [queue[0] for queues in self._queues.values() for queue in queues.values()]
        if not heads:
            return None
        first_ms = min(head.came_ms for head in heads) + self._bounds.linger_ms
        if first_ms <= now_ms or self._full():
            return 0
        due = [head.due_ms for head in heads if head.due_ms is not None]
        # Who lingers past half of what a deadline leaves has not left the other half to answer in.
        halfway_ms = min(((now_ms + at_ms) // 2 for at_ms in due), default=first_ms)
        return max(0, min(first_ms, halfway_ms) - now_ms)

    def take(self, now_ms: int) -> list[T]:
        """The next batch, each partition's in its order; empty while it pays to wait."""
        if self.wait_ms(now_ms) != 0:
            return []
        bounds = self._bounds
        bulk_waits = self.waiting(Lane.BULK)
        kept_rows = min(bounds.bulk_rows, bulk_waits)
        kept_bytes = bounds.bytes * kept_rows // bounds.rows
        first = self._pick(Lane.INTERACTIVE, bounds.rows - kept_rows, bounds.bytes - kept_bytes)
        if not first:
            return self._pick(Lane.BULK, bounds.rows, bounds.bytes)
        return first + self._pick(Lane.BULK, kept_rows, kept_bytes)

    def _pick(self, lane: Lane, rows: int, size_max: int) -> list[T]:
        queues = self._queues[lane]
        heads = [(queue[0].rank, partition) for partition, queue in queues.items()]
        heapq.heapify(heads)
        picked: list[T] = []
        size = 0
        while heads and len(picked) < rows:
            _, partition = heads[0]
            queue = queues[partition]
            size += queue[0].size
            if picked and size > size_max:
                break
            picked.append(queue.popleft().record)
            if queue:
                heapq.heapreplace(heads, (queue[0].rank, partition))
            else:
                heapq.heappop(heads)
                del queues[partition]
        return picked

    def _full(self) -> bool:
        bounds = self._bounds
        waiting = [w for queues in self._queues.values() for q in queues.values() for w in q]
        return len(waiting) >= bounds.rows or sum(w.size for w in waiting) >= bounds.bytes

    def _rows(self, lane: Lane) -> int:
        return self._bounds.rows if lane is Lane.INTERACTIVE else max(1, self._bounds.rows // 2)
