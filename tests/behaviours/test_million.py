"""`FeatureStore.get_historical_features` over three windowed views equals brute force, as of event time and as known.

By default on 100,000 rows and a sample of 1,000, for everybody's patience; with HISTORY_ROWS=full on 1,000,000 rows and a
sample of 10,000.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from datetime import timedelta
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from feast import Entity, FeatureService, Field, KafkaSource, StreamFeatureView
from feast.aggregation import Aggregation
from feast.data_format import JsonFormat
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

from features.feast_store import apply, feature_store
from features.lake import Lake
from features.lake_source import LakeSource
from features.reference import features_as_of as reference
from features.views import Plan
from schemas.events import Event, Id
from schemas.topics import standard_topics
from tests.conftest import stores_at
from tests.pipelines import toy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feast import FeatureStore

FULL = os.environ.get("HISTORY_ROWS") == "full"
ROWS, SAMPLE = (1_000_000, 10_000) if FULL else (100_000, 1_000)
CASE, SERVICE, SEED = "million", "million_v1", 5
DAY_MS, T0_MS = 86_400_000, 1_700_000_000_000
HOUR = timedelta(hours=1)
KEYS = ("card", "merchant")


class Payment(Event):
    """What a card paid a merchant."""

    event_id: Id
    card: str
    merchant: str
    amount: float

    @property
    def id(self) -> str:
        return self.event_id

    @property
    def key(self) -> str:
        return self.card


def view(name: str, key: str, window: timedelta, hop: timedelta) -> StreamFeatureView:
    aggregations = [
        Aggregation(
            column="amount",
            function=function,
            time_window=length,
            slide_interval=hop,
            name=f"{function}_{length // HOUR}h",
        )
        for length in (window, 4 * window)
        for function in ("count", "sum", "mean", "max", "std")
    ]
    kinds = [Int64 if a.function == "count" else Float64 for a in aggregations]
    return StreamFeatureView(
        name=name,
        entities=[Entity(name=key, join_keys=[key], value_type=ValueType.STRING)],
        mode="sql",
        source=KafkaSource(
            name="million_payments",
            topic=f"{CASE}.payments.valid",
            timestamp_field="event_time",
            message_format=JsonFormat(schema_json=""),
            batch_source=LakeSource(f"{CASE}_payments"),
        ),
        timestamp_field="event_time",
        schema=[
            Field(name=key, dtype=String),
            *(Field(name=a.name, dtype=k) for a, k in zip(aggregations, kinds, strict=True)),
        ],
        aggregations=aggregations,
        enable_tiling=True,
        tiling_hop_size=hop,
    )


def definitions() -> list[object]:
    views = [
        view("by_card", "card", HOUR, timedelta(minutes=5)),
        view("by_merchant", "merchant", HOUR, timedelta(minutes=5)),
        view("by_card_slow", "card", 6 * HOUR, timedelta(minutes=30)),
    ]
    entities = [Entity(name=k, join_keys=[k], value_type=ValueType.STRING) for k in KEYS]
    return [*entities, *views, FeatureService(name=SERVICE, features=list(views))]


def register() -> None:
    """Make `schemas.million` and `features.million` loadable."""
    schemas, features = ModuleType(f"schemas.{CASE}"), ModuleType(f"features.{CASE}")
    streams: dict[str, tuple[type[Event], int]] = {"payments": (Payment, 2)}
    schemas.TOPICS = standard_topics(  # type: ignore[attr-defined]
        CASE, request=toy.Question, outcome=toy.Answer, streams=streams
    )
    for position, definition in enumerate(definitions()):
        setattr(features, f"d{position}", definition)
    for module in (schemas, features):
        module.__spec__ = ModuleSpec(module.__name__, loader=None)
        sys.modules[module.__name__] = module


class Lab(NamedTuple):
    """A store over `events`, and the rows to ask for."""

    store: FeatureStore
    plan: Plan
    events: pa.Table
    asked: pa.Table


@pytest.fixture(scope="module")
def lab(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    register()
    stores = stores_at(tmp_path_factory.mktemp("million"), redis_url)
    stores = stores.model_copy(update={"project": "test_million"})
    apply(CASE, stores)
    dice = np.random.default_rng(SEED)
    events = payments(dice)
    Lake(stores).append(f"{CASE}_payments", events)
    instants = T0_MS + dice.integers(0, 7 * DAY_MS, ROWS)
    asked = pa.table(
        {
            "row": np.arange(ROWS),
            **{key: names(dice) for key in KEYS},
            "event_timestamp": utc(instants),
            "known_at": utc(instants + dice.integers(0, DAY_MS // 2, ROWS)),
        }
    )
    yield Lab(feature_store(stores), Plan.load(stores.plan_path), events, asked)
    del sys.modules[f"schemas.{CASE}"], sys.modules[f"features.{CASE}"]


def payments(dice: np.random.Generator) -> pa.Table:
    """A week of payments, every tenth of them late by up to a day."""
    times = T0_MS + dice.integers(0, 7 * DAY_MS, ROWS)
    late = (dice.random(ROWS) < 0.1) * dice.integers(0, DAY_MS, ROWS)
    return pa.table(
        {
            "event_time_ms": times,
            "event_id": [f"e{i}" for i in range(ROWS)],
            **{key: names(dice) for key in KEYS},
            "amount": dice.integers(1, 8_000, ROWS) / 8,
            "event_time": utc(times),
            "ingest_ms": times + late,
            "kafka_topic": pa.nulls(ROWS, pa.string()),
            "kafka_partition": np.zeros(ROWS, dtype=np.int32),
            "kafka_offset": np.arange(ROWS),
        }
    )


def names(dice: np.random.Generator) -> np.ndarray[Any, np.dtype[np.str_]]:
    return dice.integers(0, max(ROWS // 50, 10), ROWS).astype(str)


def utc(at_ms: np.ndarray[Any, Any]) -> pa.Array:
    return pa.array(at_ms).cast(pa.timestamp("ms", tz="UTC")).cast(pa.timestamp("us", tz="UTC"))


@pytest.mark.parametrize("mode", ["event", "known"])
def test_three_views_at_once_equal_brute_force(lab: Lab, mode: str) -> None:
    rows = lab.asked if mode == "known" else lab.asked.drop_columns(["known_at"])
    begun = time.perf_counter()
    service = lab.store.get_feature_service(SERVICE)
    found = lab.store.get_historical_features(rows, service, full_feature_names=True).to_arrow()
    took_s = time.perf_counter() - begun
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{ROWS} rows, seed {SEED}, as of {mode}: {took_s:.1f} s, peak {peak_mb} MB")  # noqa: T201
    assert found["row"].to_pylist() == lab.asked["row"].to_pylist()
    logs = {key: by(lab.events, key) for key in KEYS}
    chosen = np.random.default_rng(SEED).choice(ROWS, SAMPLE, replace=False)
    for row in found.take(chosen).to_pylist():
        for one in lab.plan.views:
            key = one.join_keys[0].name
            log = logs[key].get(row[key], [])
            if mode == "known":
                until = round(row["known_at"].timestamp() * 1000)
                log = [e for e in log if e["ingest_ms"] <= until]
            as_of = round(row["event_timestamp"].timestamp() * 1000)
            for name, value in reference(one, log, {key: row[key]}, as_of).items():
                expected = None if value is None else pytest.approx(value, rel=1e-9)
                assert row[f"{one.name}__{name}"] == expected, (row, name)


def by(events: pa.Table, key: str) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    columns = ("event_time_ms", "ingest_ms", "event_id", "card", "merchant", "amount")
    for event in events.select(columns).to_pylist():
        grouped.setdefault(event[key], []).append(event)
    return grouped
