"""Tables in memory, asked as a lake is."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa


class HeldTables:
    """A lake of tables with an `event_time_ms` each."""

    def __init__(self, held: Mapping[str, pa.Table]) -> None:
        self.held = held

    def scan(
        self,
        table: str,
        *,
        snapshot_id: int | None = None,  # noqa: ARG002 - the interface of a lake
        since_ms: int | None = None,
        until_ms: int | None = None,
        columns: tuple[str, ...] = ("*",),
    ) -> pa.Table:
        rows = self.held[table]
        inside = [
            (since_ms or 0) <= t < (until_ms or 10**9) for t in rows["event_time_ms"].to_pylist()
        ]
        return rows.filter(pa.array(inside, pa.bool_())).select(list(columns))
