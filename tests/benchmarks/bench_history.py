"""Row e: a training set point in time, three views of ten features, late and duplicate events.

Every contender reads Parquet files and answers with a table in memory. The limit is hand-written DuckDB: the same ASOF
joins without a plan or a framework. One event in ten came up to a day late, one in fifty was delivered twice.

Every entity has a row of the first instant, and no (entity, instant) is asked for twice: Feast's Dask store drops an
asked row whose entity has only later events in some view (`_filter_ttl` keeps the rows without any match and those at
or before the instant, and none is left), with its values of all other views, and folds equal rows into one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.batch import features_as_of
from features.row_views import RowView
from features.views import Plan, Service
from tests.benchmarks.contenders import Contender, measured, race, record, row
from tests.benchmarks.peers import Peer

T0_MS, DAY_MS = 1_700_000_000_000, 86_400_000
FIELDS = tuple(f"f{n}" for n in range(10))
VIEWS = tuple(RowView(f"v{n}", f"v{n}", ("k",), FIELDS) for n in range(3))
PLAN = Plan((), (Service("s", tuple((v.name, f) for v in VIEWS for f in FIELDS)),), VIEWS)
LARGE = os.environ.get("BENCH") == "large"
SIZES = [10_000_000] if LARGE else [10_000, 100_000, 1_000_000]
# Beyond these a run takes Feast's stores minutes: both make every pair of an asked row and an event of its entity.
FEAST_ROWS_MAX = {"duckdb": 1_000_000, "dask": 10_000}
# What a training set of ten million rows may take in memory, its answer of 2.4 GB and the files read included.
PEAK_MB_MAX = 8_192


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


def _firsts(keys: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Positions of the first row of each combination."""
    span = int(at.max() - at.min()) + 1
    return np.unique(keys * span + (at - at.min()), return_index=True)[1]


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
        pq.write_table(table, folder / f"{view.table}.ms.parquet")
        if not LARGE:
            pq.write_table(_timed(table, "ingest_ms"), folder / f"{view.table}.parquet")
    asked = asked_rows(rows)
    pq.write_table(asked, folder / "asked.ms.parquet")
    pq.write_table(_timed(asked).drop_columns("event_time_ms"), folder / "asked.parquet")


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


class Files(Mapping[str, pa.Table]):
    """Tables that are read when they are wanted, so that one stands in memory at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, table: str) -> pa.Table:
        return pq.read_table(self._folder / f"{table}.ms.parquet")

    def __iter__(self) -> Iterator[str]:
        return (view.table for view in VIEWS)

    def __len__(self) -> int:
        return len(VIEWS)


def ours(folder: Path) -> pa.Table:
    return features_as_of(PLAN, "s", Files(folder), pq.read_table(folder / "asked.ms.parquet"))


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


def equal_rows(folder: Path) -> pa.Schema:
    """The answer's columns, once it is known that the limit answers the same."""
    found = ours(folder).select(PLAN.service("s").names)
    assert found.equals(by_hand(folder)), "not the same answer: no number"
    schema: pa.Schema = found.schema
    return schema


@pytest.mark.timeout(1800)
@pytest.mark.skipif(LARGE, reason="the large size is a test of its own")
@pytest.mark.parametrize("rows", SIZES)
def test_bench_history(rows: int, tmp_path: Path) -> None:
    write(tmp_path, rows)
    schema = equal_rows(tmp_path)
    contenders: dict[str, Contender] = {
        "ours": lambda: ours(tmp_path),
        "limit": lambda: by_hand(tmp_path),
    }
    kinds = [kind for kind, most in FEAST_ROWS_MAX.items() if rows <= most]
    options = {"folder": str(tmp_path), "views": [v.name for v in VIEWS], "fields": FIELDS}
    with Peer("peer_history", feast=kinds, **options) as peer:
        for kind in ("polars", *(f"feast-{kind}" for kind in kinds)):
            peer.ask(f"answer {kind}")
            theirs = pq.read_table(tmp_path / f"{kind}.parquet").drop_columns("n")
            assert theirs.cast(schema).equals(ours(tmp_path).select(schema.names)), (
                f"{kind}: not the same answer: no number"
            )
            contenders[kind] = peer.contender(kind)
        runs = race(contenders)
        versions = peer.ask("versions")
    record(row("e", named(rows), runs, versions))


def named(rows: int) -> str:
    return f"training set, {rows:,} rows x 3 views x 10 features"


@pytest.mark.timeout(1800)
@pytest.mark.skipif(not LARGE, reason="BENCH=large")
@pytest.mark.parametrize("rows", SIZES)
def test_bench_large_history(rows: int, tmp_path: Path) -> None:
    # What making the files leaves behind in this process must not count as the contenders' memory.
    spawned = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with spawned as pool:
        pool.submit(write, tmp_path, rows).result()
        pool.submit(equal_rows, tmp_path).result()
    runs = {}
    for name, read in {"ours": ours, "limit": by_hand}.items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            runs[name] = [alone.submit(measured, partial(_forgotten, read, tmp_path)).result()]
    record(
        row("e", named(rows), runs, ("duckdb", "pyarrow"), "one run each, in a process of its own")
    )
    assert runs["ours"][0].peak_mb < PEAK_MB_MAX


def _forgotten(read: Callable[[Path], pa.Table], folder: Path) -> None:
    """The work without its answer, which would have to travel between processes."""
    read(folder)
