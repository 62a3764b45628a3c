"""What the lake holds, and whether what was served is what it recomputes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from features.lake import Lake
from features.parity import compare
from features.served import served_vectors
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


def parity(
    stores: StoreSettings, plan: Plan, case: str, since_ms: int | None = None
) -> dict[str, Any]:
    """Recompute every vector that was served, and count equal values and the causes of unequal ones.

    With `since_ms`, only of requests from that event time on.
    """
    service = usecase.load("schemas", case).SERVICE
    lake = Lake(stores)
    report = compare(
        plan, service, served_vectors(lake, plan, case, service, since_ms=since_ms), lake
    )
    return {
        **report.counts(),
        "by_feature": {name: dict(counts) for name, counts in report.by_feature.items()},
        "unexplained_examples": [
            example._asdict() for example in report.examples if example.cause == "unexplained"
        ][:EXAMPLES_SHOWN],
    }
