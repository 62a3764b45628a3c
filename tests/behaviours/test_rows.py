"""What Feast's users expect of rows online and offline: written in any order, read the newest, forgotten when told."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from datetime import UTC, datetime, timedelta
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureService, FeatureView, Field, PushSource
from feast.data_source import PushMode
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Int64List, StringList, Value
from feast.types import Array, Bool, Bytes, Float64, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from features.compiler import compile_repo
from features.feast_store import apply, feature_store
from features.lake import Lake
from features.lake_schema import LAKE_COLUMNS
from features.lake_source import LakeSource
from features.online_store import HeadraceOnlineStore
from features.refusal import PlanRefused
from features.rings import entity_key
from features.row_load import LOADS
from features.row_values import number
from features.row_views import RowView
from features.rows import Rows
from features.vectors import RowsUnread, VectorReader
from features.views import Plan, Service
from pipelines.row_schedule import RowSchedule
from tests.conftest import OnlineStore, stores_at
from tests.pipelines import toy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from feast import FeatureStore

    from features.settings import StoreSettings

CASE = "behaved"
NOW = datetime.now(tz=UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)
SCHEMA = pa.schema(
    [
        pa.field("shop", pa.string()),
        pa.field("till", pa.int64()),
        pa.field("rating", pa.float64()),
        pa.field("visits", pa.int64()),
        pa.field("event_time_ms", pa.int64(), nullable=False),
        *LAKE_COLUMNS,
    ]
)
shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
till = Entity(name="till", join_keys=["till"], value_type=ValueType.INT64)


def view(
    name: str, *entities: Entity, ttl: timedelta | None = None, pushed: bool = False
) -> FeatureView:
    source = LakeSource("shop_facts")
    return FeatureView(
        name=name,
        entities=list(entities),
        ttl=ttl or timedelta(),
        schema=[
            *(Field(name=e.join_key, dtype=Int64 if e is till else String) for e in entities),
            Field(name="rating", dtype=Float64),
            Field(name="visits", dtype=Int64),
        ],
        source=PushSource(name=f"{name}_push", batch_source=source) if pushed else source,
    )


facts, joint = view("shop_facts", shop, pushed=True), view("till_facts", shop, till)
fresh, everything = view("fresh_facts", shop, ttl=HOUR), view("global_facts")
kinds = FeatureView(
    name="all_kinds",
    entities=[shop],
    schema=[
        Field(name="shop", dtype=String),
        Field(name="b", dtype=Bool),
        Field(name="raw", dtype=Bytes),
        Field(name="at", dtype=UnixTimestamp),
        Field(name="many", dtype=Array(Int64)),
        Field(name="words", dtype=Array(String)),
    ],
    source=LakeSource("shop_facts"),
)


@pytest.fixture(scope="module")
def lab(online: OnlineStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreSettings]:
    toy.register(CASE)
    module = ModuleType(f"features.{CASE}")
    module.__spec__ = ModuleSpec(module.__name__, loader=None)
    service = FeatureService(name="facts_v1", features=[facts, joint])
    for position, one in enumerate((shop, till, facts, joint, fresh, everything, kinds, service)):
        setattr(module, f"d{position}", one)
    sys.modules[module.__name__] = module
    stores = online.of(stores_at(tmp_path_factory.mktemp("rows"), online.url))
    stores = stores.model_copy(update={"project": "test_rows"})
    Lake(stores).create("shop_facts", SCHEMA)
    apply(CASE, stores)
    yield stores
    del sys.modules[module.__name__], sys.modules[f"schemas.{CASE}"]


@pytest.fixture(scope="module")
def store(lab: StoreSettings) -> FeatureStore:
    return feature_store(lab)


def frame(*rows: tuple[str, float | None, int, datetime]) -> pd.DataFrame:
    columns = ["shop", "rating", "visits", "event_time"]
    found = pd.DataFrame(list(rows), columns=columns)
    return found.assign(event_time=pd.to_datetime(found["event_time"], utc=True), till=0)


def online(store: FeatureStore, view_name: str, *keys: dict[str, Any]) -> list[tuple[Any, Any]]:
    answer = store.get_online_features(
        [f"{view_name}:rating", f"{view_name}:visits"], list(keys)
    ).to_dict()
    return list(zip(answer["rating"], answer["visits"], strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_the_newest_row_wins_whatever_the_order_of_writes(store: FeatureStore, seed: int) -> None:
    rows = [(f"s{seed}", float(age), age, NOW - age * HOUR) for age in range(10)]
    random.Random(seed).shuffle(rows)
    for row in [*rows, rows[0], rows[-1]]:
        store.write_to_online_store("shop_facts", frame(row))
    assert online(store, "shop_facts", {"shop": f"s{seed}"}) == [(0.0, 0)]


def test_one_batch_may_hold_an_entity_twice(store: FeatureStore) -> None:
    store.write_to_online_store(
        "shop_facts", frame(("twice", 1.0, 1, NOW), ("twice", 2.0, 2, NOW - HOUR))
    )
    assert online(store, "shop_facts", {"shop": "twice"}) == [(1.0, 1)]


def test_a_null_is_a_value_and_an_unknown_entity_is_none(store: FeatureStore) -> None:
    store.write_to_online_store("shop_facts", frame(("nil", None, 3, NOW)))
    found = online(store, "shop_facts", {"shop": "nil"}, {"shop": "nobody"})
    assert found == [(None, 3), (None, None)]


def test_entities_are_answered_in_the_order_asked_and_as_often(store: FeatureStore) -> None:
    store.write_to_online_store("shop_facts", frame(("x", 1.0, 1, NOW), ("y", 2.0, 2, NOW)))
    asked = [{"shop": s} for s in "yxyy"]
    assert [v for _, v in online(store, "shop_facts", *asked)] == [2, 1, 2, 2]


def test_a_row_older_than_the_ttl_is_null(store: FeatureStore) -> None:
    store.write_to_online_store(
        "fresh_facts", frame(("new", 1.0, 1, NOW), ("old", 2.0, 2, NOW - 2 * HOUR))
    )
    assert online(store, "fresh_facts", {"shop": "new"}, {"shop": "old"}) == [
        (1.0, 1),
        (None, None),
    ]


def test_expired_rows_are_served_where_the_store_is_told_to(lab: StoreSettings) -> None:
    told = feature_store(lab)
    told.config.online_store.serve_expired = True
    told.write_to_online_store("fresh_facts", frame(("aged", 2.0, 2, NOW - 2 * HOUR)))
    assert online(told, "fresh_facts", {"shop": "aged"}) == [(2.0, 2)]
    assert online(feature_store(lab), "fresh_facts", {"shop": "aged"}) == [(None, None)]


def test_rows_are_forgotten_after_the_stores_own_ttl(lab: StoreSettings) -> None:
    told = feature_store(lab)
    told.write_to_online_store("shop_facts", frame(("kept", 1.0, 1, NOW), ("gone", 1.0, 1, NOW)))
    told.config.online_store.key_ttl_seconds = 1
    # What is not older is written, and forgotten a second later; what is older leaves the held row as it was.
    written = frame(("gone", 2.0, 2, NOW), ("kept", 2.0, 2, NOW - HOUR))
    told.write_to_online_store("shop_facts", written)
    asked = [{"shop": "gone"}, {"shop": "kept"}]
    assert online(told, "shop_facts", *asked) == [(2.0, 2), (1.0, 1)]
    time.sleep(1.1)
    assert online(told, "shop_facts", *asked) == [(None, None), (1.0, 1)]


def test_two_entities_make_one_key(store: FeatureStore) -> None:
    rows = frame(("j", 1.0, 1, NOW), ("j", 2.0, 2, NOW)).assign(till=pd.Series([1, 2]))
    store.write_to_online_store("till_facts", rows)
    assert online(store, "till_facts", {"shop": "j", "till": 2}) == [(2.0, 2)]
    assert online(store, "till_facts", {"shop": "j", "till": 3}) == [(None, None)]


def test_features_of_everything_need_no_entity(store: FeatureStore) -> None:
    store.write_to_online_store(
        "global_facts", frame(("-", 4.5, 9, NOW)).drop(columns=["shop", "till"])
    )
    answer = store.get_online_features(
        ["global_facts:visits", "shop_facts:rating"], [{"shop": "nobody"}]
    ).to_dict()
    assert (answer["visits"], answer["rating"]) == ([9], [None])


def test_every_kind_of_value_comes_back(lab: StoreSettings, store: FeatureStore) -> None:
    given = {
        "b": Value(bool_val=True),
        "raw": Value(bytes_val=b"\x00\xff"),
        "at": Value(unix_timestamp_val=int(NOW.timestamp())),
        "many": Value(int64_list_val=Int64List(val=[1, 2, 3])),
        "words": Value(string_list_val=StringList(val=["é", ""])),
    }
    key = EntityKey(join_keys=["shop"], entity_values=[Value(string_val="k")])
    definition = store.get_feature_view("all_kinds")
    online_store = HeadraceOnlineStore()
    online_store.online_write_batch(store.config, definition, [(key, given, NOW, None)], None)
    ((at, found),) = online_store.online_read(store.config, definition, [key])
    assert (at, found) == (NOW, given)
    ((_, some),) = asyncio.run(
        online_store.online_read_async(store.config, definition, [key], ["many"])
    )
    assert some == {"many": given["many"]}
    assert online_store.delete_entities(store.config, definition, [key]) == 1
    assert online_store.online_read(store.config, definition, [key]) == [(None, None)]


def test_materialize_brings_the_newest_row_of_the_range_and_no_older_one_back(
    store: FeatureStore, lab: StoreSettings
) -> None:
    ages = {"m1": (3, 1, 2), "m2": (30, 50, 40)}
    rows = [(s, float(age), age, NOW - age * HOUR) for s, all_of in ages.items() for age in all_of]
    store.write_to_offline_store("shop_facts", frame(*rows))
    store.materialize(NOW - 24 * HOUR, NOW, ["shop_facts"])
    assert online(store, "shop_facts", {"shop": "m1"}, {"shop": "m2"}) == [(1.0, 1), (None, None)]
    store.materialize(NOW - 72 * HOUR, NOW - 2 * HOUR, ["shop_facts"])
    assert online(store, "shop_facts", {"shop": "m1"}, {"shop": "m2"}) == [(1.0, 1), (30.0, 30)]


def test_push_goes_to_both_stores(store: FeatureStore, lab: StoreSettings) -> None:
    store.push("shop_facts_push", frame(("p", 5.0, 5, NOW)), to=PushMode.ONLINE_AND_OFFLINE)
    assert online(store, "shop_facts", {"shop": "p"}) == [(5.0, 5)]
    held = Lake(lab).scan("shop_facts").to_pylist()
    assert [r["visits"] for r in held if r["shop"] == "p"] == [5]


def test_history_takes_the_row_that_was_true_then(store: FeatureStore) -> None:
    rows = [("h", float(age), age, NOW - age * HOUR) for age in (30, 10, 20)]
    store.write_to_offline_store("shop_facts", frame(*rows))
    store.write_to_offline_store("shop_facts", frame(("h", 99.0, 99, NOW - 10 * HOUR)))
    times = [NOW - 31 * HOUR, NOW - 30 * HOUR, NOW - 15 * HOUR, NOW - 10 * HOUR, NOW]
    asked = pd.DataFrame({"shop": "h", "event_timestamp": times})
    history = store.get_historical_features(asked, ["shop_facts:visits", "fresh_facts:rating"])
    found = history.to_arrow().to_pydict()
    # Of two rows of one instant, the one that came last.
    assert found["visits"] == [None, 30, 20, 99, 99]
    assert found["rating"] == [None, 30.0, None, 99.0, None]
    unknown_then = asked.assign(known_at=pd.Timestamp("2000-01-01", tz="UTC"))
    ignorant = store.get_historical_features(unknown_then, ["shop_facts:visits"])
    assert ignorant.to_arrow()["visits"].to_pylist() == [None] * 5
    hindsight = asked.assign(known_at=pd.Timestamp.now(tz="UTC") + HOUR)
    both = store.get_historical_features(hindsight, ["shop_facts:visits", "fresh_facts:rating"])
    assert both.to_arrow()["visits"].to_pylist() == found["visits"]


def test_teardown_forgets_a_view_and_no_other(store: FeatureStore) -> None:
    store.write_to_online_store("fresh_facts", frame(("t", 1.0, 1, NOW)))
    store.write_to_online_store("shop_facts", frame(("t", 1.0, 1, NOW)))
    HeadraceOnlineStore().teardown(store.config, [store.get_feature_view("fresh_facts")], [])
    assert online(store, "fresh_facts", {"shop": "t"}) == [(None, None)]
    assert online(store, "shop_facts", {"shop": "t"}) == [(1.0, 1)]


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        (view("Bad", shop), "'Bad'"),
        (view("orphan", Entity(name="nowhere", value_type=ValueType.STRING)), "'nowhere'"),
    ],
)
def test_a_view_of_rows_that_cannot_run_is_refused(definition: FeatureView, reason: str) -> None:
    module = ModuleType("lab")
    module.shop, module.view = shop, definition  # type: ignore[attr-defined]
    with pytest.raises(PlanRefused) as refused:
        compile_repo(module, {})
    assert any(reason in str(r) for r in refused.value.refusals)


def test_the_scorer_reads_rows(lab: StoreSettings, store: FeatureStore) -> None:
    now_ms = int(NOW.timestamp() * 1000)
    for name, rating, at in (("read", 4.5, NOW), ("later", 1.0, NOW + HOUR)):
        rows = {"shop": [name], "rating": [rating], "visits": [-7], "event_time": [at]}
        store.write_to_online_store("shop_facts", pd.DataFrame(rows))
    reader = VectorReader(lab, Plan.load(lab.plan_path), "facts_v1")
    assert reader.entity_columns == ("shop", "till")
    entities: dict[str, list[Any]] = {
        "shop": ["read", None, "later", "never"],
        "till": [1, 1, 1, 1],
    }
    found = reader.read(entities, np.full(4, now_ms + 1))
    assert found.views == ("shop_facts", "till_facts")
    assert found.names[:2] == ("shop_facts__rating", "shop_facts__visits")
    wanted = [[4.5, -7.0], [np.nan, np.nan], [1.0, -7.0], [np.nan, np.nan]]
    np.testing.assert_array_equal(found.values[:, :2], wanted)  # noqa: PD011
    assert np.isnan(found.values[:, 2:]).all()  # noqa: PD011
    assert found.age_ms[:, 0].tolist() == [1, -1, 1 - 3_600_000, -1]
    assert found.ahead.tolist() == [[False] * 2, [False] * 2, [True, False], [False] * 2]
    reader.close()


def test_the_scorer_honours_the_ttl_of_rows(lab: StoreSettings, store: FeatureStore) -> None:
    plan = Plan.load(lab.plan_path)
    service = Service("fresh_v1", (("fresh_facts", "rating"), ("global_facts", "visits")))
    reader = VectorReader(lab, msgspec.structs.replace(plan, services=(service,)), "fresh_v1")
    rows = {"shop": ["a"], "rating": [4.5], "visits": [3], "event_time": [NOW]}
    store.write_to_online_store("fresh_facts", pd.DataFrame(rows))
    hour_ms = int((NOW + HOUR).timestamp() * 1000)
    found = reader.read({"shop": ["a", "a"]}, np.array([hour_ms, hour_ms + 1]))
    np.testing.assert_array_equal(found.values[:, 0], [4.5, np.nan])  # noqa: PD011
    reader.close()


def test_the_scorer_refuses_a_service_of_texts(lab: StoreSettings) -> None:
    plan = Plan.load(lab.plan_path)
    service = Service("texts_v1", (("all_kinds", "words"),))
    with pytest.raises(RowsUnread, match="all_kinds:words"):
        VectorReader(lab, msgspec.structs.replace(plan, services=(service,)), "texts_v1")


def test_a_view_that_is_gone_from_the_definitions_leaves_the_registry(
    lab: StoreSettings, store: FeatureStore
) -> None:
    module = sys.modules[f"features.{CASE}"]
    kept = vars(module).pop("d6")
    assert kept is kinds
    changes = apply(CASE, lab)
    assert changes.removed == ("view all_kinds",)
    store.refresh_registry()
    assert "all_kinds" not in {v.name for v in store.list_batch_feature_views()}


def wait_for(schedule: RowSchedule, loads: int) -> dict[str, int]:
    until = time.monotonic() + 30
    while (found := schedule.counters).get("loads", 0) < loads:
        assert time.monotonic() < until, found
        time.sleep(0.05)
    return found


def test_a_view_over_a_lake_table_is_loaded_by_the_clock(
    lab: StoreSettings, tmp_path: Path
) -> None:
    mine = lab.model_copy(
        update={
            "project": "scheduled",
            "plan_path": str(tmp_path / "plan.json"),
            "materialize_every_s": 0.2,
        }
    )
    stations = RowView(
        "station_facts", "station_facts", ("shop",), ("rating",), kinds={"rating": "double"}
    )
    texts = RowView("no_plain", "station_facts", ("shop",), ("rating",))
    Plan(row_views=(stations, texts)).save(mine.plan_path)
    lake, rows = Lake(mine), Rows(mine)
    lake.create("station_facts", SCHEMA)
    row = {"shop": "a", "till": 1, "rating": 1.5, "visits": 2, "kafka_partition": None}
    at = {"event_time_ms": 1_000, "event_time": datetime.fromtimestamp(1, UTC), "ingest_ms": 10**12}

    def append(**changes: Any) -> None:
        lake.append("station_facts", pa.Table.from_pylist([row | at | changes], schema=SCHEMA))

    def held(shop_name: str) -> float:
        (found,) = rows.newest("station_facts", [entity_key([shop_name])])
        return number(found.fields["rating"] if found else None)

    append()
    with RowSchedule(mine) as schedule:
        assert wait_for(schedule, 1)["loaded_rows"] == 1
        assert held("a") == 1.5
        # Ingested a minute before what was loaded last, and all the same not seen yet; and one that is older than what is held.
        append(shop="b", rating=2.5, ingest_ms=10**12 - 60_000)
        wait_for(schedule, 2)
        append(rating=9.0, event_time_ms=500, ingest_ms=10**12 + 1)
        assert wait_for(schedule, 3)["load_failures"] == 0
        assert (held("a"), held("b")) == (1.5, 2.5)
    # What was reached is remembered: nothing is loaded twice.
    with RowSchedule(mine) as schedule:
        time.sleep(1)
        assert schedule.counters.get("loads", 0) == 0
    # A store that was lost is filled from the beginning.
    for name in ("station_facts", LOADS):
        rows.delete(name)
    with RowSchedule(mine) as schedule:
        wait_for(schedule, 1)
        assert (held("a"), held("b")) == (1.5, 2.5)
    assert rows.newest("no_plain", [entity_key(["a"])]) == [None]
    for name in ("station_facts", LOADS):
        rows.delete(name)
    rows.close()
