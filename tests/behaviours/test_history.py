"""What Feast's users expect of `get_historical_features`, whatever form the rows come in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.errors import FeastEntityDFMissingColumnsError, SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

from features.asked_views import RetrievalUnsupported
from features.entity_rows import EntityRowsRefused
from features.feast_store import apply, feature_store
from features.lake import Lake
from features.reference import features_as_of as reference
from features.retrieval import SavedDatasetLakeStorage
from features.views import Plan
from tests.conftest import stores_at
from tests.features.flights_data import departures

if TYPE_CHECKING:
    from feast import FeatureStore

    from features.settings import StoreSettings

FEATURES = ["dest_departures:mean_delay_3h", "carrier_departures:count_delay_24h"]
LAG_MS = 3_600_000


@pytest.fixture(scope="module")
def lab(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> StoreSettings:
    made = stores_at(tmp_path_factory.mktemp("history"), redis_url)
    apply("flights", made)
    rows = departures(6).drop_columns(["scheduled_ms"]).slice(0, 3_000)
    # Every second one was ingested an hour after it happened.
    late = np.arange(len(rows)) % 2 * LAG_MS
    place = rows.column_names.index("ingest_ms")
    seen = pa.array(rows["event_time_ms"].to_numpy() + late)
    Lake(made).append("flights_departures", rows.set_column(place, "ingest_ms", seen))
    return made


@pytest.fixture(scope="module")
def store(lab: StoreSettings) -> FeatureStore:
    return feature_store(lab)


@pytest.fixture(scope="module")
def log(lab: StoreSettings) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Lake(lab).scan("flights_departures").to_pylist()
    return sorted(rows, key=lambda e: e["event_time_ms"])


@pytest.fixture(scope="module")
def asked(log: list[dict[str, Any]]) -> pd.DataFrame:
    """In no order, one row twice, and a column that is nobody's business."""
    some = [*log[2_000:2_400:40], log[1_000], log[2_000]]
    return pd.DataFrame(
        {
            "dest": [e["dest"] for e in some],
            "carrier": [e["carrier"] for e in some],
            "event_timestamp": pd.to_datetime(
                [e["event_time_ms"] for e in some], unit="ms", utc=True
            ),
            "note": range(len(some)),
        }
    )


def found(store: FeatureStore, rows: Any, **options: Any) -> list[dict[str, Any]]:
    got: list[dict[str, Any]] = (
        store.get_historical_features(rows, FEATURES, **options).to_arrow().to_pylist()
    )
    return got


def test_rows_keep_their_order_their_columns_and_their_repetitions(
    store: FeatureStore, asked: pd.DataFrame
) -> None:
    rows = found(store, asked)
    assert [r["note"] for r in rows] == asked["note"].tolist()
    assert list(rows[0]) == [*asked.columns, "mean_delay_3h", "count_delay_24h"]
    assert rows[0]["count_delay_24h"] == rows[-1]["count_delay_24h"] > 0


def test_full_names_say_the_view(store: FeatureStore, asked: pd.DataFrame) -> None:
    assert "dest_departures__mean_delay_3h" in found(store, asked, full_feature_names=True)[0]


def test_pandas_arrow_and_sql_say_the_same(
    store: FeatureStore, asked: pd.DataFrame, log: list[dict[str, Any]]
) -> None:
    wanted = found(store, asked)
    assert found(store, pa.Table.from_pandas(asked)) == wanted
    sql = """
        WITH late AS (SELECT * FROM flights_departures WHERE dep_delay > 60)
        SELECT dest, carrier, make_timestamp(event_time_ms * 1000) AS event_timestamp
        FROM late ORDER BY event_time_ms, event_id LIMIT 20
    """
    rows = found(store, sql)
    late = sorted(
        (e for e in log if (e["dep_delay"] or 0) > 60),
        key=lambda e: (e["event_time_ms"], e["event_id"]),
    )[:20]
    assert [r["dest"] for r in rows] == [e["dest"] for e in late]
    assert all(r["count_delay_24h"] > 0 for r in rows)


def test_times_without_a_zone_are_utc_and_zones_are_instants(
    store: FeatureStore, asked: pd.DataFrame
) -> None:
    wanted = [r["mean_delay_3h"] for r in found(store, asked)]
    naive = asked.assign(event_timestamp=asked["event_timestamp"].dt.tz_localize(None))
    zoned = asked.assign(event_timestamp=asked["event_timestamp"].dt.tz_convert("Asia/Tokyo"))
    assert [r["mean_delay_3h"] for r in found(store, naive)] == wanted
    assert [r["mean_delay_3h"] for r in found(store, zoned)] == wanted


def test_an_entity_never_seen_has_empty_windows(store: FeatureStore, asked: pd.DataFrame) -> None:
    row = found(store, asked.assign(dest="XXX", carrier="??"))[0]
    assert (row["mean_delay_3h"], row["count_delay_24h"]) == (None, 0)


def test_what_was_not_known_does_not_leak(
    store: FeatureStore, asked: pd.DataFrame, log: list[dict[str, Any]], lab: StoreSettings
) -> None:
    view = Plan.load(lab.plan_path).view("carrier_departures")
    by_event = found(store, asked)
    by_created = found(store, asked, filter_by_created_timestamp=True)
    hindsight = found(store, asked.assign(known_at=pd.Timestamp("2014-01-01", tz="UTC")))
    assert [r["count_delay_24h"] for r in hindsight] == [r["count_delay_24h"] for r in by_event]
    assert by_created != by_event
    for row in by_created:
        as_of = int(row["event_timestamp"].timestamp() * 1000)
        known = [e for e in log if e["ingest_ms"] <= as_of]
        wanted = reference(view, known, {"carrier": row["carrier"]}, as_of)["count_delay_24h"]
        assert row["count_delay_24h"] == wanted


def test_results_are_kept_as_parquet_and_as_a_lake_table(
    store: FeatureStore, asked: pd.DataFrame, lab: StoreSettings, tmp_path: Path
) -> None:
    job = store.get_historical_features(asked, FEATURES)
    path = tmp_path / "sets" / "one.parquet"
    job.persist(SavedDatasetFileStorage(str(path)))
    assert pq.read_table(path).num_rows == len(asked)
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(SavedDatasetFileStorage(str(path)))
    job.persist(SavedDatasetFileStorage(str(path)), allow_overwrite=True)
    job.persist(SavedDatasetLakeStorage("training_one"))
    kept = Lake(lab).scan("training_one")
    assert sorted(kept["note"].to_pylist()) == asked["note"].tolist()
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(SavedDatasetLakeStorage("training_one"))


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ("SELECT * FROM read_csv('/etc/passwd')", EntityRowsRefused),
        ("DROP TABLE flights_departures", EntityRowsRefused),
        ("SELECT * FROM nowhere", EntityRowsRefused),
        ("SELEC", EntityRowsRefused),
        (pd.DataFrame({"dest": ["IAH"]}), EntityRowsRefused),
        ([1, 2], EntityRowsRefused),
        (
            pd.DataFrame({"dest": ["IAH"], "event_timestamp": [pd.Timestamp("2013-06-01")]}),
            FeastEntityDFMissingColumnsError,
        ),
    ],
)
def test_rows_that_cannot_be_understood_are_refused(
    store: FeatureStore, rows: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        found(store, rows)


def test_a_range_of_time_alone_is_refused(store: FeatureStore) -> None:
    with pytest.raises(RetrievalUnsupported, match="SELECT"):
        store.get_historical_features(
            features=FEATURES, start_date=pd.Timestamp("2013-06-01", tz="UTC")
        )
