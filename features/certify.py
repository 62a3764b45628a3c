"""Does a view mean the same to every executor? Hostile streams through all of them, value by value.

Two questions are asked of each stream. *Exact*: as of any instant, with all events known, batch and reference must agree.
*Whole*: what a ring shows, whose head tile is whole, after the stream up to a cut; stream, batch and reference must agree.
The stream's part is given as tile rows, from wherever they come: the Flink job of the view, or `features.tile_stream`.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from features.batch import Head, asked_rows, compute
from features.hostile import Event, Key, Stream, stream
from features.reference import features_as_of
from features.ring import RingFormat
from features.row_events import events_of, table_of
from features.tile_row import KeyValue, TileRow
from features.tile_stream import TileStream
from features.tiles import Floats
from features.views import ColumnType, Layout, View

TOLERANCE = 1e-9
EXAMPLE_EVENTS_MAX = 20
Emitted = tuple[tuple[KeyValue, ...], TileRow]
# All events in order of arrival → the rows that a stream job gives for them.
Emitter = Callable[[View, Sequence[Event]], Iterable[Emitted]]
_ARROW: Mapping[ColumnType, pa.DataType] = {
    "double": pa.float64(),
    "bigint": pa.int64(),
    "string": pa.string(),
}


class Difference(NamedTuple):
    """One value on which executors do not agree, and the events of its key that its window can reach.

    Values are None for null; `stream` is None as well where `head` is "exact", which no ring is asked for.
    """

    view: str
    seed: int
    feature: str
    key: Key
    as_of_ms: int
    head: Head
    stream: float | None
    batch: float | None
    reference: float | None
    events: tuple[Event, ...]


class Verdict(NamedTuple):
    """What became of one view: how many values, how far apart at most, and the smallest of the differences."""

    view: str
    fingerprint: str
    seeds: int
    compared: int
    differences: int
    difference_max: float
    seconds: float
    smallest: Difference | None


def in_process(view: View, events: Sequence[Event]) -> Iterable[Emitted]:
    """The stream executor without an engine: an `Emitter`."""
    return TileStream(view).push_all(events_of(view, events))


def certify(view: View, seeds: Sequence[int], emit: Emitter = in_process) -> Verdict:
    """Compare all executors on the hostile streams of these seeds."""
    started = time.monotonic()
    streams = [stream(view, seed) for seed in seeds]
    rows = list(emit(view, [event for one in streams for event in one.events]))
    check = _Check(view)
    check.exact(streams)
    for layout in view.layouts:
        check.whole(layout, streams, rows)
    return Verdict(
        view.name,
        view.fingerprint,
        len(streams),
        check.compared,
        len(check.found),
        check.difference_max,
        time.monotonic() - started,
        min(check.found, key=lambda d: (len(d.events), d.seed), default=None),
    )


class _Check:
    """Collects what differs."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.compared = 0
        self.difference_max = 0.0
        self.found: list[Difference] = []

    def exact(self, streams: Sequence[Stream]) -> None:
        names = [a.name for a in self.view.aggregates]
        batch = _batch(self.view, names, streams, [one.events for one in streams], "exact")
        oracle = _oracle(self.view, streams, [one.events for one in streams], None)
        self._compare(names, streams, "exact", None, batch, oracle)

    def whole(self, layout: Layout, streams: Sequence[Stream], rows: Sequence[Emitted]) -> None:
        names = [a.name for a in self.view.aggregates if a.hop_s == layout.hop_s]
        kept = [_kept(one, layout) for one in streams]
        shown = [
            [e for e in one.events if e["event_time_ms"] // layout.hop_ms <= _cut(one, layout)]
            for one in streams
        ]
        ring = _rings(self.view, names, layout, kept, rows)
        batch = _batch(self.view, names, kept, shown, "whole")
        oracle = _oracle(_of_hop(self.view, layout), kept, shown, layout)
        self._compare(names, kept, "whole", ring, batch, oracle)

    def _compare(
        self,
        names: Sequence[str],
        streams: Sequence[Stream],
        head: Head,
        ring: Floats | None,
        batch: Floats,
        oracle: Floats,
    ) -> None:
        apart = _apart(batch, oracle)
        if ring is not None:
            apart = np.maximum(apart, _apart(ring, oracle))
        self.compared += apart.size * (2 if ring is not None else 1)
        self.difference_max = max(self.difference_max, float(apart.max(initial=0.0)))
        asked = [(one, key, at) for one in streams for key in one.keys for at in one.instants]
        for row, column in np.argwhere(apart > TOLERANCE).tolist():
            one, key, at = asked[row]
            feature = names[column]
            self.found.append(
                Difference(
                    self.view.name,
                    one.seed,
                    feature,
                    key,
                    at,
                    head,
                    None if ring is None else _plain(ring[row, column]),
                    _plain(batch[row, column]),
                    _plain(oracle[row, column]),
                    self._events(one, key, feature, at),
                )
            )

    def _events(self, one: Stream, key: Key, feature: str, at: int) -> tuple[Event, ...]:
        aggregate = self.view.aggregate(feature)
        since = at - (aggregate.window_s + 2 * aggregate.hop_s) * 1000
        until = at + aggregate.hop_s * 1000
        events = list(events_of(self.view, one.events))
        near = [e for e in _of_key(self.view, events, key) if since <= e["event_time_ms"] <= until]
        return tuple(sorted(near, key=lambda e: e["event_time_ms"])[:EXAMPLE_EVENTS_MAX])


def _cut(one: Stream, layout: Layout) -> int:
    return one.cut_ms // layout.hop_ms


def _kept(one: Stream, layout: Layout) -> Stream:
    """The instants that a ring of this hop still answers for after the cut: it forgets what is older."""
    longest = max(layout.tiles, 1)
    oldest = _cut(one, layout) - min(3, longest)
    instants = tuple(t for t in one.instants if t // layout.hop_ms >= oldest)
    return one._replace(instants=instants)


def _of_hop(view: View, layout: Layout) -> View:
    mine = tuple(a for a in view.aggregates if a.hop_s == layout.hop_s)
    return msgspec.structs.replace(view, aggregates=mine)


def _of_key(view: View, events: Iterable[Event], key: Key) -> list[Event]:
    names = [k.name for k in view.join_keys]
    return [e for e in events if tuple(e[name] for name in names) == key]


def _oracle(
    view: View, streams: Sequence[Stream], events: Sequence[Sequence[Event]], layout: Layout | None
) -> Floats:
    """The reference's values; with a layout as of the end of each instant's tile, where the head is whole."""
    names = [key.name for key in view.join_keys]
    # Row-level SQL once an event, not once an instant.
    after_sql = msgspec.structs.replace(view, row_sql=None)
    found = []
    for one, known in zip(streams, events, strict=True):
        rows = list(events_of(view, known))
        for key in one.keys:
            mine, entity = _of_key(view, rows, key), dict(zip(names, key, strict=True))
            for at in one.instants:
                as_of = at if layout is None else (at // layout.hop_ms + 1) * layout.hop_ms - 1
                values = features_as_of(after_sql, mine, entity, as_of)
                found.append([values[a.name] for a in view.aggregates])
    return _matrix(found, len(view.aggregates))


def _batch(
    view: View,
    names: Sequence[str],
    streams: Sequence[Stream],
    events: Sequence[Sequence[Event]],
    head: Head,
) -> Floats:
    asked = [(key, at) for one in streams for key in one.keys for at in one.instants]
    entities = pa.table(
        {
            "event_time_ms": pa.array([at for _, at in asked], pa.int64()),
            **{
                join.name: pa.array([key[n] for key, _ in asked], _ARROW[join.type])
                for n, join in enumerate(view.join_keys)
            },
        }
    )
    known = table_of(view, lake_rows(view, [event for one in events for event in one]))
    values = compute(view, names, known, asked_rows(view, entities), head)
    columns = [values[name].to_numpy(zero_copy_only=False) for name in names]
    return np.column_stack(columns).astype(float) if columns else np.empty((len(asked), 0))


def lake_rows(view: View, events: Sequence[Event]) -> pa.Table:
    """Events as the lake would hold them."""
    schema = pa.schema(
        {key.name: _ARROW[key.type] for key in view.join_keys}
        | {name: _ARROW[kind] for name, kind in view.source_columns.items()}
        | {view.event_id_field: pa.string(), "event_time_ms": pa.int64()}
        | {"ingest_ms": pa.int64(), "kafka_partition": pa.int32(), "kafka_offset": pa.int64()}
    )
    placed: list[dict[str, Any]] = [
        {**event, "ingest_ms": event["event_time_ms"], "kafka_partition": 0, "kafka_offset": place}
        for place, event in enumerate(events)
    ]
    return pa.Table.from_pylist(placed, schema=schema)


def _rings(
    view: View,
    names: Sequence[str],
    layout: Layout,
    streams: Sequence[Stream],
    rows: Sequence[Emitted],
) -> Floats:
    """What the materializer's rings show when rows come twice and in any order."""
    of_key: dict[Key, list[TileRow]] = defaultdict(list)
    for key, row in rows:
        if row.hop_s == layout.hop_s:
            of_key[key].append(row)
    fmt = RingFormat(view)
    found = [np.empty((0, len(names)))]
    for one in streams:
        dice = random.Random(one.seed)
        records = fmt.empty(len(one.keys))
        since = one.since_ms // layout.hop_ms
        for place, key in enumerate(one.keys):
            mine = [r for r in of_key[key] if since <= r.tile <= _cut(one, layout)]
            twice = mine + dice.choices(mine, k=len(mine)) if mine else []
            dice.shuffle(twice)
            fmt.apply(records, place, twice)
        places = np.repeat(np.arange(len(one.keys)), len(one.instants))
        as_of = np.tile(np.array(one.instants, dtype=np.int64), len(one.keys))
        found.append(fmt.evaluate(records, places, as_of, names))
    return np.concatenate(found)


def _matrix(rows: Sequence[Sequence[float | None]], width: int) -> Floats:
    plain = [[np.nan if value is None else float(value) for value in row] for row in rows]
    return np.array(plain, dtype=float).reshape(len(rows), width)


def _apart(one: Floats, two: Floats) -> Floats:
    """The relative difference of each value; null against a value is infinitely far."""
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = np.abs(one - two) / np.maximum(np.abs(one), np.abs(two))
    same = (one == two) | (np.isnan(one) & np.isnan(two))
    return np.where(same, 0.0, np.where(np.isnan(distance), np.inf, distance))


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
