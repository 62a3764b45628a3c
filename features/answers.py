"""Answers beside their requests and outcomes, as the lake keeps them: one row an answer, whether its outcome came or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from schemas.topics import table_of

if TYPE_CHECKING:
    from features.batch import Scans

RESULT_COLUMNS = ("request_id", "event_time_ms", "status", "score", "label", "version", "route")
OUTCOME = "outcome"


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
        tables[f"{case}.outcomes"].table, since_ms=since_ms, columns=("request_id", "late")
    ).rename_columns(["request_id", OUTCOME])
    joined = results.join(_first(outcomes), "request_id", join_type="left outer")
    if fields:
        requests = lake.scan(
            tables[f"{case}.requests"].table,
            since_ms=since_ms,
            until_ms=until_ms,
            columns=("request_id", *fields),
        )
        joined = joined.join(_first(requests), "request_id", join_type="left outer")
    return joined.sort_by("event_time_ms").combine_chunks()


def _first(rows: pa.Table) -> pa.Table:
    """One row a request: whoever retried may have left several."""
    others = [name for name in rows.column_names if name != "request_id"]
    kept = rows.group_by("request_id", use_threads=False).aggregate([(n, "first") for n in others])
    return kept.rename_columns({f"{name}_first": name for name in others})
