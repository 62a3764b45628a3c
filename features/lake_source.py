"""A Feast `DataSource` that names a lake table; where the lake is, the offline store's configuration says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from feast.data_source import DataSource
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.repo_config import RepoConfig
from feast.type_map import pa_to_feast_value_type
from feast.value_type import ValueType

from features.lake import Lake
from features.lake_schema import LAKE_COLUMNS
from features.row_views import EVENT_TIME
from features.settings import StoreSettings

FILLED_IN = {"event_time_ms", *(f.name for f in LAKE_COLUMNS)} - {EVENT_TIME}
# Iceberg's lists have elements where Arrow's have items; large strings are strings, not JSON.
_AS_ARROW_SAYS = (("large_", ""), ("<element: ", "<item: "))


class LakeSource(DataSource):
    """The events of one topic, as archived, or the rows of any other table of the lake. Its name is the table's.

    Feast's own `IcebergSource` would put the catalog's address into every definition; this one leaves definitions
    the same wherever they run.
    """

    def __init__(
        self,
        table: str,
        *,
        timestamp_field: str = EVENT_TIME,
        created_timestamp_column: str = "",
        field_mapping: Mapping[str, str] | None = None,
        description: str = "",
    ) -> None:
        super().__init__(
            name=f"lake_{table}",
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            field_mapping=dict(field_mapping or {}),
            description=description,
        )
        self.table = table

    @staticmethod
    def from_proto(data_source: DataSourceProto) -> LakeSource:
        """The source as the registry keeps it."""
        options = json.loads(data_source.custom_options.configuration)
        return LakeSource(
            options["table"],
            timestamp_field=data_source.timestamp_field,
            created_timestamp_column=data_source.created_timestamp_column,
            field_mapping=dict(data_source.field_mapping),
            description=data_source.description,
        )

    def _to_proto_impl(self) -> DataSourceProto:
        configuration = json.dumps({"table": self.table}).encode()
        return DataSourceProto(
            name=self.name,
            type=DataSourceProto.CUSTOM_SOURCE,
            data_source_class_type="features.lake_source.LakeSource",
            timestamp_field=self.timestamp_field,
            created_timestamp_column=self.created_timestamp_column,
            field_mapping=self.field_mapping,
            description=self.description,
            custom_options=DataSourceProto.CustomSourceOptions(configuration=configuration),
        )

    def validate(self, config: RepoConfig) -> None:
        """Raises `NoSuchLakeTable` where the table was never created."""
        list(self.get_table_column_names_and_types(config))

    def source_type(self) -> Any:  # noqa: ANN401 - a protobuf enum
        """Feast's kind of source: our own."""
        return DataSourceProto.CUSTOM_SOURCE

    @staticmethod
    def source_datatype_to_feast_value_type() -> Callable[[str], ValueType]:
        """How the lake's column types read in Feast."""
        return _value_type

    def get_table_column_names_and_types(self, config: RepoConfig) -> Iterable[tuple[str, str]]:
        """The columns that a writer gives, without those that the lake fills in; Feast asks on `apply` and on writes."""
        schema = Lake(stores_of(config)).schema(self.table)
        return [(f.name, str(f.type)) for f in schema if f.name not in FILLED_IN]

    def get_table_query_string(self) -> str:
        """The table's name, as DuckDB knows it during a query."""
        return self.table

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LakeSource) and super().__eq__(other) and self.table == other.table

    def __hash__(self) -> int:
        return hash((type(self), self.table))


def _value_type(kind: str) -> ValueType:
    for lake, arrow in _AS_ARROW_SAYS:
        kind = kind.replace(lake, arrow)
    try:
        return pa_to_feast_value_type(kind)
    except KeyError:
        return ValueType.UNKNOWN


def stores_of(config: RepoConfig) -> StoreSettings:
    """The store settings that `features.feast_store.feature_store` put into Feast's configuration."""
    held = config.offline_store.stores
    # Feast hands its configuration on as objects, and as the text that it keeps of them.
    return held if isinstance(held, StoreSettings) else StoreSettings.model_validate_json(held)
