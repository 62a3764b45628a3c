"""Contracts as Arrow schemas, and events as lake rows."""

from __future__ import annotations

import time
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from schemas.errors import HeadraceError

# Beside the contract's own columns every row says when it happened as a timestamp, when it was received, and where it
# stood in Kafka (null for history that never went through Kafka).
LAKE_COLUMNS = (
    pa.field("event_time", pa.timestamp("us", tz="UTC"), nullable=False),
    pa.field("ingest_ms", pa.int64(), nullable=False),
    pa.field("kafka_topic", pa.string()),
    pa.field("kafka_partition", pa.int32()),
    pa.field("kafka_offset", pa.int64()),
)
_SCALARS: Mapping[type, pa.DataType] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
}


class NoArrowType(HeadraceError):
    """A contract has a field that the lake has no column type for."""


class Coordinate(NamedTuple):
    """Where and when Kafka received an event; history has an `ingest_ms` alone."""

    ingest_ms: int
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None


def arrow_schema(contract: type[BaseModel]) -> pa.Schema:
    """The contract's own columns, in its order; a column is nullable where its field is optional.

    Raises:
        NoArrowType: a field is neither a scalar, an enum, a model, nor a list or map of those.
    """
    return pa.schema([_field(contract, name) for name in contract.model_fields])


def lake_schema(contract: type[BaseModel]) -> pa.Schema:
    """The columns of a contract's lake table."""
    return pa.schema([*arrow_schema(contract), *LAKE_COLUMNS])


def event_table(
    contract: type[BaseModel],
    values: Sequence[Mapping[str, Any]],
    coordinates: Sequence[Coordinate],
) -> pa.Table:
    """Decoded events and their coordinates as rows of the contract's lake table."""
    own = arrow_schema(contract)
    table = pa.Table.from_pylist(list(values), schema=own)
    return with_coordinates(
        table,
        ingest_ms=[c.ingest_ms for c in coordinates],
        topic=[c.topic for c in coordinates],
        partition=[c.partition for c in coordinates],
        offset=[c.offset for c in coordinates],
    )


def with_coordinates(
    table: pa.Table,
    *,
    ingest_ms: Sequence[int] | pa.Array,
    topic: Sequence[str | None] | None = None,
    partition: Sequence[int | None] | None = None,
    offset: Sequence[int | None] | None = None,
) -> pa.Table:
    """A table of contract columns with the lake's columns added; history leaves the Kafka ones out."""
    micros = pc.multiply(table["event_time_ms"].cast(pa.int64()), 1000)
    columns = (micros.cast(pa.timestamp("us", tz="UTC")), ingest_ms, topic, partition, offset)
    for field, column in zip(LAKE_COLUMNS, columns, strict=True):
        filled = pa.nulls(len(table), field.type) if column is None else column
        if not isinstance(filled, pa.Array | pa.ChunkedArray):
            filled = pa.array(filled, field.type)
        table = table.append_column(field, filled.cast(field.type))
    return table


def ingested_now(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows that somebody wrote past Kafka, as rows of a lake table: ingested now, null where they say nothing.

    `event_time` and `event_time_ms` follow from one another.
    """
    now_ms = time.time_ns() // 1_000_000
    columns = {name: rows[name] for name in rows.column_names}
    if "event_time" not in columns and "event_time_ms" in columns:
        micros = pc.multiply(columns["event_time_ms"].cast(pa.int64()), 1000)
        columns["event_time"] = micros.cast(pa.timestamp("us", tz="UTC"))
    if "event_time" in columns and "event_time_ms" not in columns:
        stamps = columns["event_time"].cast(pa.timestamp("ms", tz="UTC"), safe=False)
        columns["event_time_ms"] = stamps.cast(pa.int64())
    columns["ingest_ms"] = pa.array([now_ms] * len(rows), pa.int64())
    filled = [columns.get(f.name, pa.nulls(len(rows), f.type)) for f in schema]
    arrays = [a.cast(f.type, safe=False) for a, f in zip(filled, schema, strict=True)]
    return pa.table(arrays, schema=pa.schema([f.with_nullable(True) for f in schema]))


def _field(contract: type[BaseModel], name: str) -> pa.Field:
    annotation = contract.model_fields[name].annotation
    plain, nullable = _without_none(annotation)
    arrow = _type(plain)
    if arrow is None:
        raise NoArrowType(
            f"{contract.__name__}.{name}",
            wanted="str, int, float, bool, an enum, a model, or a list or map of those",
            came=f"it is {annotation}",
            mend="Change the contract, or teach features/lake_schema.py the type.",
        )
    return pa.field(name, arrow, nullable=nullable)


def _without_none(annotation: Any) -> tuple[Any, bool]:  # noqa: ANN401 - annotations have no type
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [a for a in get_args(annotation) if a is not types.NoneType]
        nullable = len(rest) < len(get_args(annotation))
        return (_bare(rest[0]), nullable) if len(rest) == 1 else (annotation, nullable)
    return annotation, False


def _bare(annotation: Any) -> Any:  # noqa: ANN401
    # Annotated[str, …] inside Optional keeps its wrapper; outside, pydantic has taken it off.
    return annotation.__origin__ if hasattr(annotation, "__metadata__") else annotation


def _type(annotation: Any) -> pa.DataType | None:  # noqa: ANN401
    annotation, _ = _without_none(_bare(annotation))
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _SCALARS.get(type(arguments[0]))
    if origin in (list, tuple):
        element = _type(arguments[0])
        return pa.list_(element) if element else None
    if origin is dict:
        value = _type(arguments[1])
        return pa.map_(pa.string(), value) if value else None
    return _class_type(annotation) if isinstance(annotation, type) else None


def _class_type(annotation: type) -> pa.DataType | None:
    if issubclass(annotation, BaseModel):
        return pa.struct(list(arrow_schema(annotation)))
    if issubclass(annotation, Enum):
        return pa.string()
    return _SCALARS.get(annotation)
