"""Views of a stream's newest rows: written by the materializer's row writer, equal to the batch executor's."""

from __future__ import annotations

import random
import sys
import time
from datetime import UTC, datetime
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from confluent_kafka import Producer
from feast import Entity, FeatureService, Field, KafkaSource, StreamFeatureView
from feast.data_format import JsonFormat
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

from features.batch import features_as_of
from features.compiler import compile_repo
from features.feast_store import apply, feature_store
from features.lake import Lake
from features.lake_schema import Coordinate, event_table
from features.lake_source import LakeSource
from features.rebuild import rebuild
from features.refusal import PlanRefused
from features.rows import Rows
from features.vectors import VectorReader
from features.views import Plan
from pipelines.row_writer import RowFollower
from schemas import topics
from tests.conftest import stores_at
from tests.pipelines import toy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from features.settings import StoreSettings
    from schemas.settings import KafkaSettings

CASE, SERVICE = "rowstream", "stations_v1"
TOPIC = f"{CASE}.readings.valid"
READINGS = [
    toy.reading(i, station="abc"[i % 3], level=None if i % 7 == 0 else i / 4) for i in range(60)
]
AT_MS = READINGS[-1].event_time_ms
station = Entity(name="station", join_keys=["station"], value_type=ValueType.STRING)
source = KafkaSource(
    name="readings",
    topic=TOPIC,
    timestamp_field="event_time",
    message_format=JsonFormat(schema_json=""),
    batch_source=LakeSource(f"{CASE}_readings"),
)


def view(name: str, *fields: Field, **options: Any) -> StreamFeatureView:
    given: dict[str, Any] = {
        "name": name,
        "entities": [station],
        "mode": "sql",
        "source": source,
        "timestamp_field": "event_time",
        "schema": [Field(name="station", dtype=String), *fields],
    }
    return StreamFeatureView(**(given | options))


latest = view(
    "latest_level", Field(name="level", dtype=Float64), Field(name="event_id", dtype=String)
)
HIGH = "SELECT level * 100 AS centimetres FROM readings WHERE level > 5"
high = view("latest_high", Field(name="centimetres", dtype=Float64), udf_string=HIGH)
service = FeatureService(name=SERVICE, features=[latest[["level"]], high])


@pytest.fixture(scope="module")
def lab(
    kafka: KafkaSettings, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StoreSettings]:
    toy.register(CASE)
    module = ModuleType(f"features.{CASE}")
    module.__spec__ = ModuleSpec(module.__name__, loader=None)
    for position, one in enumerate((station, latest, high, service)):
        setattr(module, f"d{position}", one)
    sys.modules[module.__name__] = module
    stores = stores_at(tmp_path_factory.mktemp("stream_rows"), redis_url)
    stores = stores.model_copy(update={"project": "test_stream_rows"})
    apply(CASE, stores)
    topics.apply(kafka, CASE)
    publish(kafka, stores)
    yield stores
    del sys.modules[module.__name__], sys.modules[f"schemas.{CASE}"]


def publish(kafka: KafkaSettings, stores: StoreSettings) -> None:
    """The readings out of order, each twice, with one record that is none; in the lake once."""
    log = [*READINGS, *READINGS]
    random.Random(4).shuffle(log)
    producer = Producer(kafka.client_config())
    for one in log:
        producer.produce(TOPIC, one.model_dump_json().encode(), one.station.encode())
    producer.produce(TOPIC, b"no event", b"a")
    producer.flush(30)
    where = [Coordinate(r.event_time_ms + 5, TOPIC, 0, i) for i, r in enumerate(READINGS)]
    rows = [r.model_dump() for r in READINGS]
    Lake(stores).append(f"{CASE}_readings", event_table(toy.Reading, rows, where))


def wait_for(followed: RowFollower, events: int, timeout_s: float = 60) -> None:
    until = time.monotonic() + timeout_s
    while followed.counters.get("row_events", 0) < events:
        assert time.monotonic() < until, followed.counters
        time.sleep(0.1)


@pytest.fixture(scope="module")
def filled(kafka: KafkaSettings, lab: StoreSettings) -> StoreSettings:
    with RowFollower(CASE, kafka, lab) as followed:
        wait_for(followed, 2 * len(READINGS) + 1)
        assert followed.counters["row_undecodable"] == 1
    return lab


def expected() -> list[list[float]]:
    """By station the newest level, null or not, and the newest above five metres in centimetres."""
    wanted = []
    for name in "abcd":
        mine = [r for r in READINGS if r.station == name]
        levels = [np.nan if r.level is None else r.level for r in mine]
        highs = [r.level * 100 for r in mine if r.level is not None and r.level > 5]
        wanted.append([levels[-1] if levels else np.nan, highs[-1] if highs else np.nan])
    return wanted


def vectors(stores: StoreSettings) -> np.ndarray:
    reader = VectorReader(stores, Plan.load(stores.plan_path), SERVICE)
    found = reader.read({"station": list("abcd")}, np.full(4, AT_MS))
    reader.close()
    return found.values  # noqa: PD011


def test_every_executor_has_the_newest_row(filled: StoreSettings) -> None:
    np.testing.assert_array_equal(vectors(filled), expected())
    asked = {"station": list("abcd")}
    entities = pa.table({**asked, "event_time_ms": pa.array([AT_MS] * 4, pa.int64())})
    batch = features_as_of(Plan.load(filled.plan_path), SERVICE, Lake(filled), entities)
    columns = ["latest_level__level", "latest_high__centimetres"]
    np.testing.assert_array_equal(batch.select(columns).to_pandas().to_numpy(), expected())
    store = feature_store(filled)
    rows = [{"station": name} for name in "abcd"]
    online = store.get_online_features(store.get_feature_service(SERVICE), rows).to_dict()
    found = pd.DataFrame(online)[["level", "centimetres"]].to_numpy(dtype=float)
    np.testing.assert_array_equal(found, expected())
    answered = store.get_online_features(["latest_level:level"], rows)
    stamps = answered.to_dict(include_event_timestamps=True)["level__ts"]
    newest = [max(r.event_time_ms for r in READINGS if r.station == name) for name in "abc"]
    assert stamps == [*(at // 1000 for at in newest), 0]
    text = store.get_online_features(["latest_level:event_id"], rows[:1]).to_dict()
    assert text["event_id"] == ["r57"]
    frame = pd.DataFrame(asked)
    frame["event_timestamp"] = datetime.fromtimestamp(AT_MS / 1000, tz=UTC)
    history = store.get_historical_features(frame, store.get_feature_service(SERVICE)).to_df()
    np.testing.assert_array_equal(history[["level", "centimetres"]].to_numpy(float), expected())


def test_rows_that_were_lost_are_read_again(kafka: KafkaSettings, filled: StoreSettings) -> None:
    names = [v.stored for v in Plan.load(filled.plan_path).row_views]
    rows = Rows(filled)
    with RowFollower(CASE, kafka, filled) as followed:
        publish_one(kafka)
        wait_for(followed, 1)
        for name in [*names, "__rows"]:
            rows.delete(name)
        until = time.monotonic() + 60
        while not np.array_equal(vectors(filled), expected(), equal_nan=True):
            assert time.monotonic() < until, followed.counters
            time.sleep(0.2)
    rows.close()


def publish_one(kafka: KafkaSettings) -> None:
    """An event older than all others changes nothing."""
    old = toy.reading(-1, station="a", level=-5.0)
    producer = Producer(kafka.client_config())
    producer.produce(TOPIC, old.model_dump_json().encode(), b"a")
    producer.flush(30)


def test_rows_come_back_from_the_lake(filled: StoreSettings) -> None:
    rows, plan = Rows(filled), Plan.load(filled.plan_path)
    for one in plan.row_views:
        rows.delete(one.stored)
    assert np.isnan(vectors(filled)).all()
    assert rebuild(plan, filled) == {"latest_level": 3, "latest_high": 3}
    np.testing.assert_array_equal(vectors(filled), expected())
    rows.close()


def test_another_definition_does_not_read_the_rows_of_before(filled: StoreSettings) -> None:
    other = view("latest_high", Field(name="centimetres", dtype=Float64), udf_string=HIGH + "0")
    module = ModuleType(CASE)
    module.station, module.other = station, other  # type: ignore[attr-defined]
    found = compile_repo(module).plan.row_views[0]
    held = {v.name: v for v in Plan.load(filled.plan_path).row_views}["latest_high"]
    assert found.stored != held.stored


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        (view("typed", Field(name="level", dtype=Int64)), "'level' is Int64 here and double there"),
        (view("lacking", Field(name="depth", dtype=Float64)), "nothing there"),
        (
            view("turned", Field(name="x", dtype=Float64), udf_string="SELECT now() AS x FROM s"),
            "SQL",
        ),
    ],
)
def test_what_cannot_run_is_refused(
    lab: StoreSettings, definition: StreamFeatureView, reason: str
) -> None:
    module = ModuleType(CASE)
    module.station, module.view = station, definition  # type: ignore[attr-defined]
    with pytest.raises(PlanRefused) as refused:
        compile_repo(module)
    assert any(reason in str(r) for r in refused.value.refusals), refused.value.refusals
