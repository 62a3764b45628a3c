from __future__ import annotations

import msgspec
import numpy as np

from features.ring import Applied, RingFormat
from features.tile_row import TileRow
from features.tile_stream import TileStream
from features.views import View
from tests.features.readings import NAMES, START_MS, VIEW, event

FORMAT = RingFormat(VIEW)
PARTIALS = tuple(float(i) for i in range(len(VIEW.layouts[0].partials)))


def row(tile: int, n: int = 1) -> TileRow:
    return TileRow(60, tile, n, PARTIALS, clock_ms=tile * 60_000)


def test_every_ring_of_a_view_is_as_long() -> None:
    filled = FORMAT.empty()
    FORMAT.apply(filled, 0, [r for _, r in TileStream(VIEW).push(event(0, 1.0))])
    assert len(filled.tobytes()) == len(FORMAT.empty().tobytes()) == FORMAT.size


def test_what_becomes_of_rows_is_counted() -> None:
    ring = FORMAT.empty()
    capacity = VIEW.layouts[0].tiles
    assert FORMAT.apply(ring, 0, [row(100, n=2), row(100, n=2)]) == Applied(applied=2)
    assert FORMAT.apply(ring, 0, [row(100, n=1)]) == Applied(outdated=1)
    assert FORMAT.apply(ring, 0, [row(100 - capacity)]) == Applied(expired=1)
    assert FORMAT.apply(ring, 0, [row(100 + capacity)]) == Applied(applied=1)
    assert FORMAT.apply(ring, 0, [row(100, n=9)]) == Applied(expired=1)
    assert FORMAT.apply(ring, 0, [TileRow(77, 1, 1, (), 0)]) == Applied(expired=1)
    assert ring["clock_ms"][0] == (100 + capacity) * 60_000


def test_a_ring_of_another_layout_is_discarded_never_misread() -> None:
    other = RingFormat(msgspec.structs.replace(VIEW, topic="lab.other.valid"))
    assert other.size == FORMAT.size
    mine, theirs = FORMAT.empty().tobytes(), other.empty().tobytes()
    records, discarded = FORMAT.unpack([mine, theirs, None, b"", b"short", mine])
    assert discarded == 3
    assert len(records) == 6
    assert records["fingerprint"].tolist() == [FORMAT.fingerprint] * 6


def test_unpacked_rings_can_be_written_to() -> None:
    records, _ = FORMAT.unpack([None, None])
    FORMAT.apply(records, 1, [row(7)])
    assert records["clock_ms"].tolist() == [-1, 7 * 60_000]


def test_an_empty_ring_is_counts_of_nought_and_nulls() -> None:
    values = FORMAT.evaluate(FORMAT.empty(), np.array([0]), np.array([START_MS]), NAMES)[0]
    found = dict(zip(NAMES, values.tolist(), strict=True))
    zero = {name for name, value in found.items() if value == 0}
    assert zero == {"count_5m", "sum_5m", "count_1h", "sum_1h", "events_2m"}
    assert np.isnan([v for n, v in found.items() if n not in zero]).all()


def test_windows_decay_without_events() -> None:
    ring = FORMAT.empty()
    FORMAT.apply(ring, 0, [r for _, r in TileStream(VIEW).push(event(0, 1.0))])
    at = START_MS + np.array([0, 4, 5, 59, 60]) * 60_000
    found = FORMAT.evaluate(ring, np.zeros(5, int), at, ["count_5m", "count_1h"])
    assert found.tolist() == [[1, 1], [1, 1], [0, 1], [0, 1], [0, 0]]


def test_ahead_is_told_by_the_clock_within_the_head_tile() -> None:
    ring = FORMAT.empty()
    FORMAT.apply(ring, 0, [r for _, r in TileStream(VIEW).push(event(30_000, 1.0))])
    at = START_MS + np.array([-600_000, 29_999, 30_000])
    assert FORMAT.ahead(ring, np.zeros(3, int), at).tolist() == [False, True, False]


def test_many_rings_are_evaluated_at_once() -> None:
    records = FORMAT.empty(3)
    for position in range(3):
        stream = TileStream(VIEW)
        rows = [r for i in range(position + 1) for _, r in stream.push(event(i, float(i)))]
        FORMAT.apply(records, position, rows)
    asked = np.array([2, 0, 1, 2])
    found = FORMAT.evaluate(records, asked, np.full(4, START_MS + 9), ["count_5m"])
    assert found[:, 0].tolist() == [3, 1, 2, 3]


def test_variance_of_equal_values_is_exactly_nought() -> None:
    ring = FORMAT.empty()
    stream = TileStream(VIEW)
    rows = [r for i in range(9) for _, r in stream.push(event(i, 7.1))]
    FORMAT.apply(ring, 0, rows)
    found = FORMAT.evaluate(ring, np.array([0]), np.array([START_MS + 9]), ["std_5m", "var_1h"])
    assert found.tolist() == [[0.0, 0.0]]


def test_the_format_needs_nothing_but_the_view() -> None:
    again: View = msgspec.json.decode(msgspec.json.encode(VIEW), type=View)
    assert RingFormat(again).fingerprint == FORMAT.fingerprint
