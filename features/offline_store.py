"""The Feast `OfflineStore` plugin over `features.batch`, so that `FeatureStore.get_historical_features` answers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import structlog
from feast import FeatureView, RepoConfig
from feast.data_source import DataSource
from feast.errors import FeastEntityDFMissingColumnsError
from feast.infra.offline_stores.offline_store import (
    OfflineStore,
    RetrievalJob,
    RetrievalMetadata,
)
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel

from features.batch import features_as_of
from features.entity_rows import EntityRows, entity_rows
from features.lake import Lake
from features.lake_schema import ingested_now
from features.lake_source import LakeSource
from features.retrieval import LakeRetrieval
from features.row_batch import newest_rows
from features.settings import StoreSettings
from features.views import Plan, Service
from schemas.errors import HeadraceError

_SERVICE = "__retrieval"
# Fewer rows take less than a second or two.
ROWS_TOLD_MIN = 100_000

log = structlog.get_logger()


class RetrievalUnsupported(HeadraceError):
    """Feast asked the offline store for something windows over events do not have."""


class HeadraceOfflineStoreConfig(FeastConfigBaseModel):
    """What Feast's configuration says of this store; `feature_store` fills it in."""

    type: Literal["features.offline_store.HeadraceOfflineStore"] = (
        "features.offline_store.HeadraceOfflineStore"
    )
    stores: StoreSettings


class HeadraceOfflineStore(OfflineStore):
    """Point-in-time correct features from the lake, as of event time or as known at an ingest time."""

    # The created time of a lake row is when it was ingested.
    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],  # noqa: ARG004 - the plan has them compiled
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,  # noqa: FBT001, FBT002
        **options: Any,  # noqa: ANN401
    ) -> RetrievalJob:
        """Features for rows of join keys and instants; rows keep their order and their repetitions.

        `entity_df` is a data frame, an Arrow table, or a SELECT over lake tables. Where it has a column `known_at`, a row
        sees only what had been ingested by then; with Feast's option `filter_by_created_timestamp`, and without that
        column, what had been ingested by the row's own instant.

        Raises:
            RetrievalUnsupported: there are no rows, only a range of time.
            EntityRowsRefused: the rows lack an instant.
            FeastEntityDFMissingColumnsError: the rows lack a join key, or what an on-demand view reads of a request.
        """
        if entity_df is None:
            raise RetrievalUnsupported(
                "get_historical_features",
                wanted="entity_df: rows to compute windows for",
                came="only a range of time was given",
                mend="SELECT the rows from a lake table: entity_df='SELECT … FROM …'.",
            )
        stores: StoreSettings = config.offline_store.stores
        plan = Plan.load(stores.plan_path)
        parted = (ref.partition(":") for ref in feature_refs)
        made = {view.name for view in plan.on_demand}
        service = Service(_SERVICE, tuple((v, name) for v, _, name in parted if v not in made))
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        asked = Plan(plan.views, (service,), plan.row_views)
        lake = Lake(stores)
        rows = entity_rows(entity_df, lake)
        known_ms = rows.known_at_ms
        if known_ms is None and options.get("filter_by_created_timestamp"):
            known_ms = rows.event_time_ms
        keys = list(asked.entity_columns(_SERVICE))
        needed = {*keys, *(name for view in on_demand for name in view.get_request_data_schema())}
        if missing := needed - set(rows.table.column_names):
            raise FeastEntityDFMissingColumnsError(needed, missing)

        def compute() -> pa.Table:
            answered = features_as_of(
                asked,
                _SERVICE,
                lake,
                _asked(rows, keys, known_ms),
                mode="event" if known_ms is None else "known",
                progress=_log_progress,
            )
            table = rows.table
            for (_, feature), name in zip(service.features, service.names, strict=True):
                shown = name if full_feature_names else feature
                table = table.append_column(shown, answered[name])
            return table

        bounds = pc.min_max(rows.event_time_ms)
        metadata = RetrievalMetadata(
            features=list(feature_refs),
            keys=keys,
            min_event_timestamp=_instant(bounds["min"].as_py()),
            max_event_timestamp=_instant(bounds["max"].as_py()),
        )
        return LakeRetrieval(
            compute, stores, metadata, full=full_feature_names, on_demand=on_demand
        )

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

        return LakeRetrieval(compute, config.offline_store.stores)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,  # noqa: ARG004 - a lake row's is when it was ingested
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The newest row of each entity between two instants, for `materialize`."""
        stores: StoreSettings = config.offline_store.stores
        table = getattr(data_source, "table", data_source.name)

        def compute() -> pa.Table:
            events = Lake(stores).scan(
                table, since_ms=_epoch_ms(start_date), until_ms=(_epoch_ms(end_date) or 0) + 1
            )
            wanted = (*join_key_columns, *feature_name_columns, timestamp_field)
            return newest_rows(events, join_key_columns, wanted)

        return LakeRetrieval(compute, stores)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Append rows to the lake table behind a view; what they do not say is null, and they are ingested now.

        Raises:
            RetrievalUnsupported: the view has no lake table.
            NoSuchLakeTable: nobody made it.
        """
        source = feature_view.batch_source
        if not isinstance(source, LakeSource):
            raise RetrievalUnsupported(
                f"write to view {feature_view.name}",
                wanted="a LakeSource behind it",
                came=f"its batch source is a {type(source).__name__}",
            )
        lake = Lake(config.offline_store.stores)
        lake.append(source.table, ingested_now(table, lake.schema(source.table)))
        if progress:
            progress(len(table))


def _asked(rows: EntityRows, keys: list[str], known_ms: pa.ChunkedArray | None) -> pa.Table:
    columns = {k: rows.table[k] for k in keys}
    columns["event_time_ms"] = rows.event_time_ms
    return pa.table(columns if known_ms is None else columns | {"known_at_ms": known_ms})


def _log_progress(view: str, done: int, of: int) -> None:
    if of >= ROWS_TOLD_MIN:
        log.info("retrieval", view=view, rows=done, of=of)


def _instant(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, tz=UTC)


def _epoch_ms(instant: datetime | None) -> int | None:
    return None if instant is None else int(instant.timestamp() * 1000)
