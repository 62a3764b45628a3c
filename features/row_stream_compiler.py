"""A view of a stream's newest rows: a Feast `StreamFeatureView` without aggregations → `RowView`, or the reasons why not."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from feast.types import FeastType, Float32, Float64, Int32, Int64, String

from features.lake_schema import arrow_schema
from features.row_views import ColumnType, RowView
from features.view_compiler import ARROW_TYPES, NAME, ViewCompiler

TYPES: Mapping[FeastType, ColumnType] = {
    Float32: "double",
    Float64: "double",
    Int32: "bigint",
    Int64: "bigint",
    String: "string",
}


class RowStreamCompiler(ViewCompiler):
    """Compiles one view; source, SQL and entities are those of a windowed one."""

    def row_view(self) -> RowView | None:
        """The compiled view; None where anything was refused."""
        definition = self.definition
        topic = self._topic()
        if topic is None or topic.contract is None:
            return None
        columns = {
            field.name: kind
            for field in arrow_schema(topic.contract)
            if (kind := ARROW_TYPES.get(field.type)) is not None
        }
        rows = self._row_sql(columns, topic.contract.id_field)
        columns |= rows.columns if rows else {}
        keys = tuple(key.name for key in self._join_keys(columns))
        for name in (definition.name, *(f.name for f in definition.features)):
            if not NAME.match(name):
                self.refuse("names of a-z, 0-9 and single _", f"{name!r} is not one", "Rename it.")
        for field in definition.features:
            if columns.get(field.name) != TYPES.get(field.dtype, "none"):
                came = f"{field.name!r} is {field.dtype} here and {columns.get(field.name, 'nothing')} there"
                self.refuse(
                    f"columns of the stream as they are: {columns}", came, "Correct the schema."
                )
        if not definition.features:
            self.refuse("a schema", "it names no features", "Name the columns that are features.")
        if self.refusals:
            return None
        fields = tuple(field.name for field in definition.features)
        return RowView(
            name=definition.name,
            table=topic.table,
            join_keys=keys,
            fields=fields,
            ttl_s=int((definition.ttl or timedelta()).total_seconds()),
            others=tuple(name for name in fields if columns[name] == "string"),
            topic=topic.name,
            kinds={name: columns[name] for name in (*keys, *fields)},
            row_sql=rows,
        )
