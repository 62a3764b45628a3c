"""Row d's peers, in their own environment: Feast's own Redis store, regular and with precomputed vectors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RepoConfig,
    ValueType,
)
from feast.online_response import OnlineResponse
from feast.types import Float64, String

from tests.benchmarks.contenders import times
from tests.benchmarks.peers import serve

OPTIONS = json.loads(sys.argv[1])
FOLDER = Path(OPTIONS["folder"])
FEATURES: list[str] = OPTIONS["features"]
SERVICES = {"feast": "plain", "feast-precomputed": "vectors"}


def filled() -> FeatureStore:
    """A store that holds the rows of `values.parquet`, also as precomputed vectors."""
    store = FeatureStore(
        config=RepoConfig(
            project=OPTIONS["project"],
            provider="local",
            registry=str(FOLDER / "registry.db"),
            online_store={"type": "redis", "connection_string": OPTIONS["redis"]},
            entity_key_serialization_version=3,
        )
    )
    station = Entity(name="station", join_keys=["station"], value_type=ValueType.STRING)
    view = FeatureView(
        name="v",
        entities=[station],
        ttl=timedelta(0),
        schema=[
            Field(name="station", dtype=String),
            *(Field(name=f, dtype=Float64) for f in FEATURES),
        ],
        source=FileSource(path=str(FOLDER / "values.parquet"), timestamp_field="event_timestamp"),
    )
    services = [
        FeatureService(name="plain", features=[view]),
        FeatureService(name="vectors", features=[view], precompute_online=True),
    ]
    store.apply([station, view, *services])
    rows = pd.read_parquet(FOLDER / "values.parquet")
    rows["event_timestamp"] = datetime.now(tz=UTC)
    store.write_to_online_store("v", rows)
    store.precompute_feature_service("vectors")
    return store


def ask(store: FeatureStore, service: FeatureService, asked: list[str]) -> OnlineResponse:
    """Under full names: Feast finds its precomputed vectors under no others."""
    entities: dict[str, Any] = {"station": asked}
    return store.get_online_features(
        features=service, entity_rows=entities, full_feature_names=True
    )


def answer(store: FeatureStore, service: FeatureService, asked: list[str]) -> None:
    """The answer as a file."""
    found: dict[str, Any] = ask(store, service, asked).to_dict()
    table = pd.DataFrame({feature: found[f"v__{feature}"] for feature in FEATURES})
    table.to_parquet(FOLDER / "answer.parquet")


def main() -> None:
    store = filled()
    reads: dict[str, Callable[[], object]] = {}
    values: dict[str, Callable[[], object]] = {"versions": lambda: {"feast": version("feast")}}
    for kind, name in SERVICES.items():
        service = store.get_feature_service(name)
        for rows, calls in OPTIONS["calls"].items():
            asked = [f"E{n}" for n in OPTIONS["asked"][rows]]
            reads[f"{kind} {rows}"] = times(partial(ask, store, service, asked), calls)
            values[f"answer {kind} {rows}"] = partial(answer, store, service, asked)
    serve(reads, values)


if __name__ == "__main__":
    main()
