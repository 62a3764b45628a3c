"""The tile mathematics: what a window is, and how tiles merge into its value. Pure numpy.

`tile(x) = floor(x / hop)`. A window `w` as of `t` takes the tiles `tile(t) − w/hop < i ≤ tile(t)`: its head is whatever the
head tile holds, its tail is aligned to the hop. Empty: `count`, `sum` and `count_distinct` are 0, all else null (NaN).

Variance is `(Σx² − (Σx)²/n) / (n − 1)`, because Σx² is what SQL engines can keep incrementally. It cancels: its relative
error is about `ε · n · mean² / variance`. For the data features are made of (a spread of at least a thousandth of the
mean) it keeps 1e-9; below `VARIANCE_FLOOR` of the mean square nothing but rounding is left, and every executor
reports exactly 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features import distinct
from features.views import Aggregate, Layout, Partial, PartialKind

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

EMPTY_TILE = -1
# Rounding of Σx² and (Σx)²/n leaves about n·2⁻⁵² of the mean square; a day of events at the busiest key is about 10⁴.
VARIANCE_FLOOR = 1e-12
VARIANCE_EVENTS_MIN = 2

# What a tile holds before its first non-null value, and what merging leaves unchanged.
NEUTRAL: Mapping[PartialKind, float] = {
    "count": 0.0,
    "sum": 0.0,
    "sumsq": 0.0,
    "min": float("nan"),
    "max": float("nan"),
    "first": float("nan"),
    "last": float("nan"),
    # The size of the block; its bytes are beside it.
    "distinct": 0.0,
}


class Tiles(NamedTuple):
    """The tiles of one hop for many entities: `indices` [entities, slots], `partials` [entities, partials, slots].

    An empty slot has index `EMPTY_TILE`. The order of slots has no meaning. `blocks` are those of distinct values, [entities,
    distinct partials, slots, 512]; None where the layout has no such partial.
    """

    indices: Ints
    partials: Floats
    blocks: NDArray[np.uint8] | None = None


def tile(ts_ms: int, hop_ms: int) -> int:
    """The tile of an instant: floor, also before 1970."""
    return ts_ms // hop_ms


def evaluate(
    layout: Layout, tiles: Tiles, as_of_ms: Ints, aggregates: Sequence[Aggregate]
) -> Floats:
    """The values of one hop's aggregates, `[rows, aggregates]`, null as NaN.

    Args:
        layout: The hop's layout; `tiles` must be of it.
        tiles: One row per row asked for (repeat an entity's tiles where it is asked for twice).
        as_of_ms: `[rows]`, the instant of each row.
        aggregates: Those of this hop that are wanted, in the order of the answer's columns.
    """
    head = as_of_ms // layout.hop_ms
    values = np.empty((len(as_of_ms), len(aggregates)))
    windows: dict[int, Bools] = {}
    for position, aggregate in enumerate(aggregates):
        width = aggregate.tiles
        if width not in windows:
            windows[width] = in_window(tiles.indices, head, width)
        values[:, position] = _value(layout, tiles, windows[width], aggregate)
    return values


def in_window(index: Ints, head: Ints, width: int) -> Bools:
    """Which slots a window of `width` tiles takes, head included: `[rows, slots]`."""
    last = head[:, None]
    taken: Bools = (index > last - width) & (index <= last) & (index != EMPTY_TILE)
    return taken


def variance(count: Floats, total: Floats, squares: Floats) -> Floats:
    """The sample's variance from Σ1, Σx, Σx²; NaN below two, exactly 0 where only rounding is left."""
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = squares - total * total / count
        spread = np.where(spread <= VARIANCE_FLOOR * squares, 0.0, spread)
        return np.where(count >= VARIANCE_EVENTS_MIN, spread / (count - 1), np.nan)


def _value(layout: Layout, tiles: Tiles, taken: Bools, aggregate: Aggregate) -> Floats:
    def part(kind: PartialKind) -> Floats:
        column = tiles.partials[:, layout.index(kind, aggregate.column), :]
        return merge(kind, tiles.indices, column, taken)

    match aggregate.function:
        case "count_distinct":
            return _distinct(layout, tiles, taken, aggregate.column)
        case "mean":
            with np.errstate(divide="ignore", invalid="ignore"):
                return part("sum") / part("count")
        case "var":
            return variance(part("count"), part("sum"), part("sumsq"))
        case "std":
            return np.sqrt(variance(part("count"), part("sum"), part("sumsq")))
        case simple:
            return part(simple)


def _distinct(layout: Layout, tiles: Tiles, taken: Bools, column: str) -> Floats:
    assert tiles.blocks is not None
    sizes = tiles.partials[:, layout.index("distinct", column), :]
    place = layout.distinct.index(Partial("distinct", column))
    return distinct.counts(sizes, tiles.blocks[:, place], taken)


def merge(kind: PartialKind, index: Ints, column: Floats, taken: Bools) -> Floats:
    """One partial over the taken slots: `[rows, slots]` → `[rows]`.

    `first` and `last` need no tie-break here: two tiles never share an instant.
    """
    match kind:
        case "count" | "sum" | "sumsq":
            merged: Floats = np.where(taken, column, 0.0).sum(axis=1)
        case "min":
            merged = np.fmin.reduce(np.where(taken, column, np.nan), axis=1)
        case "max":
            merged = np.fmax.reduce(np.where(taken, column, np.nan), axis=1)
        case "first" | "last":
            merged = _outermost(kind, index, column, taken)
        case "distinct":
            raise ValueError("distinct values merge as blocks")
    return merged


def _outermost(kind: PartialKind, index: Ints, column: Floats, taken: Bools) -> Floats:
    usable = taken & ~np.isnan(column)
    sign = 1 if kind == "last" else -1
    lowest = np.iinfo(np.int64).min
    slot = np.argmax(np.where(usable, sign * index, lowest), axis=1)
    rows = np.arange(len(column))
    return np.where(usable[rows, slot], column[rows, slot], np.nan)
