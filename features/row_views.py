"""A view of rows: the newest row of an entity is its features, no window over many. What executors need, without Feast."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

EVENT_TIME = "event_time"

ColumnType = Literal["double", "bigint", "string"]


class RowSql(msgspec.Struct, frozen=True):
    """Row-level SQL before aggregation, checked and in DuckDB's words (`features.row_sql`).

    Attributes:
        select: Name and expression of each projected column.
        where: The condition a row must meet; None for every row.
        reads: The stream's columns that any of it reads.
        columns: The projected columns.
    """

    select: tuple[tuple[str, str], ...]
    where: str | None
    reads: dict[str, ColumnType]
    columns: dict[str, ColumnType]


class RowView(msgspec.Struct, frozen=True):
    """The columns of a lake table, or of what is pushed, as they stood in an entity's newest row.

    Attributes:
        table: The lake table behind it, with `event_time` and `ingest_ms`.
        join_keys: The columns that name an entity; none for features of everything.
        fields: The columns that are features, in order.
        ttl_s: How old a row may be to count; 0 for any age.
        time_column: The table's column of event times.
        created_column: The table's column of when a row was made; by default when it was ingested, where the lake
            says that, and else its event time.
        columns: Join key or field → the table's column, where that is called otherwise.
        others: Those fields that are no numbers, and so cannot stand in a vector.
        topic: The topic that feeds it, whose events are the table's rows; empty where somebody else writes them.
        kinds: Of the fields, after `row_sql` where there is any; empty where one of them is neither number nor text.
        row_sql: What is done to each event first.
    """

    name: str
    table: str
    join_keys: tuple[str, ...]
    fields: tuple[str, ...]
    ttl_s: int = 0
    time_column: str = EVENT_TIME
    created_column: str = ""
    columns: dict[str, str] = {}
    others: tuple[str, ...] = ()
    topic: str = ""
    kinds: dict[str, ColumnType] = {}
    row_sql: RowSql | None = None

    @property
    def stored(self) -> str:
        """The name under which its rows lie: another definition of a topic's rows does not read those of before."""
        return f"{self.name}.{self.fingerprint[:8]}" if self.topic else self.name

    @property
    def source_columns(self) -> tuple[str, ...]:
        """The table's columns behind join keys and fields, in their order, each once."""
        names = (self.columns.get(name, name) for name in (*self.join_keys, *self.fields))
        return tuple(dict.fromkeys(names))

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all that changes the meaning of a value; not over its name."""
        parts: list[Any] = [self.table, self.join_keys, sorted(self.fields), self.ttl_s]
        if (self.time_column, self.created_column, self.columns) != (EVENT_TIME, "", {}):
            parts += [self.time_column, self.created_column, sorted(self.columns.items())]
        if self.topic:
            parts += [self.topic, sorted(self.kinds.items()), self.row_sql]
        encoded = msgspec.json.encode(parts)
        return hashlib.blake2b(encoded, digest_size=8).hexdigest()
