"""A view of rows: the newest row of an entity is its features, no window over many. What executors need, without Feast."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec


class RowView(msgspec.Struct, frozen=True):
    """The columns of a lake table, or of what is pushed, as they stood in an entity's newest row.

    Attributes:
        table: The lake table behind it, with `event_time` and `ingest_ms`.
        join_keys: The columns that name an entity; none for features of everything.
        fields: The columns that are features, in order.
        ttl_s: How old a row may be to count; 0 for any age.
        others: Those fields that are no numbers, and so cannot stand in a vector.
    """

    name: str
    table: str
    join_keys: tuple[str, ...]
    fields: tuple[str, ...]
    ttl_s: int = 0
    others: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all that changes the meaning of a value; not over its name."""
        parts: list[Any] = [self.table, self.join_keys, sorted(self.fields), self.ttl_s]
        encoded = msgspec.json.encode(parts)
        return hashlib.blake2b(encoded, digest_size=8).hexdigest()
