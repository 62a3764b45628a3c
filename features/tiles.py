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
from features.views import PARTIALS_OF, Aggregate, Layout, Partial, PartialKind

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


class Evaluation:
    """How the aggregates of one hop are merged, worked out once: aggregates of one window and one kind go together.

    A call costs some numpy calls for each window and kind, however many aggregates there are.
    """

    def __init__(self, layout: Layout, aggregates: Sequence[Aggregate]) -> None:
        """Aggregates of this hop that are wanted, in the order of the answer's columns."""
        self._hop_ms = layout.hop_ms
        self._columns = len(aggregates)
        self._windows = [
            _Window(layout, width, [(i, a) for i, a in enumerate(aggregates) if a.tiles == width])
            for width in sorted({a.tiles for a in aggregates})
        ]

    def __call__(self, tiles: Tiles, as_of_ms: Ints) -> Floats:
        """Values, `[rows, aggregates]`.

        Args:
            tiles: Of the layout; one row per row asked for (repeat an entity's tiles where it is asked for twice).
            as_of_ms: `[rows]`, the instant of each row.
        """
        head = as_of_ms // self._hop_ms
        values = np.empty((len(as_of_ms), self._columns))
        for window in self._windows:
            window.fill(values, tiles, in_window(tiles.indices, head, window.width))
        return values


class _Window:
    """The aggregates of one window: the partials that each needs, and the columns they fill, by what is done."""

    def __init__(self, layout: Layout, width: int, mine: Sequence[tuple[int, Aggregate]]) -> None:
        self.width = width
        self._layout = layout
        self._columns: dict[str, list[int]] = {}
        # Function → the partials it is made of, one list a kind, in step with its columns.
        self._partials: dict[str, list[list[int]]] = {}
        for column, aggregate in mine:
            function = "var" if aggregate.function == "std" else aggregate.function
            kinds = PARTIALS_OF[function]
            self._columns.setdefault(function, []).append(column)
            lists = self._partials.setdefault(function, [[] for _ in kinds])
            for kind, held in zip(kinds, lists, strict=True):
                held.append(layout.index(kind, aggregate.column))
        self._roots = [column for column, a in mine if a.function == "std"]
        added = [f for f in ("count", "sum", "mean", "var") if f in self._columns]
        self._added = sorted({i for f in added for held in self._partials[f] for i in held})
        place = {partial: i for i, partial in enumerate(self._added)}
        for function in added:
            self._partials[function] = [
                [place[i] for i in held] for held in self._partials[function]
            ]

    def fill(self, values: Floats, tiles: Tiles, taken: Bools) -> None:
        """Write the columns of this window's aggregates."""
        if self._added:
            chosen = tiles.partials.take(self._added, axis=1)
            sums = np.where(taken[:, None, :], chosen, 0.0).sum(axis=2)
        for function, columns in self._columns.items():
            parts = self._partials[function]
            match function:
                case "count" | "sum":
                    values[:, columns] = sums[:, parts[0]]
                case "mean":
                    with np.errstate(divide="ignore", invalid="ignore"):
                        values[:, columns] = sums[:, parts[1]] / sums[:, parts[0]]
                case "var":
                    values[:, columns] = variance(*(sums[:, held] for held in parts))
                case "min" | "max":
                    chosen = tiles.partials.take(parts[0], axis=1)
                    outer = np.fmin if function == "min" else np.fmax
                    values[:, columns] = outer.reduce(
                        np.where(taken[:, None, :], chosen, np.nan), axis=2
                    )
                case _:
                    for column, partial in zip(columns, parts[0], strict=True):
                        values[:, column] = self._alone(function, tiles, taken, partial)
        if self._roots:
            values[:, self._roots] = np.sqrt(values[:, self._roots])

    def _alone(self, function: str, tiles: Tiles, taken: Bools, partial: int) -> Floats:
        """What does not merge together with others of its kind."""
        if function == "count_distinct":
            return _distinct(self._layout, tiles, taken, self._layout.partials[partial])
        return _outermost(function, tiles.indices, tiles.partials[:, partial, :], taken)


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


def _distinct(layout: Layout, tiles: Tiles, taken: Bools, partial: Partial) -> Floats:
    """The count over the taken slots, whose sizes stand among the partials and whose hashes in blocks."""
    assert tiles.blocks is not None
    sizes = tiles.partials[:, layout.partials.index(partial), :]
    return distinct.counts(sizes, tiles.blocks[:, layout.distinct.index(partial)], taken)


def _outermost(kind: str, index: Ints, column: Floats, taken: Bools) -> Floats:
    """`first` or `last` of the taken slots; it needs no tie-break here: two tiles never share an instant."""
    usable = taken & ~np.isnan(column)
    sign = 1 if kind == "last" else -1
    lowest = np.iinfo(np.int64).min
    slot = np.argmax(np.where(usable, sign * index, lowest), axis=1)
    rows = np.arange(len(column))
    return np.where(usable[rows, slot], column[rows, slot], np.nan)
