"""A lake table as the rows of a view: under the view's own names, with when each was true and when it was known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from features.row_views import EVENT_TIME, RowView
from schemas.errors import HeadraceError

TIME_MS, SEEN_MS = "event_time_ms", "ingest_ms"
EPOCH = datetime.fromtimestamp(0, tz=UTC)
# Kafka's order within a partition; rows that never went through Kafka have none.
OFFSET = "kafka_offset"


class RowsUnreadable(HeadraceError):
    """A table cannot be read as the rows of a view."""


def view_rows(view: RowView, table: pa.Table) -> pa.Table:
    """The view's join keys and fields, `event_time_ms` and `ingest_ms`, and `kafka_offset` where there is one.

    Raises:
        RowsUnreadable: a column is missing, or is no time.
    """
    columns = {n: _column(view, table, view.columns.get(n, n)) for n in view.join_keys}
    columns |= {n: _column(view, table, view.columns.get(n, n)) for n in view.fields}
    times = {TIME_MS: event_ms(view, table), SEEN_MS: seen_ms(view, table)}
    if OFFSET in table.column_names:
        times[OFFSET] = table[OFFSET]
    return pa.table(columns | times)


def stamped(view: RowView, table: pa.Table) -> pa.Table:
    """The table as it is, with `event_time_ms` and `ingest_ms` as the view has them."""
    times = {TIME_MS: event_ms(view, table), SEEN_MS: seen_ms(view, table)}
    own = {name: table[name] for name in table.column_names}
    return pa.table(own | times)


def event_ms(view: RowView, table: pa.Table) -> pa.ChunkedArray:
    """When each row was true, in epoch milliseconds."""
    if view.time_column == EVENT_TIME and TIME_MS in table.column_names:
        return table[TIME_MS]
    return milliseconds(view, _column(view, table, view.time_column))


def seen_ms(view: RowView, table: pa.Table) -> pa.ChunkedArray:
    """When each row was made, else when it was ingested, else when it was true, in epoch milliseconds."""
    if view.created_column:
        return milliseconds(view, _column(view, table, view.created_column))
    return table[SEEN_MS] if SEEN_MS in table.column_names else event_ms(view, table)


def milliseconds(view: RowView, times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Timestamps or dates as epoch milliseconds; those without a zone are UTC, as Feast has it.

    Raises:
        RowsUnreadable: they are something else.
    """
    if not pa.types.is_temporal(times.type):
        raise RowsUnreadable(
            f"view {view.name}", wanted="timestamps", came=f"a column of {times.type}"
        )
    kind = pa.timestamp("ms", getattr(times.type, "tz", None))
    return pc.cast(times, kind, safe=False).cast(pa.int64())


def between(
    table: pa.Table, times_ms: pa.ChunkedArray, start: datetime | None, end: datetime | None
) -> pa.Table:
    """The rows whose time lies between two instants, both included."""
    chosen = pa.array([True]).take(pa.array([0] * len(table), pa.int64()))
    if start is not None:
        chosen = pc.and_(chosen, pc.greater_equal(times_ms, epoch_ms(start)))
    if end is not None:
        chosen = pc.and_(chosen, pc.less_equal(times_ms, epoch_ms(end)))
    return table.filter(chosen)


def epoch_ms(instant: datetime) -> int:
    """An instant in epoch milliseconds; without a zone it is UTC, as Feast has it."""
    known = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    # In integers: seconds as a float are a millisecond short now and then.
    return (known - EPOCH) // timedelta(milliseconds=1)


def _column(view: RowView, table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise RowsUnreadable(
            f"view {view.name}",
            wanted=f"a column {name!r} of lake table {view.table}",
            came=f"it has {table.column_names}",
            mend="Add the column, or say in the source's field_mapping what it is called.",
        )
    return table[name]
