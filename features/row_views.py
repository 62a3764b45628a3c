"""A view of rows: the newest row of an entity is its features, no window over many. What executors need, without Feast."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

EVENT_TIME = "event_time"


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
    """

    name: str
    table: str
    join_keys: tuple[str, ...]
    fields: tuple[str, ...]
    ttl_s: int = 0
    time_column: str = EVENT_TIME
    created_column: str = ""
    columns: dict[str, str] = {}

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
        encoded = msgspec.json.encode(parts)
        return hashlib.blake2b(encoded, digest_size=8).hexdigest()
