"""The tiles of a lake table's events, as the view's stream job would have written them (`features.tile_row`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import duckdb
import pyarrow as pa

from features import distinct
from features.row_events import PLATFORM_COLUMNS, quoted, table_of
from features.tile_row import SEPARATOR
from features.views import Layout, Partial, PartialKind, View

CHUNK_ROWS = 10_000

_PARTIAL: Mapping[PartialKind, str] = {
    "count": "count({c})",
    "sum": "coalesce(sum({c}), 0)",
    "sumsq": "coalesce(sum({c} * {c}), 0)",
    "min": "min({c})",
    "max": "max({c})",
    "first": "min({stamp} || {c}::VARCHAR)",
    "last": "max({stamp} || {c}::VARCHAR)",
    "distinct": "list(DISTINCT {hash}) FILTER ({hash} IS NOT NULL)",
}


def source_columns(view: View) -> tuple[str, ...]:
    """What to scan of the view's table."""
    return tuple(dict.fromkeys([*view.source_columns, *PLATFORM_COLUMNS]))


def lake_tiles(
    view: View, events: pa.Table, since_ms: Mapping[int, int]
) -> Iterator[dict[str, Any]]:
    """The fields of one tile row each: the view's join keys, `tile`, `n`, partials, `clock_ms` and where it came from.

    Args:
        view: The view; its row-level SQL is applied here.
        events: Rows of its table, with `source_columns`.
        since_ms: Hop (s) → the first instant whose tiles are wanted; a tile that began before is left out.
    """
    with duckdb.connect(":memory:") as connection:
        connection.register("events_in", table_of(view, events))
        for layout in view.layouts:
            # Entity by entity, so that whoever keeps rings meets each once a hop.
            query = _query(view, layout, since_ms[layout.hop_s])
            for batch in connection.sql(query).to_arrow_reader(CHUNK_ROWS):
                yield from (_with_texts(layout, row) for row in batch.to_pylist())


def _query(view: View, layout: Layout, since_ms: int) -> str:
    keys = [quoted(key.name) for key in view.join_keys]
    partials = [f"{_partial(view, p)} AS {quoted(p.field)}" for p in layout.partials]
    columns = ",\n".join(
        [
            *keys,
            f"'{layout.hop_s}/' || event_time_ms // {layout.hop_ms} AS tile",
            "count(*) AS n",
            *partials,
            "max(event_time_ms) AS clock_ms",
            "coalesce(max(kafka_offset), -1) AS source_offset",
            "coalesce(max(kafka_partition), -1) AS source_partition",
        ]
    )
    present = " AND ".join(f"{key} IS NOT NULL" for key in keys)
    first = -(-since_ms // layout.hop_ms) * layout.hop_ms
    return f"""
        SELECT {columns} FROM events_in
        WHERE {present} AND event_time_ms >= {first}
        GROUP BY {", ".join(keys)}, tile ORDER BY {", ".join(keys)}
    """  # noqa: S608 - names come from a compiled plan and are quoted


def _partial(view: View, partial: Partial) -> str:
    column = quoted(partial.column)
    hashed = distinct_hash(view, partial.column)
    if view.columns[partial.column] != "string":
        # NaN is null, as everywhere.
        column = f"nullif({column}::DOUBLE, 'NaN'::DOUBLE)"
    identity = quoted(view.event_id_field)
    separator = f"chr({ord(SEPARATOR)})"
    stamp = f"lpad(event_time_ms::VARCHAR, 15, '0') || {separator} || {identity} || {separator}"
    return _PARTIAL[partial.kind].format(c=column, stamp=stamp, hash=hashed)


def distinct_hash(view: View, column: str) -> str:
    """DuckDB's expression of `features.distinct.hash_of`; null where the column is."""
    number = f"TRY_CAST({quoted(column)} AS BIGINT)::VARCHAR"
    text = quoted(column) if view.columns[column] == "string" else number
    return f"('0x' || left(md5({text}), 16))::UBIGINT"


def _with_texts(layout: Layout, row: dict[str, Any]) -> dict[str, Any]:
    for partial in layout.distinct:
        row[partial.field] = distinct.text_of(distinct.block_of(row[partial.field] or ()))
    return row
