"""Rows out of a stream: one event is one row of its entity, and the newest of them counts.

By event time, then by when Kafka received it: as the batch executor orders the same rows of the lake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from features.batch import row_events
from features.lake import Lake
from features.rings import EntityKey, entity_key
from features.row_batch import newest_rows
from features.row_events import events_of
from features.row_values import pack
from features.row_views import ColumnType, RowView
from features.rows import Row, Rows

KEPT = ("event_time_ms", "ingest_ms")


def rows_of(view: RowView, events: Iterable[Mapping[str, Any]]) -> list[tuple[EntityKey, Row]]:
    """The rows that events make, with their entities; an event without an entity, or turned away by the SQL, makes none.

    Args:
        view: With a topic.
        events: The contract's fields and `ingest_ms`.
    """
    return [
        (entity_key(key), _row(view, event))
        for event in events_of(view, events)
        if None not in (key := [event.get(name) for name in view.join_keys])
    ]


def newest_of(view: RowView, table: pa.Table) -> list[tuple[EntityKey, Row]]:
    """The newest row of every entity in a view's lake table, or in a piece of it."""
    events = row_events(view, {view.table: table})
    found = newest_rows(events, view.join_keys, (*view.join_keys, *view.fields, *KEPT)).to_pylist()
    return [
        (entity_key(key), _row(view, row))
        for row in found
        if None not in (key := [row[name] for name in view.join_keys])
    ]


def rebuild(view: RowView, lake: Lake, rows: Rows) -> int:
    """Offer the newest row of every entity in the lake; how many were not older than what was held."""
    found = newest_of(view, lake.scan(view.table))
    if found:
        rows.advance_clock({view.stored: max(row.event_ms for _, row in found)})
    return rows.offer(view.stored, found)


def _row(view: RowView, event: Mapping[str, Any]) -> Row:
    fields = {name: pack(_typed(event.get(name), view.kinds[name])) for name in view.fields}
    return Row(event["event_time_ms"], event["ingest_ms"], fields)


def _typed(value: Any, kind: ColumnType) -> float | int | str | None:  # noqa: ANN401 - a column's
    """JSON does not tell 5 from 5.0; the column does."""
    if value is None:
        return None
    if kind == "double":
        return float(value)
    return int(value) if kind == "bigint" else str(value)
