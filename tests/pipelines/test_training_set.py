from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from features.lake import Lake
from features.settings import StoreSettings
from features.views import Plan, Service
from pipelines.training_set import HOLDOUT_S, TrainingRefused, TrainingSet, training_set
from schemas.flights import INPUTS
from tests.pipelines.january import SINCE_MS, UNTIL_MS, lake, plan

DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> StoreSettings:
    return lake(tmp_path_factory.mktemp("january"))


@pytest.fixture(scope="module")
def january(stores: StoreSettings) -> TrainingSet:
    return training_set("flights", plan(), stores, SINCE_MS, UNTIL_MS)


def test_rows_are_in_order_and_split_by_time(january: TrainingSet) -> None:
    train, holdout = january.train, january.holdout
    assert (np.diff(train.event_time_ms) >= 0).all()
    assert train.event_time_ms.max() < holdout.event_time_ms.min()
    assert holdout.event_time_ms.max() - holdout.event_time_ms.min() < HOLDOUT_S * 1000
    assert not set(train.request_ids) & set(holdout.request_ids)


def test_columns_are_what_serving_will_feed(january: TrainingSet) -> None:
    assert january.inputs == (
        *("scheduled_hour", "scheduled_weekday", "distance_miles", "origin", "carrier"),
        "origin_departures__mean_dep_delay",
        "origin_departures__count_dep_delay",
        "aircraft_departures__last_dep_delay",
    )
    assert january.train.matrix.dtype == np.float32
    assert january.train.matrix.shape == (len(january.train), len(january.inputs))
    assert january.definitions.keys() == {"origin_departures", "aircraft_departures"}


def test_no_row_was_unknown_when_the_hold_out_began(
    january: TrainingSet, stores: StoreSettings
) -> None:
    """A flight that was in the air as the hold-out began is in neither part."""
    outcomes = Lake(stores).scan("flights_outcomes")
    known = dict(
        zip(outcomes["request_id"].to_pylist(), outcomes["event_time_ms"].to_pylist(), strict=True)
    )
    began = january.holdout.event_time_ms.min()
    assert max(known[i] for i in january.train.request_ids) < began
    assert max(known[i] for i in january.holdout.request_ids) < UNTIL_MS


def test_a_feature_is_the_last_delay_before_the_request(
    january: TrainingSet, stores: StoreSettings
) -> None:
    """Recomputed by hand from the departures for one row out of a hundred."""
    departures = Lake(stores).scan("flights_departures").to_pandas()
    requests = Lake(stores).scan("flights_requests").to_pandas().set_index("request_id")
    column = january.inputs.index("aircraft_departures__last_dep_delay")
    hop_ms, tiles = 1_800_000, 48
    for row in range(0, len(january.train), 100):
        at = int(january.train.event_time_ms[row])
        tail = requests.loc[january.train.request_ids[row], "tailnum"]
        mine = departures[departures.tailnum == tail]
        since = (at // hop_ms - tiles + 1) * hop_ms
        seen = mine[(mine.event_time_ms <= at) & (mine.event_time_ms >= since)]
        expected = seen.sort_values(["event_time_ms", "event_id"]).dep_delay
        got = january.train.matrix[row, column]
        if expected.empty:
            assert np.isnan(got)
        else:
            assert got == np.float32(expected.iloc[-1])


def test_labels_are_the_outcomes(january: TrainingSet, stores: StoreSettings) -> None:
    outcomes = Lake(stores).scan("flights_outcomes")
    late = set(outcomes.filter(outcomes["late"])["request_id"].to_pylist())
    assert [i in late for i in january.holdout.request_ids] == january.holdout.labels.tolist()


def test_events_received_twice_count_once(january: TrainingSet, stores: StoreSettings) -> None:
    lake = Lake(stores)
    for table in ("flights_requests", "flights_outcomes"):
        lake.append(table, lake.scan(table, until_ms=SINCE_MS + DAY_MS))
    again = training_set("flights", plan(), stores, SINCE_MS, UNTIL_MS)
    assert again.snapshots != january.snapshots
    np.testing.assert_array_equal(again.train.matrix, january.train.matrix)
    np.testing.assert_array_equal(again.train.request_ids, january.train.request_ids)


def test_a_label_that_changes_is_the_first_that_was_received(
    january: TrainingSet, stores: StoreSettings
) -> None:
    """Even where the change says that it happened before."""
    lake = Lake(stores)
    rows = lake.scan("flights_outcomes", until_ms=SINCE_MS + DAY_MS)
    changes = {
        "late": pc.invert(rows["late"]),
        "event_time_ms": pc.subtract(rows["event_time_ms"], 1),
        "ingest_ms": pc.add(rows["ingest_ms"], DAY_MS),
    }
    for name, values in changes.items():
        rows = rows.set_column(rows.column_names.index(name), name, values)
    lake.append("flights_outcomes", rows)
    again = training_set("flights", plan(), stores, SINCE_MS, UNTIL_MS)
    np.testing.assert_array_equal(again.train.labels, january.train.labels)
    np.testing.assert_array_equal(again.train.request_ids, january.train.request_ids)


def test_an_empty_interval_is_refused_in_a_sentence(stores: StoreSettings) -> None:
    summer_ms = int(datetime(2013, 6, 1, tzinfo=UTC).timestamp() * 1000)
    with pytest.raises(TrainingRefused, match=r"at least 2,000 labelled rows.*there are none"):
        training_set("flights", plan(), stores, summer_ms, summer_ms + DAY_MS)


def test_too_short_an_interval_is_refused(stores: StoreSettings) -> None:
    with pytest.raises(TrainingRefused, match="rows to train on"):
        training_set("flights", plan(), stores, SINCE_MS, SINCE_MS + 2 * DAY_MS)


def test_one_class_is_refused(stores: StoreSettings, tmp_path: Path) -> None:
    lonely = stores.model_copy(
        update={
            "catalog_uri": f"sqlite:///{tmp_path}/catalog.db",
            "warehouse": f"file://{tmp_path}/warehouse",
        }
    )
    source, target = Lake(stores), Lake(lonely)
    for table in ("flights_requests", "flights_outcomes", "flights_departures"):
        rows = source.scan(table)
        if table == "flights_outcomes":
            rows = rows.filter(pc.invert(rows["late"]))
        target.create(table, source.schema(table))
        target.append(table, rows)
    with pytest.raises(TrainingRefused, match=r"0\.0% of them positive"):
        training_set("flights", plan(), lonely, SINCE_MS, UNTIL_MS)


def test_a_use_case_may_have_no_feature_but_what_its_requests_say(stores: StoreSettings) -> None:
    bare = Plan(services=(Service("flights_v1", ()),))
    rows = training_set("flights", bare, stores, SINCE_MS, UNTIL_MS)
    assert rows.inputs == tuple(one.name for one in INPUTS)
    assert rows.train.matrix.shape == (len(rows.train), len(INPUTS))
    assert not rows.definitions
