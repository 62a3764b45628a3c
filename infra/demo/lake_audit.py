"""What the lake holds, and whether what was served is what it recomputes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from features.lake import Lake
from features.parity import compare
from schemas import usecase
from schemas.topics import table_of

if TYPE_CHECKING:
    from features.settings import StoreSettings
    from features.views import Plan

EXAMPLES_SHOWN = 5


def lake_rows(stores: StoreSettings, case: str) -> dict[str, int]:
    """Rows of every table."""
    lake = Lake(stores)
    tables = sorted({t.table for t in table_of(case).values()} & set(lake.tables()))
    return {name: lake.rows(name) for name in tables}


def parity(stores: StoreSettings, plan: Plan, case: str) -> dict[str, Any]:
    """Recompute every vector that was served, and count equal values and the causes of unequal ones."""
    service = usecase.load("schemas", case).SERVICE
    lake = Lake(stores)
    report = compare(plan, service, _served(lake, plan, case, service), lake)
    return {
        **report.counts(),
        "by_feature": {name: dict(counts) for name, counts in report.by_feature.items()},
        "unexplained_examples": [
            example._asdict() for example in report.examples if example.cause == "unexplained"
        ][:EXAMPLES_SHOWN],
    }


def _served(lake: Lake, plan: Plan, case: str, service: str) -> pa.Table:
    """The vectors of the results that had any, beside the keys of their requests."""
    results = lake.scan(table_of(case)[f"{case}.results"].table)
    logged = [dict(row) for row in results["features"].to_pylist()]
    names = plan.service(service).names
    vectors = {
        name: pa.array(np.array([_number(row.get(name)) for row in logged])) for name in names
    }
    answers = pa.table(
        {
            "request_id": results["request_id"],
            "event_time_ms": results["event_time_ms"],
            "read_at_ms": results["read_at_ms"],
            **vectors,
        }
    ).filter(pa.array([bool(row) for row in logged]))
    requests = lake.scan(table_of(case)[f"{case}.requests"].table)
    keys = ["request_id", *(key.name for key in plan.join_keys(service))]
    return answers.join(requests.select(keys), "request_id", join_type="inner").combine_chunks()


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
