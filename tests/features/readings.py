"""A small use case for the tests: sensors' readings, every function, two hops; and strategies for its events."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import strategies as st

from features.views import PARTIALS_OF, Aggregate, JoinKey, Plan, Service, View

START_MS = 1_370_000_000_000 // 3_600_000 * 3_600_000
SPAN_MS = 2 * 3_600_000
# Of numbers; what counts distinct values has events of its own in tests/properties/test_distinct_executors.py.
FUNCTIONS = tuple(f for f in PARTIALS_OF if f != "count_distinct")

VIEW = View(
    name="sensor_readings",
    topic="lab.readings.valid",
    table="lab_readings",
    event_id_field="event_id",
    join_keys=(JoinKey("sensor"),),
    columns={"sensor": "string", "value": "double", "event_id": "string"},
    aggregates=(
        *(Aggregate(f"{f}_5m", "value", f, 300, 60) for f in FUNCTIONS),
        *(Aggregate(f"{f}_1h", "value", f, 3600, 600) for f in FUNCTIONS),
        Aggregate("events_2m", "event_id", "count", 120, 60),
    ),
)
NAMES = tuple(a.name for a in VIEW.aggregates)
PLAN = Plan((VIEW,), (Service("lab_v1", tuple((VIEW.name, name) for name in NAMES)),))

SCHEMA = pa.schema(
    {
        "event_time_ms": pa.int64(),
        "event_id": pa.string(),
        "sensor": pa.string(),
        "value": pa.float64(),
        "ingest_ms": pa.int64(),
        "kafka_partition": pa.int32(),
        "kafka_offset": pa.int64(),
    }
)

instants = st.integers(0, SPAN_MS).map(lambda offset: START_MS + offset)
# Eighths, so that sums of them are exact whatever the order: what is compared is meaning, not rounding.
numbers = st.integers(-4_000, 40_000).map(lambda n: n / 8)


@st.composite
def event_logs(draw: st.DrawFn, most: int = 40) -> list[dict[str, Any]]:
    """Events in order of arrival, which is not the order of their times."""
    drawn = draw(
        st.lists(
            st.tuples(instants, st.sampled_from("ab"), st.none() | numbers, st.integers(0, 1)),
            max_size=most,
        )
    )
    return [
        {
            "event_time_ms": at,
            "event_id": f"e{position * 7919 % 1000:03}",
            "sensor": sensor,
            "value": value,
            "ingest_ms": START_MS + SPAN_MS + position,
            "kafka_partition": partition,
            "kafka_offset": position,
        }
        for position, (at, sensor, value, partition) in enumerate(drawn)
    ]


def event(at_ms: int, value: float | None, **fields: Any) -> dict[str, Any]:
    """One reading of sensor a, `at_ms` after the start, ingested as it happened."""
    defaults = {
        "event_time_ms": START_MS + at_ms,
        "event_id": f"e{at_ms}",
        "sensor": "a",
        "value": value,
        "ingest_ms": START_MS + at_ms,
        "kafka_partition": 0,
        "kafka_offset": at_ms,
    }
    return defaults | fields


def table(events: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Events as lake rows."""
    return pa.Table.from_pylist(list(events), schema=SCHEMA)


def assert_same(found: Mapping[str, float | None], wanted: Mapping[str, float | None]) -> None:
    """Same features, same values within 1e-9 relative, NaN as null."""
    plain = {n: None if v is None or math.isnan(v) else v for n, v in found.items()}
    assert plain == {n: pytest.approx(v, rel=1e-9) if v else v for n, v in wanted.items()}
