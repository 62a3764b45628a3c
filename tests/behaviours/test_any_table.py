"""What Feast's universal tests ask of stores, asked of tables that are not ours: other timestamps, other names, no topic.

Nothing here went through `headrace features apply`: Feast's own `apply` is enough for views of rows.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import (
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    StreamFeatureView,
)
from feast.data_source import PushMode
from feast.errors import FeastEntityDFMissingColumnsError
from feast.feature_logging import FeatureServiceLoggingSource, LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.types import Array, Bool, Bytes, Float32, Int64, Json, Map, String, UnixTimestamp
from feast.value_type import ValueType

from features.asked_views import RetrievalUnsupported
from features.feast_store import feature_store
from features.feature_log import LakeLoggingDestination
from features.lake import Lake
from features.lake_source import LakeSource
from features.online_store import HeadraceOnlineStore
from features.retrieval import SavedDatasetLakeStorage, in_microseconds
from features.row_table import RowsUnreadable
from tests.conftest import stores_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from feast import FeatureStore

    from features.settings import StoreSettings

NOW = datetime.now(tz=UTC).replace(minute=0, second=0, microsecond=0)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
place = Entity(name="place", join_keys=["place_id"], value_type=ValueType.INT64)
TRIPS = LakeSource(
    "trips",
    timestamp_field="happened",
    created_timestamp_column="created",
    field_mapping={"id": "driver_id", "n": "trips", "ts": "happened"},
)
WEATHER = LakeSource("weather", timestamp_field="event_timestamp")


def of_driver(name: str, *fields: Field, ttl: timedelta | None = None) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[driver],
        ttl=ttl,
        schema=[Field(name="driver_id", dtype=Int64), *fields],
        source=TRIPS,
    )


trips = of_driver("trips_of_driver", Field(name="trips", dtype=Int64))
recent = of_driver("recent_trips", Field(name="trips", dtype=Int64), ttl=2 * HOUR)
both = of_driver(
    "trips_and_rating", Field(name="trips", dtype=Int64), Field(name="rating", dtype=Float32)
)
weather = FeatureView(
    name="weather_of_place",
    entities=[place],
    ttl=2 * DAY,
    schema=[Field(name="place_id", dtype=Int64), Field(name="celsius", dtype=Int64)],
    source=WEATHER,
)
everything = FeatureView(
    name="trips_of_all",
    entities=[],
    schema=[Field(name="n", dtype=Int64)],
    source=LakeSource("trips", timestamp_field="ts", created_timestamp_column="created"),
)
pushed = StreamFeatureView(
    name="weather_pushed",
    entities=[place],
    ttl=2 * DAY,
    schema=[Field(name="place_id", dtype=Int64), Field(name="celsius", dtype=Int64)],
    source=PushSource(name="weather_push", batch_source=WEATHER),
)
TRIP_ROWS = [
    (1, NOW - 4 * HOUR, NOW - 4 * HOUR, 4, 0.4),
    (1, NOW - 2 * HOUR, NOW - 2 * HOUR, 2, 0.2),
    (1, NOW - 2 * HOUR, NOW + HOUR, 22, 0.22),
    (2, NOW - 3 * HOUR, NOW + HOUR, 3, 0.3),
    (2, NOW - HOUR, NOW - HOUR, 1, 0.1),
]


@pytest.fixture(scope="module")
def lab(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> StoreSettings:
    stores = stores_at(tmp_path_factory.mktemp("any_table"), redis_url)
    stores = stores.model_copy(update={"project": "test_any_table"})
    frame = pd.DataFrame(TRIP_ROWS, columns=["id", "ts", "created", "n", "rating"])
    load(stores, "trips", frame.astype({"rating": "float32"}))
    rows = [(n, NOW - age * HOUR, n * 100 + age) for n in (1, 2) for age in (1, 5)]
    load(stores, "weather", pd.DataFrame(rows, columns=["place_id", "event_timestamp", "celsius"]))
    return stores


def load(stores: StoreSettings, table: str, frame: pd.DataFrame) -> None:
    rows = in_microseconds(pa.Table.from_pandas(frame, preserve_index=False))
    Lake(stores).create(table, rows.schema)
    Lake(stores).append(table, rows)


@pytest.fixture(scope="module")
def store(lab: StoreSettings) -> Iterator[FeatureStore]:
    made = feature_store(lab)
    made.apply([driver, place, trips, recent, both, weather, everything, pushed])
    made.apply(
        [
            FeatureService(
                name="ends",
                features=[
                    weather.with_name("origin").with_join_key_map({"place_id": "origin_id"}),
                    weather.with_name("destination").with_join_key_map({"place_id": "dest_id"}),
                ],
            ),
            FeatureService(name="ratings", features=[both[["rating"]], weather]),
        ]
    )
    yield made
    made.teardown()


def at(*hours_ago: int, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"event_timestamp": [NOW - h * HOUR for h in hours_ago], **columns})


def history(store: FeatureStore, rows: Any, features: Any, **options: Any) -> dict[str, list[Any]]:
    got: dict[str, list[Any]] = (
        store.get_historical_features(rows, features, **options).to_arrow().to_pydict()
    )
    return got


def test_columns_and_times_by_other_names_are_mapped(store: FeatureStore) -> None:
    asked = at(5, 4, 3, 0, driver_id=[1, 1, 1, 2])
    found = history(store, asked, ["trips_of_driver:trips"])
    assert found["trips"] == [None, 4, 4, 1]
    assert list(found) == ["event_timestamp", "driver_id", "trips"]


def test_of_two_rows_of_one_instant_the_one_made_last_counts(store: FeatureStore) -> None:
    assert history(store, at(0, driver_id=[1]), ["trips_of_driver:trips"])["trips"] == [22]


def test_what_was_made_later_was_not_known(store: FeatureStore) -> None:
    asked = at(0, 2, driver_id=[1, 2])
    features = ["trips_of_driver:trips"]
    assert history(store, asked, features)["trips"] == [22, 3]
    known = history(store, asked, features, filter_by_created_timestamp=True)
    assert known["trips"] == [2, None]


def test_a_row_older_than_the_ttl_is_null(store: FeatureStore) -> None:
    asked = at(2, 0, -1, driver_id=[1, 1, 1])
    assert history(store, asked, ["recent_trips:trips"])["trips"] == [22, 22, None]


def test_one_view_under_two_names_takes_its_keys_from_other_columns(store: FeatureStore) -> None:
    asked = at(0, 0, 4, origin_id=[1, 2, 2], dest_id=[2, 3, 1])
    service = store.get_feature_service("ends")
    found = history(store, asked, service, full_feature_names=True)
    assert found["origin__celsius"] == [101, 201, 205]
    assert found["destination__celsius"] == [201, None, 105]
    with pytest.raises(FeastEntityDFMissingColumnsError):
        history(store, asked.drop(columns="dest_id"), service, full_feature_names=True)


def test_online_too_one_view_goes_by_two_names(store: FeatureStore) -> None:
    store.materialize(NOW - DAY, NOW, ["weather_of_place"])
    answer = store.get_online_features(
        store.get_feature_service("ends"),
        [{"origin_id": 1, "dest_id": 2}, {"origin_id": 2, "dest_id": 9}],
        full_feature_names=True,
    ).to_dict()
    assert answer["origin__celsius"] == [101, 201]
    assert answer["destination__celsius"] == [201, None]


def test_a_service_gives_the_features_it_names_and_no_other(store: FeatureStore) -> None:
    asked = at(0, driver_id=[1], place_id=[1])
    found = history(store, asked, store.get_feature_service("ratings"))
    assert set(found) == {*asked.columns, "rating", "celsius"}
    by_list = history(store, asked, ["trips_and_rating:rating", "weather_of_place:celsius"])
    assert by_list == found


def test_views_over_one_table_keep_their_own_features(store: FeatureStore) -> None:
    with pytest.raises(KeyError):
        history(store, at(0, driver_id=[1]), ["trips_of_driver:rating"])
    with pytest.raises(KeyError):
        store.get_online_features(["trips_of_driver:rating"], [{"driver_id": 1}])


def test_unknown_null_and_repeated_entities(store: FeatureStore) -> None:
    keys = pd.array([9, None, 2, 2], dtype="Int64")
    found = history(store, at(0, 0, 0, 0, driver_id=keys), ["trips_of_driver:trips"])
    assert found["trips"] == [None, None, 1, 1]
    assert found["driver_id"] == [9, None, 2, 2]


def test_a_range_of_time_gives_the_rows_that_are_in_it(store: FeatureStore) -> None:
    found = store.get_historical_features(
        features=["trips_of_driver:trips", "trips_and_rating:rating"],
        start_date=NOW - 3 * HOUR,
        end_date=NOW - 2 * HOUR,
    ).to_df()
    rows = sorted(zip(found["driver_id"], found["event_timestamp"], found["trips"], strict=True))
    assert rows == [(1, NOW - 2 * HOUR, 22), (2, NOW - 3 * HOUR, 3)]
    assert found["rating"].tolist() == pytest.approx([0.3, 0.22])


def test_ranges_of_views_of_different_entities_are_refused(store: FeatureStore) -> None:
    with pytest.raises(RetrievalUnsupported, match="same join keys"):
        store.get_historical_features(
            features=["trips_of_driver:trips", "weather_of_place:celsius"],
            start_date=NOW - DAY,
            end_date=NOW,
        )


def test_materialize_goes_on_where_it_stopped(store: FeatureStore) -> None:
    # Times with a zone and without: both are UTC.
    store.materialize((NOW - 5 * HOUR).replace(tzinfo=None), NOW - 3 * HOUR, ["trips_of_driver"])
    assert online(store, 1, 2) == [4, 3]
    store.materialize_incremental(NOW, ["trips_of_driver"])
    assert online(store, 1, 2) == [22, 1]
    spans = store.get_feature_view("trips_of_driver").materialization_intervals
    assert [end for _, end in spans] == [NOW - 3 * HOUR, NOW]
    assert spans[1][0] == spans[0][1]


def test_features_of_everything_are_materialized_and_found_again(store: FeatureStore) -> None:
    store.materialize(NOW - DAY, NOW - 2 * HOUR, ["trips_of_all"])
    features = ["trips_of_all:n"]
    answer = store.get_online_features(features, [{"driver_id": 1}, {"driver_id": 9}])
    assert answer.to_dict()["n"] == [22, 22]
    assert history(store, at(0, 2, 9, driver_id=[1, 2, 3]), features)["n"] == [1, 22, None]


def online(store: FeatureStore, *drivers: int | None) -> list[int | None]:
    answer = store.get_online_features(
        ["trips_of_driver:trips"], [{"driver_id": d} for d in drivers]
    )
    got: list[int | None] = answer.to_dict()["trips"]
    return got


def test_online_answers_come_with_the_time_of_their_row(store: FeatureStore) -> None:
    rows = {"driver_id": [5], "trips": [7], "happened": [NOW - HOUR], "created": [NOW]}
    store.write_to_online_store("trips_of_driver", pd.DataFrame(rows))
    answer = store.get_online_features(["trips_of_driver:trips"], [{"driver_id": 5}])
    frame = answer.to_df(include_event_timestamps=True)
    assert frame["trips__ts"].tolist() == [int((NOW - HOUR).timestamp())]
    read = store.get_online_features_async(["trips_of_driver:trips"], [{"driver_id": 5}])
    assert asyncio.run(read).to_dict()["trips"] == [7]


def test_a_view_without_a_batch_of_columns_is_pushed_to_either_store(
    store: FeatureStore, lab: StoreSettings
) -> None:
    def row(celsius: int) -> pd.DataFrame:
        return pd.DataFrame(
            {"place_id": [77], "celsius": [celsius], "event_timestamp": [NOW - HOUR]}
        )

    def seen() -> tuple[Any, Any]:
        key, features = {"place_id": 77}, ["weather_pushed:celsius"]
        answer = store.get_online_features(features, [key]).to_dict()["celsius"]
        past = history(store, at(0, place_id=[77]), features)["celsius"]
        return answer[0], past[0]

    assert seen() == (None, None)
    store.push("weather_push", row(1), to=PushMode.ONLINE)
    assert seen() == (1, None)
    store.push("weather_push", row(2), to=PushMode.OFFLINE)
    assert seen() == (1, 2)
    asyncio.run(store.push_async("weather_push", row(3), to=PushMode.ONLINE))
    assert seen() == (3, 2)


def test_columns_of_another_order_are_put_in_order_and_others_are_refused(
    store: FeatureStore,
) -> None:
    row = {"celsius": [8], "event_timestamp": [NOW], "place_id": [88]}
    store.write_to_offline_store("weather_of_place", pd.DataFrame(row))
    asked, features = at(0, place_id=[88]), ["weather_of_place:celsius"]
    assert history(store, asked, features)["celsius"] == [8]
    with pytest.raises(ValueError, match="missing_expected_columns"):
        store.write_to_offline_store(
            "weather_of_place", pd.DataFrame({"place_id": [1], "event_timestamp": [NOW]})
        )


def test_a_training_set_is_kept_and_read_again(store: FeatureStore) -> None:
    job = store.get_historical_features(at(0, 3, driver_id=[1, 2]), ["trips_of_driver:trips"])
    kept = store.create_saved_dataset(job, "kept", SavedDatasetLakeStorage("kept"))
    again = store.get_saved_dataset("kept").to_df()
    for found in (kept.to_df(), again):
        rows = found.sort_values("driver_id")
        assert rows["trips"].tolist() == [22, 3]


def test_served_features_are_logged_to_the_lake(store: FeatureStore, lab: StoreSettings) -> None:
    def service(name: str, destination: Any) -> FeatureService:
        config = LoggingConfig(destination=destination)
        return FeatureService(name=name, features=[trips], logging_config=config)

    store.apply([service("logged", LakeLoggingDestination("served_log"))])
    named = store.get_feature_service("logged")
    destination = named.logging_config.destination
    assert isinstance(destination, LakeLoggingDestination)
    source = FeatureServiceLoggingSource(named, store.project)
    schema = source.get_schema(store.registry)
    row: dict[str, Any] = dict.fromkeys(schema.names) | {
        "driver_id": 1,
        "trips_of_driver__trips": 4,
        "__request_id": "r1",
        "__log_timestamp": NOW,
        "__log_date": NOW.date(),
    }
    for request in ("r1", "r2"):
        logs = pa.Table.from_pylist([row | {"__request_id": request}], schema=schema)
        store.write_logged_features(logs, named)
    held = Lake(lab).scan("served_log").to_pylist()
    assert sorted(r["__request_id"] for r in held) == ["r1", "r2"]
    assert [r["trips_of_driver__trips"] for r in held] == [4, 4]
    store.apply([service("logged_to_a_file", FileLoggingDestination(path="elsewhere"))])
    with pytest.raises(RetrievalUnsupported, match="LakeLoggingDestination"):
        store.write_logged_features(logs, store.get_feature_service("logged_to_a_file"))


def test_every_kind_of_column_comes_back_offline_and_online(
    store: FeatureStore, lab: StoreSettings
) -> None:
    values: dict[str, Any] = {
        "flag": True,
        "raw": b"\x00\xff",
        "seen": pd.Timestamp(NOW - DAY),
        "counts": [1, 2, 3],
        "words": ["é", ""],
        "flags": [True, False],
        "nothing": [],
        "config": json.dumps({"a": [1]}),
        "labels": {"kind": "sedan"},
    }
    kinds = {
        "flag": Bool,
        "raw": Bytes,
        "seen": UnixTimestamp,
        "counts": Array(Int64),
        "words": Array(String),
        "flags": Array(Bool),
        "nothing": Array(Int64),
        "config": Json,
        "labels": Map,
    }
    rows = {"driver_id": 1, "event_timestamp": NOW - HOUR} | values
    schema = pa.schema(
        [
            ("driver_id", pa.int64()),
            ("event_timestamp", pa.timestamp("us", tz="UTC")),
            ("flag", pa.bool_()),
            ("raw", pa.binary()),
            ("seen", pa.timestamp("us", tz="UTC")),
            ("counts", pa.list_(pa.int64())),
            ("words", pa.list_(pa.string())),
            ("flags", pa.list_(pa.bool_())),
            ("nothing", pa.list_(pa.int64())),
            ("config", pa.string()),
            ("labels", pa.struct([("kind", pa.string())])),
        ]
    )
    Lake(lab).create("kinds", schema)
    Lake(lab).append("kinds", pa.Table.from_pylist([rows], schema=schema))
    view = FeatureView(
        name="kinds_of_driver",
        entities=[driver],
        schema=[
            Field(name="driver_id", dtype=Int64),
            *(Field(name=name, dtype=kind) for name, kind in kinds.items()),
        ],
        source=LakeSource("kinds", timestamp_field="event_timestamp"),
    )
    store.apply([view])
    features = [f"kinds_of_driver:{name}" for name in values]
    past = history(store, at(0, driver_id=[1]), features)
    store.materialize(NOW - DAY, NOW, ["kinds_of_driver"])
    now = store.get_online_features(features, [{"driver_id": 1}]).to_dict()
    for name, value in values.items():
        assert past[name] == [value], name
        if name not in ("seen", "config"):
            assert now[name] == [value], name
    # Feast reads JSON for its callers.
    assert now["config"] == [{"a": [1]}]
    assert now["seen"][0].timestamp() == (NOW - DAY).timestamp()


def test_types_are_read_from_the_table_where_nobody_says_them(
    store: FeatureStore, lab: StoreSettings
) -> None:
    frame = pd.DataFrame({"driver_id": [1], "event_timestamp": [NOW], "words": [["a"]], "n": [1]})
    load(lab, "untold", frame)
    source = LakeSource("untold", timestamp_field="event_timestamp")
    store.apply([FeatureView(name="untold_rows", entities=[driver], source=source)])
    found = {f.name: f.dtype for f in store.get_feature_view("untold_rows").features}
    assert found == {"words": Array(String), "n": Int64}


def test_a_column_that_the_table_lacks_is_told(store: FeatureStore) -> None:
    lost = FeatureView(
        name="lost",
        entities=[driver],
        schema=[Field(name="driver_id", dtype=Int64), Field(name="nowhere", dtype=Int64)],
        source=TRIPS,
    )
    store.apply([lost])
    with pytest.raises(RowsUnreadable, match="nowhere"):
        history(store, at(0, driver_id=[1]), ["lost:nowhere"])


def test_rows_that_are_not_in_the_lake_are_refused(store: FeatureStore, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"driver_id": [1], "at": [NOW], "n": [1]}).to_parquet(path)
    source = FileSource(path=str(path), timestamp_field="at")
    store.apply([FeatureView(name="in_a_file", entities=[driver], source=source)])
    with pytest.raises(RetrievalUnsupported, match="FileSource"):
        history(store, at(0, driver_id=[1]), ["in_a_file:n"])
    with pytest.raises(RetrievalUnsupported, match="FileSource"):
        store.materialize(NOW - DAY, NOW, ["in_a_file"])


def test_a_view_taken_out_of_the_registry_is_forgotten_and_its_neighbour_is_not(
    store: FeatureStore,
) -> None:
    rows = {"driver_id": [6], "trips": [1], "happened": [NOW], "created": [NOW]}
    for name in ("trips_of_driver", "recent_trips"):
        store.write_to_online_store(name, pd.DataFrame(rows))
    store.apply([], objects_to_delete=[store.get_feature_view("recent_trips")], partial=False)
    store.apply([recent])
    answer = store.get_online_features(["recent_trips:trips"], [{"driver_id": 6}])
    assert answer.to_dict()["trips"] == [None]
    assert online(store, 6) == [1]


def test_a_store_plans_nothing_of_its_own(store: FeatureStore) -> None:
    assert HeadraceOnlineStore().plan(store.config, store.registry.proto()) == []
