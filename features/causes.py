"""Why a served value differs from its recomputation: which set of events would have given it.

What a ring showed at a read is every event of the window's tiles, head tile whole, that had arrived by then, less a suffix
of each source partition that was still under way, less tiles that newer ones had overwritten. The search asks which
such set gives the served value, and calls the difference by what the set has too many or too few.

For each source partition the partial aggregates after every arrival are made once (a prefix each), and two
partitions' prefixes are merged by broadcasting, so that one value takes microseconds per candidate, not a scan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, product
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from features.distinct import Hashes, count_of, hash_of
from features.tiles import Bools, Floats, Ints, variance
from features.views import Aggregate, Layout, PartialKind, View

Cause = Literal["equal", "in_flight", "ahead", "late", "expired", "definition", "unexplained"]
CAUSES: tuple[Cause, ...] = (
    "equal",
    "in_flight",
    "ahead",
    "late",
    "expired",
    "definition",
    "unexplained",
)
NO_COORDINATE = -1
# Each is one more search of a value that is unexplained so far; a ring that is overtaken loses a few tiles.
ALTERNATIVES_MAX = 64


class Read(NamedTuple):
    """One row that was served: for which entity, as of when, read when, and the stream's clock then."""

    key: tuple[object, ...]
    as_of_ms: int
    read_at_ms: int
    clock_ms: int


class Arrivals(NamedTuple):
    """One partition's events of a window in order of arrival, as positions in the window.

    The first `sure` had arrived for certain.
    """

    position: Ints
    sure: int

    def after(self, kind: PartialKind, values: Floats) -> Floats:
        """A partial after `sure`, `sure + 1`, … all arrivals; `first` and `last` as positions in the window."""
        x = values[self.position]
        unknown = np.isnan(x)
        match kind:
            case "count":
                return self._running(np.add, 0.0, (~unknown).astype(float))
            case "sum":
                return self._running(np.add, 0.0, np.where(unknown, 0.0, x))
            case "sumsq":
                return self._running(np.add, 0.0, np.where(unknown, 0.0, x * x))
            case "min":
                return self._running(np.fmin, np.nan, x)
            case "max":
                return self._running(np.fmax, np.nan, x)
        rank = np.where(unknown, np.nan, self.position)
        return self._running(np.fmin if kind == "first" else np.fmax, np.nan, rank)

    def _running(self, of: np.ufunc, start: float, steps: Floats) -> Floats:
        running: Floats = of.accumulate(np.concatenate(([start], steps)))
        return running[self.sure :]


class EventIndex:
    """A view's events, found by key and time. NaN and null count as null."""

    def __init__(self, view: View, events: pa.Table) -> None:
        keys = list(zip(*(events[k.name].to_pylist() for k in view.join_keys), strict=True))
        codes: dict[tuple[object, ...], int] = {}
        code = np.array([codes.setdefault(key, len(codes)) for key in keys], dtype=np.int64)
        ts = _ints(events, "event_time_ms")
        identity = np.array(events[view.event_id_field].to_pylist(), dtype=str)
        order = np.lexsort((identity, ts, code)) if len(ts) else np.array([], dtype=np.int64)
        self.ts, self.seen = ts[order], _ints(events, "ingest_ms")[order]
        self.partition = _coordinate(events, "kafka_partition")[order]
        self.offset = _coordinate(events, "kafka_offset")[order]
        self.columns = {
            name: _floats(events, name, kind)[order] for name, kind in view.columns.items()
        }
        self.hashes = {a.column: _hashes(events, a.column)[order] for a in _distinct(view)}
        sorted_codes = code[order]
        starts = np.searchsorted(sorted_codes, np.arange(len(codes)), "left")
        ends = np.searchsorted(sorted_codes, np.arange(len(codes)), "right")
        self._range = {key: (int(starts[c]), int(ends[c])) for key, c in codes.items()}

    def between(self, key: tuple[object, ...], since_ms: int, before_ms: int) -> slice:
        """A key's events of an interval, ordered by time and then by event id."""
        start, end = self._range.get(key, (0, 0))
        first, last = np.searchsorted(self.ts[start:end], (since_ms, before_ms), "left")
        return slice(start + int(first), start + int(last))


class Window:
    """What one read saw of one window; shared by all aggregates over that window.

    Attributes:
        found: Where the window's events lie in the index, head tile whole.
        arrivals: One list a source partition; positions are those within `found`.
        overwritten: Which events' tiles newer ones had taken the slots of.
        alternatives: What else `overwritten` may have been, where events that overwrite may still have been under way;
            the fewest of those first.
    """

    def __init__(
        self,
        index: EventIndex,
        layout: Layout,
        tiles: int,
        read: Read,
        budget_ms: int,
        overwritten: Bools | None = None,
    ) -> None:
        surely_ms = read.read_at_ms - budget_ms
        hop_ms = layout.hop_ms
        head = read.as_of_ms // hop_ms
        self.found = index.between(read.key, (head - tiles + 1) * hop_ms, (head + 1) * hop_ms)
        ts, seen = index.ts[self.found], index.seen[self.found]
        self.overwritten = np.zeros(len(ts), dtype=bool)
        self.alternatives: list[Bools] = []
        if overwritten is not None:
            self.overwritten = overwritten
        # Nothing later than the stream's clock had arrived, so most reads need not look for what overwrote tiles.
        elif read.clock_ms // hop_ms > head - tiles + layout.tiles:
            later = index.between(read.key, (head + 1) * hop_ms, read.clock_ms + 1)
            self.overwritten, *self.alternatives = overwritings(
                ts // hop_ms,
                Overwriters.of(index, later, hop_ms, read.read_at_ms),
                layout.tiles,
                surely_ms,
            )
        held = np.flatnonzero((seen <= read.read_at_ms) & ~self.overwritten)
        # Events of one transaction share a millisecond: within a partition their offsets say which came first.
        held = held[np.lexsort((index.offset[self.found][held], seen[held]))]
        self.arrivals = _arrivals(held, seen[held], index.partition[self.found][held], surely_ms)
        self.due = ts <= read.as_of_ms
        self.behind = ts + hop_ms < read.clock_ms


def cause_of(
    index: EventIndex, window: Window, aggregate: Aggregate, served: float, tolerance: float
) -> Cause:
    """The cause of one unequal value; "unexplained" where no set of events gives it."""
    values = index.columns[aggregate.column][window.found]
    if aggregate.function == "count_distinct":
        candidates = _distinct_counts(
            window.arrivals, values, index.hashes[aggregate.column][window.found]
        )
    else:
        candidates = _values(window.arrivals, values, aggregate)
    visible = _visible(window.arrivals, candidates, served, tolerance)
    if visible is None:
        return "unexplained"
    shown = np.zeros(len(values), dtype=bool)
    shown[visible] = True
    usable = ~np.isnan(values)
    missing = ~shown & window.due & usable
    if (missing & window.overwritten).any():
        return "expired"
    if (missing & window.behind).any():
        return "late"
    if (shown & ~window.due & usable).any():
        return "ahead"
    return "in_flight" if missing.any() else "unexplained"


class Overwriters(NamedTuple):
    """Events later than a window that had arrived by the read: their tiles, in order of arrival a partition."""

    tile: Ints
    seen: Ints
    partition: Ints

    @classmethod
    def of(cls, index: EventIndex, later: slice, hop_ms: int, read_at_ms: int) -> Overwriters:
        """Those of the interval; events of one transaction share a millisecond, and offsets order them."""
        order = np.lexsort((index.offset[later], index.seen[later]))
        order = order[index.seen[later][order] <= read_at_ms]
        tile = index.ts[later] // hop_ms
        return cls(tile[order], index.seen[later][order], index.partition[later][order])


def overwritings(tiles: Ints, later: Overwriters, capacity: int, surely_ms: int) -> Iterator[Bools]:
    """Which events' tiles had lost their slots: the most first, then as if fewer of the contested had arrived.

    A partition's events arrive in order, so what had arrived of each is a prefix; only prefixes that differ in a tile
    of the window are told apart, or there would be one for every event of a fast replay.

    Args:
        tiles: The tile of each event of the window.
        later: What may have overwritten them.
        capacity: Slots of the ring.
        surely_ms: What was ingested until then had arrived for certain.
    """
    cuts, firsts = [], []
    for partition in np.unique(later.partition).tolist():
        mine = np.flatnonzero(later.partition == partition)
        first = _first_overwriters(tiles, later.tile[mine], capacity)
        contested = np.unique(first[first < len(mine)])
        contested = contested[later.seen[mine][contested] > surely_ms]
        # Arrived up to, and without, the first overwriter of some tile; or all of them.
        cuts.append([len(mine), *contested[::-1].tolist()])
        firsts.append(first)
    prefixes = sorted(product(*cuts), key=sum, reverse=True)
    for lengths in islice(prefixes, ALTERNATIVES_MAX):
        lost = np.zeros(len(tiles), dtype=bool)
        for first, length in zip(firsts, lengths, strict=True):
            lost |= first < length
        yield lost


def _first_overwriters(tiles: Ints, later: Ints, capacity: int) -> Ints:
    """For each event of the window, the place in `later` of the first that takes its tile's slot; len(later) if none."""
    takes = (later[None, :] > tiles[:, None]) & ((later[None, :] - tiles[:, None]) % capacity == 0)
    return np.where(takes.any(axis=1), takes.argmax(axis=1), len(later)).astype(np.int64)


def _visible(
    arrivals: Sequence[Arrivals], candidates: Floats, served: float, tolerance: float
) -> Ints | None:
    """Positions of the events that give the served value, as many as can be; None if no set does."""
    matches = np.argwhere(equal(candidates, np.float64(served), tolerance))
    if not len(matches):
        return None
    best = matches[np.argmax(matches.sum(axis=1))]
    return np.concatenate(
        [a.position[: a.sure + extra] for a, extra in zip(arrivals, best, strict=True)]
    )


def _arrivals(held: Ints, seen: Ints, partition: Ints, surely_ms: int) -> list[Arrivals]:
    """The window's events, given in order of arrival, by source partition: one or two lists.

    Prefixes of three and more partitions multiply beyond use; those share one order of arrival.
    """
    parts = [np.arange(len(held))]
    if len(held) and (partition != partition[0]).any():
        one, *others = np.unique(partition)
        if len(others) == 1:
            parts = [np.flatnonzero(partition == one), np.flatnonzero(partition != one)]
    return [
        Arrivals(held[part], int(np.searchsorted(seen[part], surely_ms, "right"))) for part in parts
    ]


def _values(arrivals: Sequence[Arrivals], values: Floats, aggregate: Aggregate) -> Floats:
    """The aggregate for every prefix, or every pair of prefixes: one axis a list."""

    def part(kind: PartialKind) -> Floats:
        one, *other = [a.after(kind, values) for a in arrivals]
        merge = {"min": np.fmin, "first": np.fmin, "max": np.fmax, "last": np.fmax}.get(
            kind, np.add
        )
        return merge.outer(one, other[0]) if other else one

    with np.errstate(divide="ignore", invalid="ignore"):
        match aggregate.function:
            case "mean":
                return part("sum") / part("count")
            case "var":
                return variance(part("count"), part("sum"), part("sumsq"))
            case "std":
                return np.sqrt(variance(part("count"), part("sum"), part("sumsq")))
            case "first" | "last" as kind:
                return _at(values, part(kind))
            case "count_distinct":
                raise ValueError("distinct values have no running partial: _distinct_counts")
            case simple:
                return part(simple)


def _distinct_counts(arrivals: Sequence[Arrivals], values: Floats, hashes: Hashes) -> Floats:
    """The count of distinct values for every prefix, or every pair of prefixes: one axis a list."""

    def grown(first: frozenset[int], one: Arrivals) -> Iterator[frozenset[int]]:
        known = [hashes[p] if not np.isnan(values[p]) else None for p in one.position]
        held = first | {int(h) for h in known[: one.sure] if h is not None}
        yield held
        for h in known[one.sure :]:
            held = held if h is None else held | {int(h)}
            yield held

    one, *other = arrivals
    rows = list(grown(frozenset(), one))
    if not other:
        return np.array([count_of(held) for held in rows])
    return np.array([[count_of(held) for held in grown(row, other[0])] for row in rows])


def _at(values: Floats, rank: Floats) -> Floats:
    padded = np.append(values, np.nan)
    return padded[np.where(np.isnan(rank), len(values), rank).astype(np.int64)]


def equal(one: Floats, two: Floats | np.float64, tolerance: float) -> Bools:
    """Equal within a relative tolerance; null equals null."""
    with np.errstate(invalid="ignore"):
        close = np.abs(one - two) <= tolerance * np.maximum(np.abs(one), np.abs(two))
    return close | (np.isnan(one) & np.isnan(two))


def clock_at(events: pa.Table, read_at_ms: Ints) -> Ints:
    """The stream's clock at each read: the latest event time that had been ingested; −1 before the first."""
    seen, ts = _ints(events, "ingest_ms"), _ints(events, "event_time_ms")
    order = np.argsort(seen, kind="stable")
    latest = np.concatenate([[-1], np.maximum.accumulate(ts[order])]) if len(ts) else np.array([-1])
    clock: Ints = latest[np.searchsorted(seen[order], read_at_ms, "right")]
    return clock


def _ints(events: pa.Table, name: str) -> Ints:
    column: Ints = events[name].to_numpy().astype(np.int64)
    return column


def _coordinate(events: pa.Table, name: str) -> Ints:
    """A Kafka coordinate; history that never went through Kafka has none."""
    if name not in events.column_names:
        return np.full(len(events), NO_COORDINATE)
    column: Ints = events[name].fill_null(NO_COORDINATE).to_numpy().astype(np.int64)
    return column


def _distinct(view: View) -> list[Aggregate]:
    return [a for a in view.aggregates if a.function == "count_distinct"]


def _hashes(events: pa.Table, name: str) -> Hashes:
    """The hash of each value of a column; 0 where it is null."""
    found = [0 if value is None else hash_of(value) for value in events[name].to_pylist()]
    return np.array(found, dtype=np.uint64)


def _floats(events: pa.Table, name: str, kind: str) -> Floats:
    """A column as numbers; of a string only whether it is null matters, for its count."""
    column = events[name]
    if kind == "string":
        return np.where(column.is_null().to_numpy(), np.nan, 0.0)
    numbers: Floats = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return numbers
