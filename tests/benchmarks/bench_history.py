"""Row e: a training set point in time, three views of ten features, late and duplicate events.

Every contender reads Parquet files and answers with a table in memory. The limit is hand-written DuckDB: the same ASOF
joins without a plan or a framework. One event in ten came up to a day late, one in fifty was delivered twice.

Every entity has a row of the first instant, and no (entity, instant) is asked for twice: Feast's Dask store drops an
asked row whose entity has only later events in some view (`_filter_ttl` keeps the rows without any match and those at
or before the instant, and none is left), with its values of all other views, and folds equal rows into one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.batch import features_as_of
from features.row_views import RowView
from features.views import Plan, Service
from tests.benchmarks.contenders import Contender, race, record, row
from tests.benchmarks.peers import Peer

if TYPE_CHECKING:
    from pathlib import Path

T0_MS, DAY_MS = 1_700_000_000_000, 86_400_000
FIELDS = tuple(f"f{n}" for n in range(10))
VIEWS = tuple(RowView(f"v{n}", f"v{n}", ("k",), FIELDS) for n in range(3))
PLAN = Plan((), (Service("s", tuple((v.name, f) for v in VIEWS for f in FIELDS)),), VIEWS)
LARGE = os.environ.get("BENCH") == "large"
SIZES = [10_000_000] if LARGE else [10_000, 100_000, 1_000_000]
# 100,000 took Feast's Dask store longer than a minute a run: every pair of an asked row and an event of its entity.
DASK_ROWS_MAX = 10_000


def events(rows: int, seed: int) -> pa.Table:
    dice = np.random.default_rng(seed)
    entities = rows // 20
    # Seconds, so that an entity has two rows of one instant now and then.
    at = (T0_MS + dice.integers(1, 7 * DAY_MS, rows)) // 1_000 * 1_000
    at[:entities] = T0_MS
    columns = {
        "k": np.concatenate([np.arange(entities), dice.integers(0, entities, rows - entities)]),
        "event_time_ms": at,
        "ingest_ms": at + (dice.random(rows) < 0.1) * dice.integers(0, DAY_MS, rows),
    }
    table = pa.table(columns | {f: dice.normal(size=rows) for f in FIELDS})
    # Which of two rows of one (entity, instant) counts must not hang on how a contender breaks a tie.
    table = table.take(pa.array(_firsts(columns["k"], at)))
    again = table.take(pa.array(dice.integers(0, len(table), rows // 50)))
    whole = pa.concat_tables([table, again])
    return whole.append_column("kafka_offset", pa.array(np.arange(len(whole))))


def _firsts(*columns: np.ndarray) -> np.ndarray:
    """Positions of the first row of each combination."""
    return np.unique(np.stack(columns), axis=1, return_index=True)[1]


def asked_rows(rows: int) -> pa.Table:
    dice = np.random.default_rng(9)
    keys = dice.integers(0, rows // 20, rows)
    at = T0_MS + dice.integers(1, 7 * DAY_MS, rows)
    chosen = np.sort(_firsts(keys, at))
    table = pa.table({"k": keys[chosen], "event_time_ms": at[chosen]})
    return table.append_column("n", pa.array(np.arange(len(chosen))))


def write(folder: Path, rows: int) -> None:
    for seed, view in enumerate(VIEWS):
        table = events(rows, seed)
        pq.write_table(_timed(table, "ingest_ms"), folder / f"{view.table}.parquet")
        pq.write_table(table, folder / f"{view.table}.ms.parquet")
    asked = asked_rows(rows)
    pq.write_table(_timed(asked).drop_columns("event_time_ms"), folder / "asked.parquet")
    pq.write_table(asked, folder / "asked.ms.parquet")


def _timed(table: pa.Table, created: str = "") -> pa.Table:
    """Feast's columns: timestamps with a zone."""
    at = pa.timestamp("ms", tz="UTC")
    if created:
        table = table.append_column("created", table[created].cast(at)).drop_columns(
            [created, "kafka_offset"]
        )
        table = table.append_column("event_timestamp", table["event_time_ms"].cast(at))
        return table.drop_columns("event_time_ms")
    return table.append_column("event_timestamp", table["event_time_ms"].cast(at))


def ours(folder: Path) -> pa.Table:
    tables = {view.table: pq.read_table(folder / f"{view.table}.ms.parquet") for view in VIEWS}
    return features_as_of(PLAN, "s", tables, pq.read_table(folder / "asked.ms.parquet"))


def by_hand(folder: Path) -> pa.Table:
    """The same answer, as somebody who knows DuckDB would write it for these files."""
    parts = []
    with duckdb.connect(":memory:") as connection:
        for view in VIEWS:
            fields = ", ".join(f"e.{f} AS {view.name}__{f}" for f in FIELDS)
            query = f"""
                SELECT {fields} FROM '{folder}/asked.ms.parquet' a ASOF LEFT JOIN (
                    SELECT DISTINCT ON (k, event_time_ms) * FROM '{folder}/{view.table}.ms.parquet'
                    ORDER BY k, event_time_ms, ingest_ms DESC, kafka_offset DESC
                ) e ON a.k = e.k AND a.event_time_ms >= e.event_time_ms ORDER BY a.n
            """  # noqa: S608 - our own names
            parts.append(connection.sql(query).to_arrow_table())
    return pa.table({name: part[name] for part in parts for name in part.column_names})


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rows", SIZES)
def test_bench_history(rows: int, tmp_path: Path) -> None:
    write(tmp_path, rows)
    found = ours(tmp_path).select(PLAN.service("s").names)
    assert found.equals(by_hand(tmp_path)), "not the same answer: no number"
    name = f"training set, {rows:,} rows x 3 views x 10 features"
    contenders: dict[str, Contender] = {
        "ours": lambda: ours(tmp_path),
        "limit": lambda: by_hand(tmp_path),
    }
    if LARGE:
        record(row("e", name, race(contenders, repeats=1), ("duckdb", "pyarrow"), "one run"))
        return
    kinds = ["duckdb", "dask"] if rows <= DASK_ROWS_MAX else ["duckdb"]
    options = {"folder": str(tmp_path), "views": [v.name for v in VIEWS], "fields": FIELDS}
    with Peer("peer_history", feast=kinds, **options) as peer:
        for kind in ("polars", *(f"feast-{kind}" for kind in kinds)):
            peer.ask(f"answer {kind}")
            theirs = pq.read_table(tmp_path / f"{kind}.parquet").drop_columns("n")
            assert theirs.cast(found.schema).equals(found), f"{kind}: not the same answer: no number"
            contenders[kind] = peer.contender(kind)
        runs = race(contenders)
        record(row("e", name, runs, peer.ask("versions")))
