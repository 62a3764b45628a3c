"""The aggregates of packed rings, compiled: one walk over each row's ring fills every window of every hop.

The meaning is `features.tiles.Evaluation`'s, and so are the values, to the bit: sums go over all slots in numpy's own order
(`_sum`), what is not taken counting as 0. Importing this compiles, or finds it compiled beside the source; where that
folder and `NUMBA_CACHE_DIR` cannot be written, every process compiles for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np

from features.ring import NO_RING_AGE_MS, Records, RingFormat
from features.tiles import EMPTY_TILE, VARIANCE_EVENTS_MIN, VARIANCE_FLOOR, Bools, Floats, Ints
from features.views import PARTIALS_OF, Aggregate, Layout

WORD_BYTES = 8
# How numpy sums: so many at once, side by side in eight, and longer ones in halves.
_BLOCK = np.uint64(128)
_LANES = np.uint64(8)
# Places are unsigned, else every one is first asked whether it counts from the end.
_ZERO, _U1, _U2, _U3, _U4, _U5, _U6, _U7 = (np.uint64(i) for i in range(8))

_COUNT, _MEAN, _VAR, _STD, _MIN, _MAX, _FIRST, _LAST = range(8)
_CODES = {
    "count": _COUNT,
    "sum": _COUNT,
    "mean": _MEAN,
    "var": _VAR,
    "std": _STD,
    "min": _MIN,
    "max": _MAX,
    "first": _FIRST,
    "last": _LAST,
}
# Functions made of sums: their partials are added up once a window.
_ADDED = _STD

Unsigned = np.uint64
_Function = Callable[..., Any]


def _compiled(signature: str) -> Callable[[_Function], _Function]:
    """Compile for these types and no others, so that no call ever compiles."""
    options = {"error_model": "numpy", "nogil": True}

    def compile_(function: _Function) -> _Function:
        try:
            made: _Function = numba.njit(signature, cache=True, **options)(function)
        except RuntimeError as error:
            # numba's word for "nowhere to write".
            if "no locator available" not in str(error):
                raise
            made = numba.njit(signature, **options)(function)
        return made

    return compile_


@_compiled("f8(f8[::1], u8, b1[::1], u8)")
def _or_nought(partials: Floats, at: Unsigned, taken: Bools, slot: Unsigned) -> float:
    # Loaded whether taken or not: a choice between two numbers costs less than a branch.
    value: float = partials[at]
    return value if taken[slot] else 0.0


@_compiled("f8(f8[::1], u8, b1[::1], u8, u8)")
def _sum(partials: Floats, at: Unsigned, taken: Bools, slot: Unsigned, length: Unsigned) -> float:
    """Pairwise as numpy sums: what is taken, 0 standing for the rest (`numpy/_core/src/umath/loops_utils.h.src`)."""
    if length > _BLOCK:
        half = length // _U2
        half -= half % _LANES
        low: float = _sum(partials, at, taken, slot, half)
        high: float = _sum(partials, at + half, taken, slot + half, length - half)
        return low + high
    even = length - length % _LANES
    total = 0.0
    if even:
        r0, r1, r2, r3, r4, r5, r6, r7 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(_ZERO, even, _LANES):
            x, t = at + i, slot + i
            r0 += _or_nought(partials, x, taken, t)
            r1 += _or_nought(partials, x + _U1, taken, t + _U1)
            r2 += _or_nought(partials, x + _U2, taken, t + _U2)
            r3 += _or_nought(partials, x + _U3, taken, t + _U3)
            r4 += _or_nought(partials, x + _U4, taken, t + _U4)
            r5 += _or_nought(partials, x + _U5, taken, t + _U5)
            r6 += _or_nought(partials, x + _U6, taken, t + _U6)
            r7 += _or_nought(partials, x + _U7, taken, t + _U7)
        total = ((r0 + r1) + (r2 + r3)) + ((r4 + r5) + (r6 + r7))
    for i in range(even, length):
        total += _or_nought(partials, at + i, taken, slot + i)
    return total


@_compiled("f8(f8, f8, f8)")
def _variance(count: float, total: float, squares: float) -> float:
    """`tiles.variance` of one."""
    if not count >= VARIANCE_EVENTS_MIN:
        return np.nan
    spread = squares - total * total / count
    if spread <= VARIANCE_FLOOR * squares:
        spread = 0.0
    return spread / (count - 1)


@_compiled("f8(i8, f8[::1], u8, i8[::1], u8, b1[::1], u8)")
def _picked(
    code: int,
    partials: Floats,
    at: Unsigned,
    words: Ints,
    index: Unsigned,
    taken: Bools,
    n: Unsigned,
) -> float:
    """`min`, `max`, `first` or `last` of what is taken, nulls left out."""
    best, when = np.nan, np.int64(0)
    if code == _MAX:
        for i in range(_ZERO, n):
            value = partials[at + i]
            best = value if taken[i] and (value > best or np.isnan(best)) else best
        return best
    if code == _MIN:
        for i in range(_ZERO, n):
            value = partials[at + i]
            best = value if taken[i] and (value < best or np.isnan(best)) else best
        return best
    for i in range(_ZERO, n):
        value, tile = partials[at + i], words[index + i]
        if (
            taken[i]
            and not np.isnan(value)
            and (np.isnan(best) or (tile > when if code == _LAST else tile < when))
        ):
            best, when = value, tile
    return best


@_compiled("f8(i8, i8, i8, i8, f8[::1])")
def _of_sums(code: int, one: int, two: int, three: int, sums: Floats) -> float:
    """What is made of a window's sums alone."""
    # Each returns at once: a common ending would divide and take roots for all of them.
    if code == _COUNT:
        return float(sums[one])
    if code == _MEAN:
        return float(sums[two] / sums[one])
    spread = _variance(sums[one], sums[two], sums[three])
    return float(np.sqrt(spread)) if code == _STD else spread


@_compiled("void(i8[::1], u8, i8, i8, b1[::1], u8)")
def _take(words: Ints, index: Unsigned, head: int, width: int, taken: Bools, n: Unsigned) -> None:
    """`tiles.in_window` of one row."""
    for slot in range(_ZERO, n):
        tile = words[index + slot]
        taken[slot] = (tile > head - width) & (tile <= head) & (tile != EMPTY_TILE)


@_compiled(
    "void(i8[::1], i8[::1], i8[::1], i8[::1], Tuple((i8[:,::1], i8[:,::1], i8[:,::1], i8[::1])), i8,"
    "Tuple((f8[:,::1], i8[:,::1], b1[:,::1])))"
)
def _fill(
    words: Ints,
    shape: Ints,
    rows: Ints,
    as_of_ms: Ints,
    parts: tuple[Ints, Ints, Ints, Ints],
    view: int,
    into: tuple[Floats, Ints, Bools],
) -> None:
    """All columns of one view; `shape` is words a ring, the word of its clock, the longest hop, the most slots, partials."""
    (hops, windows, steps, added), (values, age_ms, ahead) = parts, into
    partials, length, clock, longest_ms = words.view(np.float64), shape[0], shape[1], shape[2]
    taken, sums = np.empty(shape[3], np.bool_), np.empty(shape[4])
    for row in range(len(rows)):
        ring, now_ms = rows[row] * length, as_of_ms[row]
        if ring < 0:
            ring += len(words)
        for h in range(len(hops)):
            hop_ms, slots = hops[h, 0], np.uint64(hops[h, 1])
            index, first = np.uint64(ring + hops[h, 2]), np.uint64(ring + hops[h, 3])
            for w in range(hops[h, 4], hops[h, 5]):
                _take(words, index, now_ms // hop_ms, windows[w, 0], taken, slots)
                for a in range(windows[w, 1], windows[w, 2]):
                    at = first + np.uint64(added[a]) * slots
                    sums[added[a]] = _sum(partials, at, taken, _ZERO, slots)
                for s in range(windows[w, 3], windows[w, 4]):
                    code, one = steps[s, 0], steps[s, 2]
                    if code <= _ADDED:
                        value = _of_sums(code, one, steps[s, 3], steps[s, 4], sums)
                    else:
                        at = first + np.uint64(one) * slots
                        value = _picked(code, partials, at, words, index, taken, slots)
                    values[row, steps[s, 1]] = value
        clock_ms = words[ring + clock]
        age = now_ms - clock_ms
        if clock_ms < 0:
            age = NO_RING_AGE_MS
        elif age == NO_RING_AGE_MS:
            age -= 1
        age_ms[row, view] = age
        ahead[row, view] = clock_ms > now_ms and clock_ms // longest_ms == now_ms // longest_ms


class RingKernel:
    """The wanted aggregates of one view as what `_fill` walks; those of distinct values are left to numpy."""

    def __init__(self, fmt: RingFormat, wanted: Sequence[tuple[int, str]]) -> None:
        """Aggregates, each with the column of the answer that it fills."""
        named = [(column, fmt.view.aggregate(name)) for column, name in wanted]
        self._format = fmt
        alone = [(column, a.name) for column, a in named if a.function not in _CODES]
        self._alone = [column for column, _ in alone]
        self._alone_names = [name for _, name in alone]
        parts = _Parts()
        for layout in fmt.view.layouts:
            mine = [(c, a) for c, a in named if a.hop_s == layout.hop_s and a.function in _CODES]
            if mine:
                parts.add(fmt, layout, mine)
        self._parts = parts.arrays()
        layouts = fmt.view.layouts
        slots, partials = max(x.tiles for x in layouts), max(len(x.partials) for x in layouts)
        size = fmt.size // WORD_BYTES
        shape = [size, _word(fmt, "clock_ms"), layouts[-1].hop_ms, slots, partials]
        self._shape = np.array(shape, np.int64)

    def fill(
        self,
        records: Records,
        rows: Ints,
        as_of_ms: Ints,
        place: int,
        into: tuple[Floats, Ints, Bools],
    ) -> None:
        """Write the view's columns of values, and column `place` of ages and of which rows are ahead.

        Args:
            records: As `RingFormat.unpack` gives them: contiguous and writable.
            rows: `[rows]`, the ring that each reads.
            as_of_ms: `[rows]`, contiguous.
            place: Of the view among those that are read.
            into: `[rows, features]`, `[rows, views]`, `[rows, views]`.
        """
        _fill(records.view(np.int64), self._shape, rows, as_of_ms, self._parts, place, into)
        if self._alone:
            into[0][:, self._alone] = self._format.evaluate(
                records, rows, as_of_ms, self._alone_names
            )


class _Parts:
    """Hops, their windows, the steps of each window, and the partials to be summed first."""

    def __init__(self) -> None:
        self._hops: list[list[int]] = []
        self._windows: list[list[int]] = []
        self._steps: list[list[int]] = []
        self._added: list[int] = []

    def add(self, fmt: RingFormat, layout: Layout, mine: Sequence[tuple[int, Aggregate]]) -> None:
        """One hop's aggregates, by window."""
        began = len(self._windows)
        for width in sorted({a.tiles for _, a in mine}):
            self._window(layout, width, [(c, a) for c, a in mine if a.tiles == width])
        indices = _word(fmt, f"tile_{layout.hop_s}")
        partials = _word(fmt, f"partials_{layout.hop_s}")
        windows = (began, len(self._windows))
        self._hops.append([layout.hop_ms, layout.tiles, indices, partials, *windows])

    def _window(self, layout: Layout, width: int, mine: Sequence[tuple[int, Aggregate]]) -> None:
        added, steps = len(self._added), len(self._steps)
        summed: set[int] = set()
        for column, aggregate in mine:
            code = _CODES[aggregate.function]
            held = [layout.index(k, aggregate.column) for k in PARTIALS_OF[aggregate.function]]
            summed |= set(held) if code <= _ADDED else set()
            self._steps.append([code, column, *held, *([0] * (3 - len(held)))])
        self._added += sorted(summed)
        self._windows.append([width, added, len(self._added), steps, len(self._steps)])

    def arrays(self) -> tuple[Ints, Ints, Ints, Ints]:
        """As `_fill` takes them."""
        return (
            np.array(self._hops, np.int64).reshape(-1, 6),
            np.array(self._windows, np.int64).reshape(-1, 5),
            np.array(self._steps, np.int64).reshape(-1, 5),
            np.array(self._added, np.int64),
        )


def _word(fmt: RingFormat, field: str) -> int:
    """Where a field of a ring begins, in words of eight bytes, which every field is a multiple of."""
    fields = fmt.dtype.fields
    assert fields is not None
    at = int(fields[field][1])
    assert at % WORD_BYTES == 0
    return at // WORD_BYTES
