"""Row e's peers, in their own environment: Feast over DuckDB and over Dask, polars `join_asof`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64, Int64

from tests.benchmarks.peers import serve

OPTIONS = json.loads(sys.argv[1])
FOLDER = Path(OPTIONS["folder"])
VIEWS: list[str] = OPTIONS["views"]
FIELDS: list[str] = OPTIONS["fields"]
NAMES = [f"{view}__{field}" for view in VIEWS for field in FIELDS]


def feast_store(kind: str) -> FeatureStore:
    folder = FOLDER / kind
    folder.mkdir(exist_ok=True)
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store=None,
            offline_store={"type": kind},
            entity_key_serialization_version=3,
        )
    )
    entity = Entity(name="k", join_keys=["k"], value_type=ValueType.INT64)
    views = [
        FeatureView(
            name=view,
            entities=[entity],
            ttl=timedelta(0),
            schema=[Field(name="k", dtype=Int64), *(Field(name=f, dtype=Float64) for f in FIELDS)],
            source=FileSource(
                path=str(FOLDER / f"{view}.parquet"),
                timestamp_field="event_timestamp",
                created_timestamp_column="created",
            ),
            online=False,
        )
        for view in VIEWS
    ]
    store.apply([entity, *views])
    return store


def feast_read(kind: str) -> Callable[[], pd.DataFrame]:
    store = feast_store(kind)
    refs = [f"{view}:{field}" for view in VIEWS for field in FIELDS]

    def read() -> pd.DataFrame:
        asked = pd.read_parquet(FOLDER / "asked.parquet")
        job = store.get_historical_features(entity_df=asked, features=refs, full_feature_names=True)
        return job.to_df()

    return read


def polars_read() -> pd.DataFrame:
    asked = pl.read_parquet(FOLDER / "asked.parquet").sort("event_timestamp")
    for view in VIEWS:
        events = (
            pl.scan_parquet(FOLDER / f"{view}.parquet")
            .sort("event_timestamp", "created")
            .unique(["k", "event_timestamp"], keep="last", maintain_order=True)
            .drop("created")
            .rename({field: f"{view}__{field}" for field in FIELDS})
            .collect()
        )
        asked = asked.join_asof(events, on="event_timestamp", by="k", check_sortedness=False)
    return asked.to_pandas()


READS: dict[str, Callable[[], pd.DataFrame]] = {"polars": polars_read}
for kind in OPTIONS["feast"]:
    READS[f"feast-{kind}"] = feast_read(kind)


def answered(read: Callable[[], pd.DataFrame], path: Path) -> dict[str, Any]:
    """The answer by row number, as a file."""
    found = read().sort_values("n")
    found[["n", *NAMES]].to_parquet(path, index=False)
    return {"rows": len(found)}


if __name__ == "__main__":
    values: dict[str, Callable[[], object]] = {
        f"answer {name}": lambda read=read, name=name: answered(read, FOLDER / f"{name}.parquet")
        for name, read in READS.items()
    }
    packages = ("feast", "dask", "ibis-framework", "duckdb", "polars", "pandas")
    values["versions"] = lambda: {name: version(name) for name in packages}
    serve(READS, values)
