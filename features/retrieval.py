"""Feast's `RetrievalJob` over the lake: computed when it is asked for its rows, as Arrow, pandas, Parquet or Iceberg."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.protos.feast.core.SavedDataset_pb2 import (
    SavedDatasetStorage as SavedDatasetStorageProto,
)
from feast.saved_dataset import SavedDatasetStorage

from features.entity_rows import EVENT_TIMESTAMP
from features.lake import Lake
from features.lake_source import LakeSource
from features.settings import StoreSettings
from schemas.errors import HeadraceError


class StorageUnsupported(HeadraceError):
    """A training set cannot be kept there."""


class SavedDatasetLakeStorage(SavedDatasetStorage):
    """A training set as a lake table of its own, named by `table`."""

    _proto_attr_name = "custom_storage"

    def __init__(self, table: str) -> None:
        self.table = table

    @staticmethod
    def from_proto(storage_proto: SavedDatasetStorageProto) -> SavedDatasetLakeStorage:
        """The storage as the registry keeps it."""
        return SavedDatasetLakeStorage(
            json.loads(storage_proto.custom_storage.configuration)["table"]
        )

    @staticmethod
    def from_data_source(data_source: DataSource) -> SavedDatasetLakeStorage:
        """The table behind a `LakeSource`."""
        return SavedDatasetLakeStorage(getattr(data_source, "table", data_source.name))

    def to_proto(self) -> SavedDatasetStorageProto:
        """The storage as the registry keeps it, with this class's name, by which any process finds it."""
        configuration = json.dumps({"table": self.table}).encode()
        options = DataSourceProto.CustomSourceOptions(configuration=configuration)
        proto: SavedDatasetStorageProto = self._custom_storage_proto(options)
        return proto

    def to_data_source(self) -> DataSource:
        """The table as a source."""
        return LakeSource(self.table, timestamp_field=EVENT_TIMESTAMP)


class LakeRetrieval(RetrievalJob):
    """A computation over the lake that has not run yet."""

    def __init__(
        self,
        compute: Callable[[], pa.Table],
        stores: StoreSettings,
        metadata: RetrievalMetadata | None = None,
        *,
        full: bool = False,
        on_demand: Sequence[OnDemandFeatureView] = (),
    ) -> None:
        self._compute = compute
        self._stores = stores
        self._metadata = metadata
        self._full = full
        self._on_demand = list(on_demand)

    @property
    def full_feature_names(self) -> bool:
        """Whether columns are called `view__feature`."""
        return self._full

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Those that were asked for: Feast runs their functions on the rows."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked for."""
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002
        return self._compute()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool | None = False,  # noqa: FBT001, FBT002 - Feast's interface
        timeout: int | None = None,
    ) -> None:
        """Keep the rows as a Parquet file (`SavedDatasetFileStorage`) or a lake table (`SavedDatasetLakeStorage`).

        Raises:
            SavedDatasetLocationAlreadyExists: Something is there already; lake tables are never overwritten.
            StorageUnsupported: It is another kind of place.
        """
        if isinstance(storage, SavedDatasetLakeStorage):
            self._to_lake(storage.table, timeout)
        elif isinstance(storage, SavedDatasetFileStorage):
            path = Path(urlsplit(storage.file_options.uri).path)
            if path.exists() and not allow_overwrite:
                raise SavedDatasetLocationAlreadyExists(location=str(path))
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(self.to_arrow(timeout=timeout), path)
        else:
            raise StorageUnsupported(
                "persist",
                wanted="SavedDatasetFileStorage or SavedDatasetLakeStorage",
                came=f"it is {type(storage).__name__}",
            )

    def _to_lake(self, table: str, timeout: int | None) -> None:
        lake = Lake(self._stores)
        if lake.exists(table):
            raise SavedDatasetLocationAlreadyExists(location=f"lake table {table}")
        rows = in_microseconds(self.to_arrow(timeout=timeout))
        lake.create(table, rows.schema)
        lake.append(table, rows)

    def to_sql(self) -> str:
        """Always refused: it is more than one query.

        Raises:
            StorageUnsupported: always.
        """
        raise StorageUnsupported(
            "to_sql", wanted="to_arrow, to_df or persist", came="a computation of many queries"
        )

    def __repr__(self) -> str:
        """What was asked for, without running it."""
        asked: Any = self._metadata.features if self._metadata else "events"
        return f"LakeRetrieval({asked})"


def in_microseconds(rows: pa.Table) -> pa.Table:
    """Timestamps as Iceberg has them: pandas makes nanoseconds, which its second version does not know."""
    fields = [
        f.with_type(pa.timestamp("us", f.type.tz)) if pa.types.is_timestamp(f.type) else f
        for f in rows.schema
    ]
    return rows.cast(pa.schema(fields), safe=False)
