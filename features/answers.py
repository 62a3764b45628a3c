"""Answers beside their requests and outcomes, as the lake keeps them: one row an answer, whether its outcome came or not.

Whoever retried, or changed a label, has left several outcomes of one request: the one that was received first counts, as it does
wherever outcomes are read (`pipelines.training_set`, `monitoring.halves`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from schemas.topics import table_of

if TYPE_CHECKING:
    from features.batch import Scans

RESULT_COLUMNS = ("request_id", "event_time_ms", "status", "score", "label", "version", "route")
OUTCOME = "outcome"
# By these rows of one key are ordered as they were received; history has no offset, and was received when it happened.
RECEIVED = ("ingest_ms", "kafka_offset")


def answers(
    lake: Scans,
    case: str,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    fields: tuple[str, ...] = (),
) -> pa.Table:
    """`RESULT_COLUMNS`, the named fields of the request, and `outcome`: true, false, or null where it never came.

    Args:
        lake: With the tables of results, requests and outcomes.
        case: The use case.
        since_ms: Of the request's event time, included. Outcomes are taken from whenever they came.
        until_ms: Excluded.
        fields: Of the request, none of them in `RESULT_COLUMNS`.
    """
    tables = table_of(case)
    results = lake.scan(
        tables[f"{case}.results"].table,
        since_ms=since_ms,
        until_ms=until_ms,
        columns=RESULT_COLUMNS,
    )
    outcomes = lake.scan(
        tables[f"{case}.outcomes"].table,
        since_ms=since_ms,
        columns=("request_id", "late", *RECEIVED),
    )
    known = first(outcomes).rename_columns(["request_id", OUTCOME])
    joined = results.join(known, "request_id", join_type="left outer")
    if fields:
        requests = lake.scan(
            tables[f"{case}.requests"].table,
            since_ms=since_ms,
            until_ms=until_ms,
            columns=("request_id", *fields, *RECEIVED),
        )
        joined = joined.join(first(requests), "request_id", join_type="left outer")
    return joined.sort_by("event_time_ms").combine_chunks()


def first(rows: pa.Table) -> pa.Table:
    """Of each request the row that was received first, without `RECEIVED`."""
    others = [name for name in rows.column_names if name not in ("request_id", *RECEIVED)]
    ordered = rows.sort_by([(name, "ascending") for name in RECEIVED])
    whole = pc.ScalarAggregateOptions(skip_nulls=False)
    kept = ordered.group_by("request_id", use_threads=False).aggregate(
        [(name, "first", whole) for name in others]
    )
    return kept.rename_columns({f"{name}_first": name for name in others})


def contradicted(
    lake: Scans, case: str, *, since_ms: int | None = None, among: pa.Table | None = None
) -> int:
    """Of how many requests, of those in `among` where it is given, there are outcomes that contradict each other."""
    table = table_of(case)[f"{case}.outcomes"].table
    outcomes = lake.scan(table, since_ms=since_ms, columns=("request_id", "late"))
    if among is not None:
        asked = among["request_id"].combine_chunks().cast(outcomes["request_id"].type)
        outcomes = outcomes.filter(pc.is_in(outcomes["request_id"], value_set=asked))
    labels = outcomes.group_by("request_id").aggregate([("late", "count_distinct")])
    return int(pc.sum(pc.greater(labels["late_count_distinct"], 1)).as_py() or 0)
