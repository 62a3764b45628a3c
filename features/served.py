"""The vectors that were served, as the lake keeps them: each result's features beside the join keys of its request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.topics import table_of

if TYPE_CHECKING:
    from features.batch import Scans
    from features.views import Plan

RESULT_COLUMNS = ("request_id", "event_time_ms", "read_at_ms", "features")


def served_vectors(
    lake: Scans,
    plan: Plan,
    case: str,
    service: str,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
) -> pa.Table:
    """What `features.parity.compare` takes: the results of an interval of event time that carried a vector.

    Args:
        lake: With the tables of results and requests.
        plan: The applied plan.
        case: The use case.
        service: Whose features to take from each result.
        since_ms: Of the request's event time, included.
        until_ms: Excluded.
    """
    tables = table_of(case)
    results = lake.scan(
        tables[f"{case}.results"].table,
        since_ms=since_ms,
        until_ms=until_ms,
        columns=RESULT_COLUMNS,
    )
    logged = [dict(row) for row in results["features"].to_pylist()]
    vectors = {
        name: pa.array(np.array([_number(row.get(name)) for row in logged], dtype=float))
        for name in plan.service(service).names
    }
    answers = pa.table({name: results[name] for name in RESULT_COLUMNS[:3]} | vectors)
    answers = answers.filter(pa.array([bool(row) for row in logged], pa.bool_()))
    read = (*plan.entity_columns(service), *plan.request_columns(service))
    keys = ("request_id", *(name for name in dict.fromkeys(read) if name not in RESULT_COLUMNS))
    requests = lake.scan(
        tables[f"{case}.requests"].table, since_ms=since_ms, until_ms=until_ms, columns=keys
    )
    joined: pa.Table = answers.join(requests, "request_id", join_type="inner").combine_chunks()
    return joined


def span_ms(lake: Scans, case: str, stream: str) -> tuple[int, int] | None:
    """The event times of a stream's first and newest row; None while there is none."""
    table = table_of(case)[f"{case}.{stream}"].table
    found = pc.min_max(lake.scan(table, columns=("event_time_ms",))["event_time_ms"])
    first, newest = found["min"].as_py(), found["max"].as_py()
    return None if first is None else (int(first), int(newest))


def newest_ms(lake: Scans, case: str, stream: str = "results") -> int | None:
    """The event time of the newest row of a stream; None while there is none."""
    span = span_ms(lake, case, stream)
    return span[1] if span else None


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
