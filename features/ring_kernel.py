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

from features.ring import Records, RingFormat
from features.tiles import EMPTY_TILE, VARIANCE_EVENTS_MIN, VARIANCE_FLOOR, Bools, Floats, Ints
from features.views import PARTIALS_OF, Aggregate, Layout

NO_RING_AGE_MS = -1
WORD_BYTES = 8
# How numpy sums: so many at once, side by side in eight, and longer ones in halves.
_BLOCK = 128
_LANES = 8

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

_Function = Callable[..., Any]


def _compiled(signature: str) -> Callable[[_Function], _Function]:
    """Compile for these types and no others, so that no call ever compiles."""
    options = {"error_model": "numpy", "nogil": True}

    def compile_(function: _Function) -> _Function:
        try:
            return numba.njit(signature, cache=True, **options)(function)
        except RuntimeError as error:
            # numba's word for "nowhere to write".
            if "no locator available" not in str(error):
                raise
            return numba.njit(signature, **options)(function)

    return compile_


@_compiled("f8(f8[::1], i8, i8)")
def _sum(line: Floats, start: int, length: int) -> float:
    """numpy's pairwise sum (`numpy/_core/src/umath/loops_utils.h.src`)."""
    if length < _LANES:
        total = 0.0
        for i in range(start, start + length):
            total += line[i]
        return total
    if length > _BLOCK:
        half = length // 2
        half -= half % _LANES
        return _sum(line, start, half) + _sum(line, start + half, length - half)
    r0, r1, r2, r3 = line[start], line[start + 1], line[start + 2], line[start + 3]
    r4, r5, r6, r7 = line[start + 4], line[start + 5], line[start + 6], line[start + 7]
    even = start + length - length % _LANES
    for i in range(start + _LANES, even, _LANES):
        r0 += line[i]
        r1 += line[i + 1]
        r2 += line[i + 2]
        r3 += line[i + 3]
        r4 += line[i + 4]
        r5 += line[i + 5]
        r6 += line[i + 6]
        r7 += line[i + 7]
    total = ((r0 + r1) + (r2 + r3)) + ((r4 + r5) + (r6 + r7))
    for i in range(even, start + length):
        total += line[i]
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


@_compiled("f8(i8, i8[::1], f8[::1], i8, i8, i8[::1], i8)")
def _picked(
    code: int, words: Ints, floats: Floats, indices: int, held: int, taken: Ints, count: int
) -> float:
    """`min`, `max`, `first` or `last` over the taken slots, nulls left out."""
    best, at = np.nan, np.int64(0)
    for i in range(count):
        value = floats[held + taken[i]]
        if np.isnan(value):
            continue
        index = words[indices + taken[i]]
        if (
            np.isnan(best)
            or (code == _MIN and value < best)
            or (code == _MAX and value > best)
            or (code == _FIRST and index < at)
            or (code == _LAST and index > at)
        ):
            best, at = value, index
    return best


@_compiled("f8(i8[::1], f8[::1])")
def _of_sums(step: Ints, sums: Floats) -> float:
    """What is made of a window's sums alone."""
    code = step[0]
    if code == _COUNT:
        return sums[step[2]]
    if code == _MEAN:
        return sums[step[3]] / sums[step[2]]
    spread = _variance(sums[step[2]], sums[step[3]], sums[step[4]])
    return np.sqrt(spread) if code == _STD else spread


@_compiled("i8(i8[::1], i8, i8, i8, i8, i8[::1])")
def _take(words: Ints, indices: int, slots: int, last: int, width: int, taken: Ints) -> int:
    """`tiles.in_window`, as the slots themselves; returns how many."""
    count = 0
    for slot in range(slots):
        index = words[indices + slot]
        if last - width < index <= last and index != EMPTY_TILE:
            taken[count] = slot
            count += 1
    return count


@_compiled("void(i8[::1], i8, i8, i8[::1], i8[:,::1], i8[:,::1], i8[::1], i8[:,::1], f8[::1])")
def _fill_row(
    words: Ints,
    ring: int,
    as_of_ms: int,
    hop: Ints,
    windows: Ints,
    steps: Ints,
    added: Ints,
    scratch: Ints,
    values: Floats,
) -> None:
    """The aggregates of one hop of one row."""
    hop_ms, slots, indices, partials = hop[0], hop[1], ring + hop[2], ring + hop[3]
    floats = words.view(np.float64)
    taken, line, sums = scratch[0], scratch[1].view(np.float64), scratch[2].view(np.float64)
    for w in range(hop[4], hop[5]):
        window = windows[w]
        line[:slots] = 0.0
        count = _take(words, indices, slots, as_of_ms // hop_ms, window[0], taken)
        for a in range(window[1], window[2]):
            held = partials + added[a] * slots
            for i in range(count):
                line[taken[i]] = floats[held + taken[i]]
            sums[added[a]] = _sum(line, 0, slots)
        for s in range(window[3], window[4]):
            step = steps[s]
            if step[0] <= _ADDED:
                values[step[1]] = _of_sums(step, sums)
            else:
                held = partials + step[2] * slots
                values[step[1]] = _picked(step[0], words, floats, indices, held, taken, count)


@_compiled(
    "void(i8[::1], i8[::1], i8[::1], i8[::1], i8[:,::1], i8[:,::1], i8[:,::1], i8[::1], i8, f8[:,::1],"
    "i8[:,::1], b1[:,::1])"
)
def _fill(
    words: Ints,
    shape: Ints,
    rows: Ints,
    as_of_ms: Ints,
    hops: Ints,
    windows: Ints,
    steps: Ints,
    added: Ints,
    view: int,
    values: Floats,
    age_ms: Ints,
    ahead: Bools,
) -> None:
    """All columns of one view; `shape` is words a ring, the word of its clock, the longest hop, the most slots."""
    length, clock, longest_ms, slots_max = shape
    scratch = np.empty((3, slots_max), np.int64)
    for row in range(len(rows)):
        ring, now_ms = rows[row] * length, as_of_ms[row]
        if ring < 0:
            ring += len(words)
        for h in range(len(hops)):
            _fill_row(words, ring, now_ms, hops[h], windows, steps, added, scratch, values[row])
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
        most = max(max(layout.tiles, len(layout.partials)) for layout in fmt.view.layouts)
        clock = _word(fmt, "clock_ms")
        longest_ms = fmt.view.layouts[-1].hop_ms
        self._shape = np.array([fmt.size // WORD_BYTES, clock, longest_ms, most], np.int64)

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
        _fill(records.view(np.int64), self._shape, rows, as_of_ms, *self._parts, place, *into)
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
    at = int(fmt.dtype.fields[field][1])
    assert at % WORD_BYTES == 0
    return at // WORD_BYTES
