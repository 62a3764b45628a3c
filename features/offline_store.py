"""The Feast `OfflineStore` plugin over `features.batch`, so that `FeatureStore.get_historical_features` answers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog
from feast import FeatureView, RepoConfig
from feast.data_source import DataSource
from feast.errors import FeastEntityDFMissingColumnsError
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.offline_stores.offline_store import (
    OfflineStore,
    RetrievalJob,
    RetrievalMetadata,
)
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel
from feast.utils import (
    _get_requested_feature_views_to_features_dict,
    compute_non_entity_date_range,
)

from features import plan_files
from features.asked_views import AskedView, RetrievalUnsupported, asked_view, rows_between
from features.batch import Mode
from features.entity_rows import KNOWN_AT, entity_rows
from features.feature_log import LakeLoggingDestination
from features.lake import Lake
from features.lake_schema import ingested_now
from features.lake_source import LakeSource
from features.retrieval import LakeRetrieval, in_microseconds
from features.row_batch import newest_rows
from features.row_table import TIME_MS, between, epoch_ms, stamped
from features.row_view_compiler import is_windowed
from features.row_views import EVENT_TIME, RowView
from features.settings import StoreSettings

# Fewer rows take less than a second or two.
ROWS_TOLD_MIN = 100_000

log = structlog.get_logger()


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
        feature_views: list[FeatureView],
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
        column, what had been ingested by the row's own instant. Without `entity_df`, the rows are those of the views
        of rows between `start_date` and `end_date`.

        Raises:
            RetrievalUnsupported: there is only a range of time, for windows or for views of different entities.
            EntityRowsRefused: the rows lack an instant.
            FeastEntityDFMissingColumnsError: the rows lack a join key, or what an on-demand view reads of a request.
        """
        lake = Lake(config.offline_store.stores)
        asked = _asked_views(config, feature_views, feature_refs, registry)
        given = (
            _rows_in_range(asked, feature_views, lake, options) if entity_df is None else entity_df
        )
        rows = entity_rows(given, lake)
        known_ms = rows.known_at_ms
        if known_ms is None and options.get("filter_by_created_timestamp"):
            known_ms = rows.event_time_ms
        wanted = dict.fromkeys(column for one in asked for column in one.keys.values())
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        needed = {*wanted, *(name for view in on_demand for name in view.get_request_data_schema())}
        if missing := needed - set(rows.table.column_names):
            raise FeastEntityDFMissingColumnsError(needed, missing)

        def compute() -> pa.Table:
            table = rows.table
            columns = {name: table[name] for name in wanted} | {TIME_MS: rows.event_time_ms}
            columns |= {} if known_ms is None else {"known_at_ms": known_ms}
            mode: Mode = "event" if known_ms is None else "known"
            for one in asked:
                values = one.answer(lake, columns, mode, _log_progress)
                for name, column in zip(one.columns(full=full_feature_names), values, strict=True):
                    table = table.append_column(name, column)
            return table

        bounds = pc.min_max(rows.event_time_ms)
        metadata = RetrievalMetadata(
            features=list(feature_refs),
            keys=[n for n in rows.table.column_names if n not in (rows.time_column, KNOWN_AT)],
            min_event_timestamp=_instant(bounds["min"].as_py()),
            max_event_timestamp=_instant(bounds["max"].as_py()),
        )
        stores: StoreSettings = config.offline_store.stores
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
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """The source's rows themselves, unaggregated, between two instants, both included."""
        stores: StoreSettings = config.offline_store.stores
        made = [created_timestamp_column] if created_timestamp_column else []
        columns = [*join_key_columns, *feature_name_columns, *made, timestamp_field]

        def compute() -> pa.Table:
            view = _row_view(data_source, timestamp_field, created_timestamp_column)
            rows = _source_rows(stores, view, start_date, end_date)
            return _of_everything(rows.select(list(dict.fromkeys(columns))), join_key_columns)

        return LakeRetrieval(compute, stores)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The newest row of each entity between two instants, both included, for `materialize`."""
        stores: StoreSettings = config.offline_store.stores
        made = [created_timestamp_column] if created_timestamp_column else []
        columns = [*join_key_columns, *feature_name_columns, *made, timestamp_field]

        def compute() -> pa.Table:
            view = _row_view(data_source, timestamp_field, created_timestamp_column)
            rows = _source_rows(stores, view, start_date, end_date)
            return _of_everything(newest_rows(rows, join_key_columns, columns), join_key_columns)

        return LakeRetrieval(compute, stores)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Append what a feature server logged to the lake table that the service names, made on first use.

        Raises:
            RetrievalUnsupported: the service logs to another kind of place.
        """
        destination = logging_config.destination
        if not isinstance(destination, LakeLoggingDestination):
            raise RetrievalUnsupported(
                "write_logged_features",
                wanted="a LakeLoggingDestination",
                came=f"it is {type(destination).__name__}",
            )
        logged = data if isinstance(data, pa.Table) else pq.read_table(data)
        lake = Lake(config.offline_store.stores)
        lake.create(
            destination.table, in_microseconds(source.get_schema(registry).empty_table()).schema
        )
        lake.append(destination.table, in_microseconds(logged))

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Append rows to the lake table behind a view; what they do not say is null, and they are ingested now.

        A table that windows are computed from is the archive of its topic: rows that never were in the topic would count
        in training and not in serving.

        Raises:
            RetrievalUnsupported: the view has no lake table, or windows are computed from it.
            NoSuchLakeTable: nobody made it.
        """
        source = feature_view.batch_source
        if not isinstance(source, LakeSource):
            raise RetrievalUnsupported(
                f"write to view {feature_view.name}",
                wanted="a LakeSource behind it",
                came=f"its batch source is a {type(source).__name__}",
            )
        applied = plan_files.applied(config.offline_store.stores.plan_path)
        if is_windowed(feature_view) or source.table in {v.table for v in applied.views}:
            raise RetrievalUnsupported(
                f"write to view {feature_view.name}",
                wanted="a table that no window is computed from",
                came=f"lake table {source.table} is the archive of a topic",
                mend="Publish the events to the topic; the archiver does the rest.",
            )
        lake = Lake(config.offline_store.stores)
        lake.append(source.table, ingested_now(table, lake.schema(source.table)))
        if progress:
            progress(len(table))


def _asked_views(
    config: RepoConfig,
    feature_views: list[FeatureView],
    feature_refs: list[str],
    registry: BaseRegistry,
) -> list[AskedView]:
    """The views in the order asked, each with what is wanted of it; on-demand views are Feast's to compute."""
    on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, config.project, registry)
    wanted, _ = _get_requested_feature_views_to_features_dict(
        feature_refs, feature_views, on_demand
    )
    applied = plan_files.applied(config.offline_store.stores.plan_path)
    return [
        asked_view(view, tuple(dict.fromkeys(names)), applied) for view, names in wanted.items()
    ]


def _rows_in_range(
    asked: list[AskedView], feature_views: list[FeatureView], lake: Lake, options: dict[str, Any]
) -> pa.Table:
    start, end = compute_non_entity_date_range(
        feature_views, options.get("start_date"), options.get("end_date")
    )
    rows = rows_between(asked, lake, start, end)
    if rows is None:
        raise RetrievalUnsupported(
            "get_historical_features",
            wanted="entity_df, or views of rows with the same join keys",
            came="only a range of time was given for other views",
            mend="SELECT the rows from a lake table: entity_df='SELECT … FROM …'.",
        )
    return rows


def _of_everything(rows: pa.Table, join_keys: list[str]) -> pa.Table:
    """The rows, with the entity that Feast invents where there is none."""
    if join_keys:
        return rows
    return rows.append_column(
        DUMMY_ENTITY_ID, pa.array([DUMMY_ENTITY_VAL] * len(rows), pa.string())
    )


def _row_view(source: DataSource, timestamp_field: str, created: str | None) -> RowView:
    if not isinstance(source, LakeSource):
        raise RetrievalUnsupported(
            f"read source {source.name}",
            wanted="a LakeSource",
            came=f"it is a {type(source).__name__}",
            mend="Put the rows into a lake table.",
        )
    return RowView(source.table, source.table, (), (), 0, timestamp_field, created or "")


def _source_rows(
    stores: StoreSettings, view: RowView, start: datetime | None, end: datetime | None
) -> pa.Table:
    """The table's rows between two instants, stamped; the lake's own event time is looked up in its statistics."""
    indexed = view.time_column == EVENT_TIME
    events = Lake(stores).scan(
        view.table,
        since_ms=epoch_ms(start) if indexed and start else None,
        until_ms=epoch_ms(end) + 1 if indexed and end else None,
    )
    rows = stamped(view, events)
    return between(rows, rows[TIME_MS], start, end)


def _log_progress(view: str, done: int, of: int) -> None:
    if of >= ROWS_TOLD_MIN:
        log.info("retrieval", view=view, rows=done, of=of)


def _instant(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, tz=UTC)
