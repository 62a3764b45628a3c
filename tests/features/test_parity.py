from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.causes import Cause
from features.parity import ParityReport, compare
from features.reference import features_as_of
from features.ring import RingFormat
from features.tile_stream import TileStream
from tests.features.readings import (
    NAMES,
    PLAN,
    SPAN_MS,
    START_MS,
    VIEW,
    event,
    event_logs,
    instants,
    table,
)

MINUTE_MS = 60_000
FORMAT = RingFormat(VIEW)
COLUMNS = [f"{VIEW.name}__{name}" for name in NAMES]


def served_row(values: dict[str, float | None], as_of_ms: int, read_at_ms: int) -> dict[str, Any]:
    keys = {"request_id": "r", "sensor": "a", "event_time_ms": as_of_ms, "read_at_ms": read_at_ms}
    return keys | {f"{VIEW.name}__{n}": v for n, v in values.items()}


def checked(rows: list[dict[str, Any]], log: list[dict[str, Any]], **options: Any) -> ParityReport:
    columns = {c: pa.array([r[c] for r in rows], pa.float64()) for c in COLUMNS}
    others = {n: [r[n] for r in rows] for n in rows[0] if n not in columns}
    served = pa.table(others | columns)
    return compare(PLAN, "lab_v1", served, {VIEW.table: table(log)}, **options)


def seen_by(log: list[dict[str, Any]], as_of_ms: int) -> dict[str, float | None]:
    return features_as_of(VIEW, log, {"sensor": "a"}, as_of_ms)


def causes(report: ParityReport) -> set[Cause]:
    named: tuple[Cause, ...] = (
        "in_flight",
        "ahead",
        "late",
        "expired",
        "definition",
        "unexplained",
    )
    return {cause for cause in named if getattr(report, cause)}


LOG = [event(minute * MINUTE_MS, float(minute * minute % 17)) for minute in range(70)]
AS_OF = START_MS + 69 * MINUTE_MS + 1_000


def test_the_same_values_are_equal_and_all_counted() -> None:
    report = checked([served_row(seen_by(LOG, AS_OF), AS_OF, AS_OF + 100)] * 3, LOG)
    assert report.counts() == dict.fromkeys(report.counts(), 0) | {
        "compared": 3 * len(NAMES),
        "equal": 3 * len(NAMES),
    }


def test_an_event_under_way_at_the_read_is_in_flight() -> None:
    report = checked([served_row(seen_by(LOG[:-1], AS_OF), AS_OF, AS_OF + 100)], LOG)
    assert causes(report) == {"in_flight"}


def test_offsets_order_what_arrived_in_one_millisecond() -> None:
    """The later event came first in the topic, so a reader may see it without the earlier one."""
    minutes = (68.2, 68.4)
    earlier, later = (event(int(m * MINUTE_MS), 10.0 * m, ingest_ms=AS_OF) for m in minutes)
    log = [*LOG[:-1], {**earlier, "kafka_offset": 10**7 + 1}, {**later, "kafka_offset": 10**7}]
    shown = [*LOG[:-1], later]
    report = checked([served_row(seen_by(shown, AS_OF), AS_OF, AS_OF + 100)], log)
    assert causes(report) <= {"in_flight", "late"}
    assert report.equal < report.compared


def test_an_event_older_than_the_budget_is_no_excuse() -> None:
    served = served_row(seen_by(LOG[:-1], AS_OF), AS_OF, AS_OF + 20_000)
    assert causes(checked([served], LOG)) == {"unexplained"}


def test_an_event_long_behind_the_stream_is_late() -> None:
    late = event(50 * MINUTE_MS, 99.0, event_id="late", ingest_ms=AS_OF + 5_000)
    report = checked([served_row(seen_by(LOG, AS_OF), AS_OF, AS_OF + 100)], [*LOG, late])
    assert causes(report) == {"late"}


def test_a_later_event_in_the_head_tile_is_ahead() -> None:
    soon = event(69 * MINUTE_MS + 2_000, 99.0, ingest_ms=AS_OF + 50)
    served = seen_by([*LOG, {**soon, "event_time_ms": AS_OF}], AS_OF)
    assert causes(checked([served_row(served, AS_OF, AS_OF + 100)], [*LOG, soon])) == {"ahead"}


def test_overwritten_tiles_are_expired() -> None:
    capacity = VIEW.layout(60).tiles
    overtaking = event((65 + capacity) * MINUTE_MS, 1.0, ingest_ms=AS_OF + 50)
    served = seen_by([e for e in LOG if e["event_time_ms"] != START_MS + 65 * MINUTE_MS], AS_OF)
    hop_of_a_minute = {a.name for a in VIEW.aggregates if a.hop_s == 60}
    row = seen_by(LOG, AS_OF) | {n: served[n] for n in hop_of_a_minute}
    report = checked([served_row(row, AS_OF, AS_OF + 100)], [*LOG, overtaking])
    assert causes(report) == {"expired"}


def test_a_broken_executor_is_unexplained_and_shown_first() -> None:
    wrong = {n: None if v is None else v + 0.001 for n, v in seen_by(LOG, AS_OF).items()}
    report = checked([served_row(wrong, AS_OF, AS_OF + 100)], LOG)
    assert causes(report) == {"unexplained"}
    assert report.unexplained == len(NAMES)
    assert report.examples[0].request_id == "r"


def test_a_window_one_tile_too_wide_is_unexplained() -> None:
    wide = features_as_of(VIEW, LOG, {"sensor": "a"}, AS_OF)
    wide["sum_5m"] = sum(float(e["value"]) for e in LOG[-6:])
    assert checked([served_row(wide, AS_OF, AS_OF + 100)], LOG).unexplained == 1


def test_a_vector_of_another_definition_says_so() -> None:
    wrong: dict[str, float | None] = dict.fromkeys(NAMES, -1.0)
    row = served_row(wrong, AS_OF, AS_OF + 100) | {"definition": "0" * 16}
    assert causes(checked([row], LOG)) == {"definition"}


def test_single_precision_needs_its_tolerance() -> None:
    row = seen_by(LOG, AS_OF)
    row["std_1h"] = (row["std_1h"] or 0.0) * (1 + 1e-7)
    served = [served_row(row, AS_OF, AS_OF + 20_000)]
    assert causes(checked(served, LOG)) == {"unexplained"}
    assert not causes(checked(served, LOG, tolerance=2e-7))


def shown_by_a_ring(delivered: list[dict[str, Any]], as_of: int) -> dict[str, float | None]:
    ring = FORMAT.empty()
    mine = [e for e in delivered if e["sensor"] == "a"]
    FORMAT.apply(ring, 0, [row for _, row in TileStream(VIEW).push_all(mine)])
    shown = FORMAT.evaluate(ring, np.array([0]), np.array([as_of]), NAMES)[0].tolist()
    return dict(zip(NAMES, shown, strict=True))


@settings(max_examples=40, deadline=None)
@given(log=event_logs(), as_of=instants, cut=st.integers(0, 40))
def test_whatever_a_ring_showed_is_explained(
    log: list[dict[str, Any]], as_of: int, cut: int
) -> None:
    row = served_row(shown_by_a_ring(log[:cut], as_of), as_of, START_MS + 3 * SPAN_MS)
    assert checked([row], log, budget_ms=10**9).unexplained == 0


@settings(max_examples=25, deadline=None)
@given(log=event_logs(), as_of=instants, cuts=st.tuples(st.integers(0, 40), st.integers(0, 40)))
def test_whatever_two_partitions_had_delivered_is_explained(
    log: list[dict[str, Any]], as_of: int, cuts: tuple[int, int]
) -> None:
    first = log[0]["ingest_ms"] if log else 0
    delivered = [e for e in log if e["ingest_ms"] < first + cuts[e["kafka_partition"]]]
    row = served_row(shown_by_a_ring(delivered, as_of), as_of, START_MS + 3 * SPAN_MS)
    assert checked([row], log, budget_ms=10**9).unexplained == 0


def test_a_tile_is_known_to_be_lost_however_many_events_came_after_the_one_that_took_its_slot() -> (
    None
):
    capacity_ms = VIEW.layout(60).tiles * MINUTE_MS
    first_kept = LOG[-5]["event_time_ms"]
    overtaking = [
        event(first_kept + capacity_ms + n, 1.0, event_id=f"o{n}", ingest_ms=AS_OF + 50 + n)
        for n in range(100)
    ]
    # One more, which takes the next tile's slot, came before the read and had not reached the ring.
    under_way = event(first_kept + MINUTE_MS + capacity_ms, 1.0, event_id="u", ingest_ms=AS_OF + 60)
    row = served_row(shown_by_a_ring([*LOG, *overtaking[:5]], AS_OF), AS_OF, AS_OF + 200)
    assert "unexplained" not in causes(checked([row], [*LOG, *overtaking, under_way]))


def test_an_empty_table_has_nothing_to_compare() -> None:
    empty = pa.table(
        {"request_id": pa.array([], pa.string()), "sensor": pa.array([], pa.string())}
        | {n: pa.array([], pa.int64()) for n in ("event_time_ms", "read_at_ms")}
        | {c: pa.array([], pa.float64()) for c in COLUMNS}
    )
    report = compare(PLAN, "lab_v1", empty, {VIEW.table: table(LOG)})
    assert report.compared == 0
    assert report.counts()["compared"] == pytest.approx(0)
