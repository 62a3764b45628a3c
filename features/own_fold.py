"""What the rings do not hold yet, folded into them: the values that a request sees of its own entity. Pure.

Every event of such an entity lies in one partition, and rows of one tile come in the order of their events, so a tile whose
row says offset `o` holds exactly the entity's events of that tile up to `o`. Hence, tile by tile, and at whatever
parallelism of the job:

    what the request at offset `r` must see  =  the tile  ⊕  events with  tile's offset < offset ≤ r  and  time ≤ the request's

A tile is a sum and cannot be cut. Where one already holds events after `r`, or its head tile some later than the request's
instant, it is built anew from the remembered events if they are all its events; else the values are the tile's and the
row is marked `ahead`. All else is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.distinct import Block, hash_of, with_hash
from features.own_events import NOTHING, Key, Own, OwnEvent, OwnEvents
from features.ring import Records, stamp
from features.tiles import NEUTRAL, Bools, Floats, Ints
from features.views import Layout, Partial, PartialKind, View


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
