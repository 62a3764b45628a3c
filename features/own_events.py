"""Reading your own event: what a scorer has consumed, remembered as long as the rings may not hold it. Pure.

Where a request is itself a feature event, the scorer that owns its partition sees it some milliseconds before the stream
job has put it into a ring. What it remembers is folded into the rings it reads (`features.own_fold`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from features.tile_row import KeyValue
from features.tiles import Ints
from features.views import View

# Remembered even where the rings hold them: rows of a job with several subtasks may overtake each other, and what is
# below the newest thousand of a partition has left every buffer between them.
ROWS_KEPT = 1_000
# At 250 events a second and partition, the stream job may stand still for 40 s before anything must be marked.
ROWS_MAX = 10_000
# Below every offset: nothing needs to have been applied.
NOTHING = -1

Key = tuple[KeyValue, ...]


class OwnEvent(NamedTuple):
    """One consumed event: its offset in the request topic, and the columns that views read."""

    offset: int
    event_time_ms: int
    values: Mapping[str, Any]


class _Memory:
    """What is remembered of one partition, oldest first."""

    def __init__(self, floor: int, after: int) -> None:
        self.events: deque[OwnEvent] = deque()
        self.floor = floor
        self.after = after


class OwnEvents:
    """The events of the partitions that one scorer owns, in the order in which it consumed them. Not for sharing.

    Args:
        views: Views of a service; those without `origin_offsets` are left out.
        rows_max: The most that is remembered of a partition.
        rows_kept: The newest of a partition that are kept although the rings hold them.
    """

    def __init__(
        self, views: Iterable[View], *, rows_max: int = ROWS_MAX, rows_kept: int = ROWS_KEPT
    ) -> None:
        self.views = tuple(view for view in views if view.origin_offsets)
        self._keys = {v.name: tuple(k.name for k in v.join_keys) for v in self.views}
        read = {name for v in self.views for name in (*v.columns, *self._keys[v.name])}
        self._columns = tuple(sorted(read | {v.event_id_field for v in self.views}))
        self._rows_max, self._rows_kept = rows_max, rows_kept
        self._of: dict[int, _Memory] = {}
        self._index: dict[str, dict[Key, deque[OwnEvent]]] = {v.name: {} for v in self.views}

    def follows(self, partition: int, offset: int) -> bool:
        """Whether a record at `offset` leaves no hole after what is remembered; a repeated one does not either."""
        memory = self._of.get(partition)
        return memory is not None and offset <= memory.after

    def begin(self, partition: int, after: int, *, whole: bool) -> None:
        """Forget the partition and remember from `after` on.

        Args:
            partition: One that was taken over.
            after: The first offset that will be observed.
            whole: Whether there never was an event before it.
        """
        self.forget([partition])
        self._of[partition] = _Memory(NOTHING if whole else after, after)

    def observe(self, partition: int, offset: int, event: Any) -> None:  # noqa: ANN401 - a contract's
        """Remember one accepted event, in the order of offsets; one that was observed before changes nothing."""
        memory = self._of[partition]
        if offset < memory.after:
            return
        memory.after = offset + 1
        values = {name: getattr(event, name) for name in self._columns}
        own = OwnEvent(offset, event.event_time_ms, values)
        memory.events.append(own)
        for view, key in self._places(own):
            self._index[view].setdefault(key, deque()).append(own)
        if len(memory.events) > self._rows_max:
            self._drop(memory)

    def passed(self, partition: int, offset: int) -> None:
        """Note that everything up to `offset` was consumed, although it may hold no event."""
        memory = self._of[partition]
        memory.after = max(memory.after, offset + 1)

    def settled(self, partition: int, progress: int) -> bool:
        """Whether rings that have come as far as `progress` hold everything that is not remembered.

        Before a partition's first own event its floor is that event's place itself: a progress beyond it proves that all
        before it was applied, wherever the last one lay.
        """
        memory = self._of.get(partition)
        return memory is not None and progress >= memory.floor

    def prune(self, partition: int, progress: int) -> None:
        """Forget what the rings hold, but for the newest."""
        memory = self._of.get(partition)
        while (
            memory and len(memory.events) > self._rows_kept and memory.events[0].offset <= progress
        ):
            self._drop(memory)

    def forget(self, partitions: Collection[int]) -> None:
        """Forget partitions that another owner may have gone on with."""
        for partition in partitions:
            memory = self._of.pop(partition, None)
            while memory and memory.events:
                self._drop(memory)

    @property
    def partitions(self) -> frozenset[int]:
        """Those that are remembered."""
        return frozenset(self._of)

    def __len__(self) -> int:
        return sum(len(memory.events) for memory in self._of.values())

    def of(self, view: str, key: Key) -> Collection[OwnEvent]:
        """The remembered events of one entity, oldest first."""
        return self._index[view].get(key, ())

    def _places(self, own: OwnEvent) -> Iterable[tuple[str, Key]]:
        for view, names in self._keys.items():
            key = tuple(own.values[name] for name in names)
            if None not in key:
                yield view, key

    def _drop(self, memory: _Memory) -> None:
        oldest = memory.events.popleft()
        memory.floor = max(memory.floor, oldest.offset)
        for view, key in self._places(oldest):
            mine = self._index[view][key]
            mine.popleft()
            if not mine:
                del self._index[view][key]


class Own(NamedTuple):
    """Where the requests of a batch stand, and what was consumed up to them: `partitions`, `offsets` are `[rows]`."""

    events: OwnEvents
    partitions: Ints
    offsets: Ints
