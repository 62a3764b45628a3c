"""Rows as of an instant from the lake: the newest one that was there, not older than the view's ttl.

DuckDB joins and groups keys, instants and positions alone; the features themselves are taken from the lake's rows by
position at the end, so that a view of many columns costs the join no more than one of few.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.asked import AS_OF, CUTOFF, ROW
from features.row_events import quoted
from features.row_views import RowView

Positions = npt.NDArray[np.int64]
# From the oldest row to the newest: by event time, of one by when it was ingested, of those by Kafka's order.
_NEWNESS = ("event_time_ms", "ingest_ms", "kafka_offset")


def row_features(
    view: RowView,
    names: Sequence[str],
    events: pa.Table,
    asked: pa.Table,
    connection: duckdb.DuckDBPyConnection,
    *,
    known: bool,
) -> pa.Table:
    """Features of one view of rows for `asked`, in its order: one column a name, of the lake's type.

    Of rows with one event time the one ingested last counts; of those, the last in Kafka. An event time alone is an ASOF
    join; with a cutoff (`known`) every candidate must be looked at, which costs rows × rows of an entity.

    Args:
        view: The view.
        names: The wanted fields.
        events: The lake table's rows (`features.row_table`).
        asked: Row numbers from 0, instants, cutoffs and the view's join keys (`features.asked`).
        connection: An empty DuckDB in memory, left as it was; opening one costs as much as a join of 10,000 rows.
        known: Whether what was ingested after the cutoff is left out.
    """
    ranked = _ranked(events, view.join_keys)
    same = " AND ".join(f"a.{quoted(k)} = e.{quoted(k)}" for k in view.join_keys)
    connection.register("events", ranked.table)
    connection.register("asked", asked)
    found = connection.sql(_known(same) if known else _asof(view, same)).to_arrow_table()
    for name in ("events", "asked"):
        connection.unregister(name)
    rows = np.full(len(asked), -1, dtype=np.int64)
    rows[found["row"].to_numpy()] = ranked.positions[found["rank"].to_numpy()]
    chosen = pa.array(rows, mask=rows < 0)
    if view.ttl_s:
        age_ms = pc.subtract(asked[AS_OF], events["event_time_ms"].take(chosen))
        fresh = pc.less_equal(age_ms, view.ttl_s * 1000)
        chosen = pc.if_else(fresh, chosen, None)
    return events.select(list(names)).take(chosen)


def newest_rows(events: pa.Table, join_keys: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """The newest row of each entity: by event time, then by when it was ingested. One row where there are no keys."""
    ranked = _ranked(events, join_keys)
    keys = ", ".join(quoted(k) for k in join_keys)
    each = f"GROUP BY {keys} ORDER BY {keys}" if keys else "HAVING count(*) > 0"
    with duckdb.connect(":memory:") as connection:
        connection.register("events", ranked.table)
        found = connection.sql(f"SELECT max(rank) AS rank FROM events {each}").to_arrow_table()  # noqa: S608
    chosen = ranked.positions[found["rank"].to_numpy()]
    return events.select(list(dict.fromkeys(columns))).take(pa.array(chosen))


class _Ranked(NamedTuple):
    """Rows of a table by newness.

    Attributes:
        table: Of each row its join keys, `event_time_ms`, `ingest_ms` and `rank`, 0 for the oldest; no two have one rank.
        positions: `[rows]`, rank → position in the table.
    """

    table: pa.Table
    positions: Positions


def _ranked(events: pa.Table, join_keys: Sequence[str]) -> _Ranked:
    held = [name for name in _NEWNESS if name in events.column_names]
    order = pc.sort_indices(events.select(held), [(name, "ascending") for name in held])
    positions: Positions = order.to_numpy().astype(np.int64)
    ranks = np.empty_like(positions)
    ranks[positions] = np.arange(len(positions))
    narrow = events.select(list(dict.fromkeys([*join_keys, *held[:2]])))
    return _Ranked(narrow.append_column("rank", pa.array(ranks)), positions)


def _asof(view: RowView, same: str) -> str:
    by = ", ".join([*(quoted(k) for k in view.join_keys), "event_time_ms"])
    # Of one instant the newest row alone: ASOF takes any of several.
    last = f"(SELECT {by}, max(rank) AS rank FROM events GROUP BY {by})"  # noqa: S608
    on = f"{same + ' AND ' if same else ''}a.{AS_OF} >= e.event_time_ms"
    return f"SELECT a.{ROW} AS row, e.rank FROM asked a ASOF JOIN {last} e ON {on}"  # noqa: S608


def _known(same: str) -> str:
    both = f"{same + ' AND ' if same else ''}e.event_time_ms <= a.{AS_OF} AND e.ingest_ms <= a.{CUTOFF}"
    return f"""
        SELECT a.{ROW} AS row, max(e.rank) AS rank FROM asked a JOIN events e ON {both} GROUP BY a.{ROW}
    """  # noqa: S608
