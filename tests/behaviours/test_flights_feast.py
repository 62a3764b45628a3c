"""Feast's own interface over the real stores: it answers what the scorer and the oracle answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureStore

from features import feast_store
from features.asked_views import RetrievalUnsupported
from features.feast_store import Diff, apply, diff, feature_store
from features.lake import Lake
from features.online_store import OnlineWriteRefused
from features.reference import features_as_of
from features.ring import RingFormat
from features.rings import Rings, entity_key
from features.settings import StoreSettings
from features.tile_stream import TileStream
from features.vectors import VectorReader
from features.views import Plan
from tests.conftest import stores_at
from tests.features.flights_data import departures

CASE = "flights"
SERVICE = "flights_v1"
NAMES_OF_DEST = ("mean_delay_3h", "mean_delay_24h")


@pytest.fixture(scope="module")
def lab(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> StoreSettings:
    made = stores_at(tmp_path_factory.mktemp("feast"), redis_url)
    return made.model_copy(update={"project": "test_feast", "clock": "stream"})


@pytest.fixture(scope="module")
def applied(lab: StoreSettings) -> Diff:
    return apply(CASE, lab)


@pytest.fixture(scope="module")
def events(lab: StoreSettings, applied: Diff) -> pa.Table:
    """The first 5,000 departures of June, in the lake and in the rings."""
    rows = departures(6).drop_columns(["scheduled_ms"]).slice(0, 5_000)
    Lake(lab).append("flights_departures", rows)
    log, rings, plan = rows.to_pylist(), Rings(lab), Plan.load(lab.plan_path)
    for view in plan.views:
        if view.table == "flights_departures":
            fmt, key = RingFormat(view), view.join_keys[0].name
            for value in {e[key] for e in log[-300:]}:
                ring = fmt.empty()
                mine = [e for e in log if e[key] == value]
                fmt.apply(ring, 0, [row for _, row in TileStream(view).push_all(mine)])
                rings.write([(view.versioned, entity_key([value]), ring.tobytes())])
            rings.advance_clock({view.versioned: log[-1]["event_time_ms"]})
    return rows


@pytest.fixture(scope="module")
def store(lab: StoreSettings, applied: Diff) -> FeatureStore:
    return feature_store(lab)


def test_apply_says_what_it_did_and_repeats_harmlessly(lab: StoreSettings, applied: Diff) -> None:
    assert f"service {SERVICE}" in applied.added
    assert "view origin_departures" in applied.added
    assert "flights_departures" in applied.tables
    again = apply(CASE, lab)
    assert (again.added, again.changed, again.removed, again.tables) == ((), (), (), ())
    assert set(again.unchanged) == set(applied.added)


def test_a_plan_changes_nothing(tmp_path: Path, lab: StoreSettings) -> None:
    fresh = lab.model_copy(update={"plan_path": str(tmp_path / "plan.json")})
    _, changes = feast_store.plan(CASE, fresh)
    assert changes.added
    assert not Path(fresh.plan_path).exists()


def test_removed_and_changed_definitions_are_told(lab: StoreSettings, applied: Diff) -> None:
    plan = Plan.load(lab.plan_path)
    assert diff(plan, Plan()).removed == tuple(sorted(applied.added))
    smaller = Plan(plan.views[1:], ())
    assert diff(smaller, plan).added == (f"service {SERVICE}", f"view {plan.views[0].name}")


def test_feast_serves_what_the_scorer_reads(
    lab: StoreSettings, events: pa.Table, store: FeatureStore
) -> None:
    latest = events.to_pylist()[-1]
    entity = {k: latest[k] for k in ("origin", "dest", "carrier", "tailnum")}
    unknown = {**entity, "tailnum": "N0"}
    answer = store.get_online_features(
        store.get_feature_service(SERVICE), [entity, unknown], full_feature_names=True
    ).to_dict()
    reader = VectorReader(lab, Plan.load(lab.plan_path), SERVICE)
    clock = reader.stream_clock_ms()
    assert clock == latest["event_time_ms"]
    read = reader.read(
        {k: [entity[k], unknown[k]] for k in entity}, np.array([clock, clock], dtype=np.int64)
    )
    for name, column in zip(read.names, read.values.T.tolist(), strict=True):  # noqa: PD011
        plain = [None if np.isnan(v) else v for v in column]
        assert answer[name] == plain, name
    assert answer["aircraft_departures__count_delay_24h"][1] == 0
    assert answer["origin_departures__count_delay_3h"][0] > 0
    reader.close()


def test_feasts_history_is_point_in_time_correct(
    events: pa.Table, store: FeatureStore, lab: StoreSettings
) -> None:
    log = events.to_pylist()
    asked = pd.DataFrame(
        [
            {k: e[k] for k in ("origin", "dest", "carrier", "tailnum")}
            | {"event_timestamp": e["event_time"]}
            for e in log[1_000:4_000:500]
        ]
    )
    found = store.get_historical_features(
        asked, store.get_feature_service(SERVICE), full_feature_names=True
    ).to_df()
    for view in Plan.load(lab.plan_path).views:
        if view.table != "flights_departures":
            continue
        for row in found.to_dict("records"):
            key = {k.name: row[k.name] for k in view.join_keys}
            as_of = int(row["event_timestamp"].timestamp() * 1000)
            for name, value in features_as_of(view, log, key, as_of).items():
                served = row[f"{view.name}__{name}"]
                wanted = None if value is None else pytest.approx(value, rel=1e-9)
                assert (None if pd.isna(served) else served) == wanted, name


def test_feast_may_not_write_into_rings_nor_into_a_topics_archive(
    store: FeatureStore, applied: Diff
) -> None:
    row: dict[str, object] = dict.fromkeys(NAMES_OF_DEST, 1.0)
    row |= {"dest": "IAH", "event_time": pd.Timestamp.now(tz="UTC")}
    with pytest.raises(OnlineWriteRefused, match="dest_departures"):
        store.write_to_online_store("dest_departures", pd.DataFrame([row]))
    source = store.get_stream_feature_view("dest_departures").batch_source
    names = [name for name, _ in source.get_table_column_names_and_types(store.config)]
    with pytest.raises(RetrievalUnsupported, match="archive of a topic"):
        store.write_to_offline_store("dest_departures", pd.DataFrame(columns=names))
