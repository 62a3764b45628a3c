"""Row e: a training set point in time, three views of ten features, late and duplicate events.

The limit is hand-written DuckDB: the same ASOF joins without a plan, a lake or a framework. Peers are not measured yet.
"""

from __future__ import annotations

import os

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from features.batch import features_as_of
from features.row_views import RowView
from features.views import Plan, Service
from tests.benchmarks.contenders import race, record, row

T0_MS, DAY_MS = 1_700_000_000_000, 86_400_000
ENTITIES = 50_000
FIELDS = tuple(f"f{n}" for n in range(10))
VIEWS = tuple(RowView(f"v{n}", f"t{n}", ("k",), FIELDS) for n in range(3))
PLAN = Plan((), (Service("s", tuple((v.name, f) for v in VIEWS for f in FIELDS)),), VIEWS)
SIZES = [100_000, 1_000_000] + ([10_000_000] if os.environ.get("BENCH") == "large" else [])


def events(rows: int, seed: int) -> pa.Table:
    dice = np.random.default_rng(seed)
    # Seconds, so that an entity has two rows of one instant now and then; one in ten came up to a day late.
    at = (T0_MS + dice.integers(0, 7 * DAY_MS, rows)) // 1_000 * 1_000
    late = (dice.random(rows) < 0.1) * dice.integers(0, DAY_MS, rows)
    columns = {
        "k": dice.integers(0, ENTITIES, rows),
        "event_time_ms": at,
        "ingest_ms": at + late,
        "kafka_offset": np.arange(rows),
    }
    return pa.table(columns | {f: dice.normal(size=rows) for f in FIELDS})


def by_hand(tables: dict[str, pa.Table], entities: pa.Table) -> pa.Table:
    """The same answer, as somebody who knows DuckDB would write it for these tables."""
    fields = {v.name: ", ".join(f"e.{f} AS {v.name}__{f}" for f in FIELDS) for v in VIEWS}
    parts = []
    with duckdb.connect(":memory:") as connection:
        connection.register("asked", entities.append_column("n", pa.array(range(len(entities)))))
        for view in VIEWS:
            connection.register("t", tables[view.table])
            query = f"""
                SELECT {fields[view.name]} FROM asked a ASOF LEFT JOIN (
                    SELECT DISTINCT ON (k, event_time_ms) * FROM t
                    ORDER BY k, event_time_ms, ingest_ms DESC, kafka_offset DESC
                ) e ON a.k = e.k AND a.event_time_ms >= e.event_time_ms ORDER BY a.n
            """  # noqa: S608 - our own names
            parts.append(connection.sql(query).to_arrow_table())
    return pa.table({name: part[name] for part in parts for name in part.column_names})


@pytest.mark.parametrize("rows", SIZES)
def test_bench_history(rows: int) -> None:
    tables = {view.table: events(rows, seed) for seed, view in enumerate(VIEWS)}
    dice = np.random.default_rng(9)
    entities = pa.table(
        {
            "k": dice.integers(0, ENTITIES, rows),
            "event_time_ms": T0_MS + dice.integers(0, 7 * DAY_MS, rows),
        }
    )
    ours = features_as_of(PLAN, "s", tables, entities).drop_columns(["k", "event_time_ms"])
    assert ours.equals(by_hand(tables, entities)), "not the same answer: no number"
    seconds = race(
        {
            "ours": lambda: features_as_of(PLAN, "s", tables, entities),
            "limit": lambda: by_hand(tables, entities),
        }
    )
    name = f"training set, {rows:,} rows x 3 views x 10 features"
    record(row("e", name, seconds, ("duckdb", "pyarrow")))
