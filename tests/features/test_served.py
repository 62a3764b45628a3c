from __future__ import annotations

import pyarrow as pa

from features.served import newest_ms, served_vectors
from features.views import Aggregate, JoinKey, Plan, Service, View
from tests.features.held_tables import HeldTables
from tests.pipelines import toy

CASE = toy.register("served_case")
VIEW = View(
    name="station_levels",
    topic=f"{CASE}.readings.valid",
    table=f"{CASE}_readings",
    event_id_field="event_id",
    join_keys=(JoinKey("station"),),
    columns={"station": "string", "level": "double"},
    aggregates=(Aggregate("mean_1h", "level", "mean", 3_600, 300),),
)
NAME = "station_levels__mean_1h"
PLAN = Plan((VIEW,), (Service("levels_v1", ((VIEW.name, "mean_1h"),)),))


def tables(rows: int = 3) -> HeldTables:
    """Of three results; the last was answered without a vector."""
    at = [1_000, 2_000, 3_000][:rows]
    ids = ["a", "b", "c"][:rows]
    vectors: list[list[tuple[str, float | None]]] = [[(NAME, 1.5)], [(NAME, None)], []]
    return HeldTables(
        {
            f"{CASE}_results": pa.table(
                {
                    "request_id": pa.array(ids, pa.string()),
                    "event_time_ms": pa.array(at, pa.int64()),
                    "read_at_ms": pa.array([t + 7 for t in at], pa.int64()),
                    "features": pa.array(vectors[:rows], pa.map_(pa.string(), pa.float64())),
                }
            ),
            f"{CASE}_requests": pa.table(
                {
                    "request_id": pa.array(ids, pa.string()),
                    "event_time_ms": pa.array(at, pa.int64()),
                    "station": pa.array(["s1", "s2", "s3"][:rows], pa.string()),
                }
            ),
        }
    )


def test_each_vector_is_beside_the_keys_of_its_request() -> None:
    served = served_vectors(tables(), PLAN, CASE, "levels_v1").sort_by("request_id").to_pylist()
    assert [(r["request_id"], r["station"], r["read_at_ms"]) for r in served] == [
        ("a", "s1", 1_007),
        ("b", "s2", 2_007),
    ]
    assert served[0][NAME] == 1.5
    assert served[1][NAME] != served[1][NAME]


def test_an_interval_of_event_time() -> None:
    served = served_vectors(tables(), PLAN, CASE, "levels_v1", since_ms=2_000, until_ms=3_000)
    assert served["request_id"].to_pylist() == ["b"]


def test_an_empty_lake_has_served_nothing() -> None:
    assert len(served_vectors(tables(0), PLAN, CASE, "levels_v1")) == 0
    assert newest_ms(tables(0), CASE) is None
    assert newest_ms(tables(), CASE) == 3_000
