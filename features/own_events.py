"""Reading your own event: what a scorer has consumed and the rings do not hold yet, folded into them. Pure.

Where a request is itself a feature event, the scorer that owns its partition sees it some milliseconds before the stream
job has put it into a ring. Every event of such an entity lies in one partition, and rows of one tile come in the order of
their events, so a tile whose row says offset `o` holds exactly the entity's events of that tile up to `o`. Hence, tile
by tile, and at whatever parallelism of the job:

    what the request at offset `r` must see  =  the tile  ⊕  events with  tile's offset < offset ≤ r  and  time ≤ the request's

A tile is a sum and cannot be cut. Where one already holds events after `r`, or its head tile some later than the request's
instant, it is built anew from the remembered events if they are all its events; else the values are the tile's and the
row is marked `ahead`. All else is exact.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.distinct import Block, hash_of, with_hash
from features.ring import Records, stamp
from features.tile_row import KeyValue
from features.tiles import NEUTRAL, Bools, Floats, Ints
from features.views import Layout, Partial, PartialKind, View

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


class Pairs(NamedTuple):
    """Which event is folded into which row: both alike long, in the order of offsets within a row."""

    rows: Ints
    events: Sequence[OwnEvent]


def pairs(view: View, keys: Sequence[Key | None], own: Own, as_of_ms: Ints) -> Pairs:
    """The events that each row must see and its ring may lack; a row without an entity gets none."""
    rows: list[int] = []
    events: list[OwnEvent] = []
    bounds = zip(keys, own.offsets.tolist(), as_of_ms.tolist(), strict=True)
    for row, (key, offset, instant_ms) in enumerate(bounds):
        if key is None:
            continue
        for event in own.events.of(view.name, key):
            if event.offset <= offset and event.event_time_ms <= instant_ms:
                rows.append(row)
                events.append(event)
    return Pairs(np.array(rows, dtype=np.int64), events)


def settle(
    view: View, records: Records, keys: Sequence[Key | None], own: Own, as_of_ms: Ints
) -> Bools:
    """Undo what the rings hold too much of, where that can be done; returns the rows where it cannot, before the fold.

    A tile that holds an event after the request, or one later than its instant, is emptied if every event in it is remembered,
    so that the fold builds it anew up to the request. As many remembered as counted are the same events, for both lie
    in the tile and up to its offset.
    """
    marked: Bools = np.zeros(len(records), dtype=bool)
    for layout in view.layouts:
        index = records[f"tile_{layout.hop_s}"]
        offset = records[f"offset_{layout.hop_s}"]
        head = (as_of_ms // layout.hop_ms)[:, None]
        tail = head - max(a.tiles for a in view.aggregates if a.hop_s == layout.hop_s)
        after = (index > tail) & (index <= head) & (offset > own.offsets[:, None])
        later = (index == head) & (records[f"clock_{layout.hop_s}"] > as_of_ms[:, None])
        evicted = (index > head) & (index - layout.tiles > tail)
        marked |= evicted.any(axis=1)
        known: dict[tuple[Key | None, int], int] = {}
        for row, slot in np.argwhere(after | later).tolist():
            place = (keys[row], int(index[row, slot]))
            if place not in known:
                known[place] = _remembered(view, layout, own.events, place, offset[row, slot])
            if known[place] == records[f"n_{layout.hop_s}"][row, slot]:
                _empty(layout, records, np.array([row]), np.array([slot]))
            else:
                marked[row] = True
    return marked


def _remembered(
    view: View, layout: Layout, events: OwnEvents, place: tuple[Key | None, int], offset: int
) -> int:
    """How many events of an entity's tile, up to an offset, are remembered."""
    key, tile = place
    return sum(
        event.event_time_ms // layout.hop_ms == tile and event.offset <= offset
        for event in (events.of(view.name, key) if key is not None else ())
    )


def fold(view: View, records: Records, given: Pairs, as_of_ms: Ints) -> None:
    """Fold events into rings, in place; an event that its tile holds already changes nothing.

    Args:
        view: One with `origin_offsets`.
        records: One ring a row, of the row's own.
        given: What to fold.
        as_of_ms: `[rows]`, the instant of each row.
    """
    if not given.events:
        return
    times = np.array([event.event_time_ms for event in given.events], dtype=np.int64)
    offsets = np.array([event.offset for event in given.events], dtype=np.int64)
    for layout in view.layouts:
        chosen = _opened(layout, records, given.rows, times, offsets, as_of_ms)
        if not chosen.size:
            continue
        rows, slots = given.rows[chosen], times[chosen] // layout.hop_ms % layout.tiles
        events = [given.events[i] for i in chosen]
        np.add.at(records[f"n_{layout.hop_s}"], (rows, slots), 1)
        partials = records[f"partials_{layout.hop_s}"]
        stamped = 0
        _fold_sets(layout, records, (rows, slots), events)
        for position, partial in enumerate(layout.partials):
            if partial.kind == "distinct":
                continue
            column, present = _column(events, partial)
            if partial.kind in ("first", "last"):
                stamps = records[f"stamp_{layout.hop_s}"][:, stamped]
                stamped += 1
                at = zip(rows.tolist(), slots.tolist(), strict=True)
                marks = [stamp(e.event_time_ms, e.values[view.event_id_field]) for e in events]
                values = zip(marks, column.tolist(), strict=True)
                _outermost(partial.kind, partials[:, position], stamps, at, values)
            else:
                _merge(partial.kind, partials[:, position], (rows, slots), column, present)
    np.maximum.at(records["clock_ms"], given.rows, times)


def _opened(
    layout: Layout, records: Records, rows: Ints, times: Ints, offsets: Ints, as_of_ms: Ints
) -> Ints:
    """Which events their tiles lack; makes room for those whose tile the ring has not got."""
    tiles = times // layout.hop_ms
    slots = tiles % layout.tiles
    hop = layout.hop_s
    held = records[f"tile_{hop}"][rows, slots]
    # A tile so old that its slot belongs to one nearer the head is in no window.
    near = tiles > as_of_ms[rows] // layout.hop_ms - layout.tiles
    new = near & (held < tiles)
    at = (rows[new], slots[new])
    records[f"tile_{hop}"][at] = tiles[new]
    _empty(layout, records, *at)
    chosen: Ints = np.flatnonzero(
        near & (held <= tiles) & (offsets > records[f"offset_{hop}"][rows, slots])
    )
    return chosen


def _empty(layout: Layout, records: Records, rows: Ints, slots: Ints) -> None:
    """Leave a slot its tile, and nothing in it."""
    hop = layout.hop_s
    records[f"n_{hop}"][rows, slots] = 0
    records[f"offset_{hop}"][rows, slots] = NOTHING
    neutral = np.array([NEUTRAL[p.kind] for p in layout.partials])
    records[f"partials_{hop}"][rows, :, slots] = neutral
    if any(p.kind in ("first", "last") for p in layout.partials):
        records[f"stamp_{hop}"][rows, :, slots] = b""
    if layout.distinct:
        records[f"blocks_{hop}"][rows, :, slots] = 0


def _fold_sets(
    layout: Layout, records: Records, at: tuple[Ints, Ints], events: Sequence[OwnEvent]
) -> None:
    """Put each event's values into its tile's sets."""
    for place, partial in enumerate(layout.distinct):
        position = layout.partials.index(partial)
        sizes = records[f"partials_{layout.hop_s}"][:, position]
        blocks = records[f"blocks_{layout.hop_s}"][:, place]
        for row, slot, event in zip(at[0].tolist(), at[1].tolist(), events, strict=True):
            value = event.values[partial.column]
            if value is None:
                continue
            held = Block(int(sizes[row, slot]), blocks[row, slot].tobytes())
            grown = with_hash(held, hash_of(value))
            if grown is not held:
                sizes[row, slot] = grown.size
                blocks[row, slot] = np.frombuffer(grown.content, np.uint8)


def _column(events: Sequence[OwnEvent], partial: Partial) -> tuple[Floats, Bools]:
    raw = [event.values[partial.column] for event in events]
    present = np.array([value is not None for value in raw])
    if partial.kind == "count":
        return present.astype(float), present
    return np.array([np.nan if value is None else float(value) for value in raw]), present


def _merge(
    kind: PartialKind, held: Floats, at: tuple[Ints, Ints], column: Floats, present: Bools
) -> None:
    match kind:
        case "count":
            np.add.at(held, at, column)
        case "sum":
            np.add.at(held, at, np.where(present, column, 0.0))
        case "sumsq":
            np.add.at(held, at, np.where(present, column * column, 0.0))
        case "min":
            np.fmin.at(held, at, column)
        case "max":
            np.fmax.at(held, at, column)


def _outermost(
    kind: PartialKind,
    held: Floats,
    stamps: NDArray[np.bytes_],
    at: Iterable[tuple[int, int]],
    given: Iterable[tuple[bytes, float]],
) -> None:
    """The first or last non-null value by time and event id, as the stream job orders them."""
    for (row, slot), (stamped, value) in zip(at, given, strict=True):
        known = bytes(stamps[row, slot])
        wins = stamped < known if kind == "first" else stamped > known
        if value == value and (not known or wins):  # noqa: PLR0124 - not NaN
            stamps[row, slot], held[row, slot] = stamped, value
