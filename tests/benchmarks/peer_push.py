"""Row c's peer in its own environment: events from Kafka into Feast's own Redis store through `push()`.

Of Feast's documented options for speed `skip_dedup` is on: nothing is read before it is overwritten.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
from confluent_kafka import Consumer
from feast import (
    Entity,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RepoConfig,
    ValueType,
)
from feast.data_source import PushMode
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, String

from tests.benchmarks.peers import serve

OPTIONS = json.loads(sys.argv[1])
FOLDER = Path(OPTIONS["folder"])
ROWS = int(OPTIONS["rows"])


def feast_store() -> FeatureStore:
    store = FeatureStore(
        config=RepoConfig(
            project=OPTIONS["project"],
            provider="local",
            registry=str(FOLDER / f"{OPTIONS['project']}.db"),
            online_store={
                "type": "redis",
                "connection_string": OPTIONS["redis"],
                "skip_dedup": True,
            },
            entity_key_serialization_version=3,
        )
    )
    station = Entity(name="station", join_keys=["station"], value_type=ValueType.STRING)
    files = FileSource(path=str(FOLDER / "none.parquet"), timestamp_field="event_timestamp")
    empty = {"station": ["s"], "level": [0.0], "event_timestamp": [pd.Timestamp.now(tz="UTC")]}
    pd.DataFrame(empty).to_parquet(FOLDER / "none.parquet")
    view = FeatureView(
        name="v",
        entities=[station],
        ttl=timedelta(0),
        schema=[Field(name="station", dtype=String), Field(name="level", dtype=Float64)],
        source=PushSource(name="pushed", batch_source=files),
    )
    store.apply([station, view])
    return store


def keys() -> list[str]:
    """Where Feast keeps the entities that are waited for, in hexadecimal."""
    return [
        _redis_key(
            OPTIONS["project"],
            EntityKey(join_keys=["station"], entity_values=[Value(string_val=name)]),
            entity_key_serialization_version=3,
        ).hex()
        for name in OPTIONS["waited"]
    ]


def run() -> None:
    """Push what comes, at most `ROWS` rows at a time; a lone row does not wait for company."""
    store = feast_store()
    config = {"bootstrap.servers": OPTIONS["servers"], "group.id": OPTIONS["project"]}
    reader = Consumer({**config, "auto.offset.reset": "earliest", "fetch.wait.max.ms": 100})
    reader.subscribe([OPTIONS["topic"]])
    while True:
        first = reader.poll(1)
        if first is None:
            continue
        batch = [first, *reader.consume(ROWS - 1, 0)] if ROWS > 1 else [first]
        rows = pd.DataFrame([json.loads(m.value() or b"") for m in batch if m.error() is None])
        rows["event_timestamp"] = datetime.now(tz=UTC)
        store.push("pushed", rows[["station", "level", "event_timestamp"]], to=PushMode.ONLINE)


if __name__ == "__main__":
    serve({"run": run}, {"keys": keys})
