"""Row-level SQL on the real engine: Flink reads the subset as Python and DuckDB do."""

from __future__ import annotations

import itertools
import json
import math
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from features.row_events import events_of
from features.row_sql import parse
from features.tile_row import TileRowDecoder
from features.views import Aggregate, ColumnType, JoinKey, View
from pipelines.flink_jobs import submit
from pipelines.flink_sql import job
from schemas import topics
from tests.pipelines.records import committed, eventually, produce

if TYPE_CHECKING:
    from pipelines.settings import FlinkSettings
    from schemas.settings import KafkaSettings

pytestmark = pytest.mark.slow
COLUMNS: dict[str, ColumnType] = {"a": "double", "n": "bigint", "s": "string"}
EXPRESSIONS = (
    "a + n",
    "a - 0.1",
    "a * n",
    "a / n",
    "1 / n",
    "-(a)",
    "ABS(a)",
    "FLOOR(a)",
    "CEIL(a)",
    "COALESCE(a, n)",
    "NULLIF(n, 2)",
    "CHAR_LENGTH(s)",
    "CASE WHEN a > n THEN a ELSE n END",
    "CASE WHEN a IS NULL THEN 1 END",
    "CASE WHEN NOT (a > 1 AND n < 3) THEN 1 ELSE 0 END",
    "CASE WHEN a > 1 OR n IS NULL THEN 1 ELSE 0 END",
    "CASE WHEN s = 'xé' THEN 1 WHEN s LIKE 'x%' THEN 2 ELSE 3 END",
    "CASE WHEN s = 'O''Hare' THEN 1 WHEN s = 'x'' OR ''1''=''1' THEN 2 ELSE 3 END",
    "CASE WHEN s < 'x' THEN 1 ELSE 0 END",
    "CASE s WHEN 'x' THEN 10 WHEN '' THEN 20 END",
    "CASE WHEN n BETWEEN 1 AND 2.5 THEN 1 ELSE 0 END",
    "CASE WHEN n IN (2, 3) THEN 1 ELSE 0 END",
    "CASE WHEN n NOT IN (2, 3) THEN 1 ELSE 0 END",
    "CASE WHEN CAST(n AS VARCHAR) = '2' THEN 1 ELSE 0 END",
    "CAST(n AS DOUBLE) / 3",
    "a * 1e300 * 1e300",
    "(a + n) * (a - n) / (n - 2)",
)
KEYS: dict[str, ColumnType] = {"k": "string", "id": "string"}
NAMES = tuple(f"x{i}" for i in range(len(EXPRESSIONS)))
SELECT = ", ".join(f"{e} AS {n}" for e, n in zip(EXPRESSIONS, NAMES, strict=True))
ROWS = parse(f"SELECT {SELECT} FROM t WHERE n IS NULL OR n < 4", COLUMNS)  # noqa: S608
VIEW = View(
    name="row_sql_readings",
    topic="row_sql.valid",
    table="t",
    event_id_field="id",
    join_keys=(JoinKey("k"),),
    columns={**KEYS, **ROWS.columns},
    aggregates=tuple(Aggregate(f"last_{n}", n, "last", 3600, 300) for n in NAMES),
    row_sql=ROWS,
)


def events() -> list[dict[str, Any]]:
    combinations = itertools.product(
        (None, 0.0, 1.5, -2.25, 1e9), (None, 0, 2, 3, 5), (None, "", "x", "xé", "O'Hare")
    )
    return [
        {
            "k": f"k{i}",
            "id": f"e{i}",
            "event_time_ms": 1_700_000_000_000 + i,
            "a": a,
            "n": n,
            "s": s,
        }
        for i, (a, n, s) in enumerate(combinations)
    ]


def test_flink_gives_what_python_gives(kafka: KafkaSettings, flink: FlinkSettings) -> None:
    topics.create(kafka, (topics.Topic(VIEW.topic, None, "k"), topics.tile_topic(VIEW.topic_out)))
    produce(kafka, VIEW.topic, [(e["k"], json.dumps(e).encode()) for e in events()])
    wanted = {e["k"]: [e[n] for n in NAMES] for e in events_of(VIEW, events())}
    assert len(wanted) == 100
    submit([job(VIEW, kafka, flink)], flink)
    eventually(lambda: len(_tiles(kafka)) == len(wanted))
    for key, found in _tiles(kafka).items():
        for expression, one, two in zip(EXPRESSIONS, found, wanted[key], strict=True):
            assert _same(one, two), (expression, key, one, two)


def _tiles(kafka: KafkaSettings) -> dict[str, list[float]]:
    decoder = TileRowDecoder(VIEW)
    partials = [p.column for p in VIEW.layouts[0].partials]
    places = [partials.index(n) for n in NAMES]
    found = {}
    for message in committed(kafka, VIEW.topic_out):
        decoded = decoder.decode(message.value())
        assert decoded is not None, msgspec.json.decode(message.value() or b"{}")
        (key,), row = decoded
        found[str(key)] = [row.partials[place] for place in places]
    return found


def _same(found: float, wanted: float | None) -> bool:
    return math.isnan(found) if wanted is None else math.isclose(found, wanted, rel_tol=1e-12)
