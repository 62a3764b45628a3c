"""The Feast `OfflineStore` plugin over `features.batch`, so that `FeatureStore.get_historical_features` answers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, RepoConfig
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.offline_store import (
    OfflineStore,
    RetrievalJob,
    RetrievalMetadata,
)
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel
from feast.saved_dataset import SavedDatasetStorage

from features.batch import features_as_of
from features.lake import Lake
from features.settings import StoreSettings
from features.views import Plan, Service
from schemas.errors import HeadraceError

_SERVICE = "__retrieval"


class RetrievalUnsupported(HeadraceError):
    """Feast asked the offline store for something windows over events do not have."""


class HeadraceOfflineStoreConfig(FeastConfigBaseModel):
    """What Feast's configuration says of this store; `feature_store` fills it in."""

    type: Literal["features.offline_store.HeadraceOfflineStore"] = (
        "features.offline_store.HeadraceOfflineStore"
    )
    stores: StoreSettings


class LakeRetrieval(RetrievalJob):
    """A computation over the lake that has not run yet."""

    def __init__(
        self, compute: Callable[[], pa.Table], metadata: RetrievalMetadata | None, *, full: bool
    ) -> None:
        self._compute = compute
        self._metadata = metadata
        self._full = full

    @property
    def full_feature_names(self) -> bool:
        """Whether columns are called `view__feature`."""
        return self._full

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """None: the compiler refuses them."""
        return []

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
        allow_overwrite: bool | None = False,  # noqa: FBT001, FBT002, ARG002 - Feast's interface
        timeout: int | None = None,  # noqa: ARG002
    ) -> None:
        """Saved datasets have no place in the lake; keep the Arrow table yourself."""
        raise SavedDatasetLocationAlreadyExists(location=str(storage))


class HeadraceOfflineStore(OfflineStore):
    """Point-in-time correct features from the lake, as of event time."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],  # noqa: ARG004 - the plan has them compiled
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,  # noqa: ARG004
        project: str,  # noqa: ARG004
        full_feature_names: bool = False,  # noqa: FBT001, FBT002
        **_: Any,  # noqa: ANN401
    ) -> RetrievalJob:
        """Features for a data frame of join keys and event times; rows keep their order."""
        if not isinstance(entity_df, pd.DataFrame):
            raise RetrievalUnsupported(
                "get_historical_features",
                wanted="entity_df as a pandas data frame",
                came=f"it is {type(entity_df).__name__}",
                mend="Read the rows into a frame first.",
            )
        stores: StoreSettings = config.offline_store.stores
        plan = Plan.load(stores.plan_path)
        parted = (ref.partition(":") for ref in feature_refs)
        service = Service(_SERVICE, tuple((view, feature) for view, _, feature in parted))
        asked = Plan(plan.views, (service,))
        time_column = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
        keys = [key.name for key in asked.join_keys(_SERVICE)]
        times = pd.to_datetime(entity_df[time_column], utc=True)

        def compute() -> pa.Table:
            entities = pa.Table.from_pandas(entity_df, preserve_index=False)
            asked_for = pa.table(
                {k: entities[k] for k in keys} | {"event_time_ms": _milliseconds(times)}
            )
            answered = features_as_of(asked, _SERVICE, Lake(stores), asked_for)
            for (_, feature), name in zip(service.features, service.names, strict=True):
                shown = name if full_feature_names else feature
                entities = entities.append_column(shown, answered[name])
            return entities

        metadata = RetrievalMetadata(
            features=list(feature_refs),
            keys=keys,
            min_event_timestamp=times.min().to_pydatetime() if len(times) else None,
            max_event_timestamp=times.max().to_pydatetime() if len(times) else None,
        )
        return LakeRetrieval(compute, metadata, full=full_feature_names)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,  # noqa: ARG004
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """The source's events themselves, unaggregated, between two instants."""
        columns = (*join_key_columns, *feature_name_columns, timestamp_field)
        table = getattr(data_source, "table", data_source.name)

        def compute() -> pa.Table:
            return Lake(config.offline_store.stores).scan(
                table,
                since_ms=_epoch_ms(start_date),
                until_ms=_epoch_ms(end_date),
                columns=columns,
            )

        return LakeRetrieval(compute, None, full=False)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,  # noqa: ARG004
        data_source: DataSource,
        join_key_columns: list[str],  # noqa: ARG004
        feature_name_columns: list[str],  # noqa: ARG004
        timestamp_field: str,  # noqa: ARG004
        created_timestamp_column: str | None,  # noqa: ARG004
        start_date: datetime,  # noqa: ARG004
        end_date: datetime,  # noqa: ARG004
    ) -> RetrievalJob:
        """Always refused: Feast's `materialize` copies latest rows, but a window is no row.

        Raises:
            RetrievalUnsupported: always.
        """
        raise RetrievalUnsupported(
            f"materialize of {data_source.name}",
            wanted="the stream job to fill the online store",
            came="Feast asked for latest rows to copy",
            mend="Run `headrace features apply`; rings come from the stream alone.",
        )


def _milliseconds(times: pd.Series[pd.Timestamp]) -> pa.Array:
    return pc.cast(pa.array(times.dt.as_unit("ms")), pa.int64())


def _epoch_ms(instant: datetime | None) -> int | None:
    return None if instant is None else int(instant.timestamp() * 1000)
