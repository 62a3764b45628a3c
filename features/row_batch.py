"""Rows as of an instant from the lake, in DuckDB: the newest one that was there, not older than the view's ttl."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from features.asked import AS_OF, CUTOFF, ROW
from features.row_events import quoted
from features.row_views import RowView


def row_features(
    view: RowView, names: Sequence[str], events: pa.Table, asked: pa.Table, *, known: bool
) -> pa.Table:
    """Features of one view of rows for `asked`, in its order: one column a name, of the lake's type.

    Of rows with one event time the one ingested last counts; of those, the last in Kafka. An event time alone is an ASOF
    join; with a cutoff (`known`) every candidate must be looked at, which costs rows × rows of an entity.

    Args:
        view: The view.
        names: The wanted fields.
        events: The lake table's rows (`features.row_table`).
        asked: Row numbers, instants, cutoffs and the view's join keys (`features.asked`).
        known: Whether what was ingested after the cutoff is left out.
    """
    same = " AND ".join(f"a.{quoted(k)} = e.{quoted(k)}" for k in view.join_keys)
    fresh = f"AND a.{AS_OF} - e.event_time_ms <= {view.ttl_s * 1000}" if view.ttl_s else ""
    fields = ", ".join(
        f"CASE WHEN e.event_time_ms IS NOT NULL {fresh} THEN e.{quoted(n)} END AS {quoted(n)}"
        for n in names
    )
    join = _known(same) if known else _asof(view, same)
    with duckdb.connect(":memory:") as connection:
        connection.register("events", _ranked(events))
        connection.register("asked", asked)
        # Names come from a compiled plan and are quoted.
        query = f"SELECT a.{ROW} AS row, {fields} FROM asked a {join} ORDER BY a.{ROW}"  # noqa: S608
        return connection.sql(query).to_arrow_table().select(list(names))


def newest_rows(events: pa.Table, join_keys: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """The newest row of each entity: by event time, then by when it was ingested. One row where there are no keys."""
    wanted = ", ".join(quoted(c) for c in dict.fromkeys(columns))
    keys = ", ".join(quoted(k) for k in join_keys)
    each = f"DISTINCT ON ({keys})" if keys else ""
    order = f"{keys + ', ' if keys else ''}event_time_ms DESC, place DESC"
    limit = "" if keys else "LIMIT 1"
    with duckdb.connect(":memory:") as connection:
        connection.register("events", _ranked(events))
        query = f"SELECT {each} {wanted} FROM events ORDER BY {order} {limit}"  # noqa: S608
        return connection.sql(query).to_arrow_table()


def _asof(view: RowView, same: str) -> str:
    keys = ", ".join(quoted(k) for k in view.join_keys)
    by = f"{keys}, event_time_ms" if keys else "event_time_ms"
    last = f"(SELECT DISTINCT ON ({by}) * FROM events ORDER BY {by}, place DESC)"  # noqa: S608
    return (
        f"ASOF LEFT JOIN {last} e ON {same + ' AND ' if same else ''}a.{AS_OF} >= e.event_time_ms"
    )


def _known(same: str) -> str:
    both = f"{same + ' AND ' if same else ''}e.event_time_ms <= a.{AS_OF} AND e.ingest_ms <= a.{CUTOFF}"
    newest = f"""
        SELECT a.{ROW} AS row, arg_max(e.place, (e.event_time_ms, e.place)) AS place
        FROM asked a JOIN events e ON {both} GROUP BY a.{ROW}
    """  # noqa: S608
    return f"LEFT JOIN ({newest}) n ON a.{ROW} = n.row LEFT JOIN events e ON e.place = n.place"


def _ranked(events: pa.Table) -> pa.Table:
    """Events with their place in order of ingestion: a unique number that ties are broken by."""
    order = [(name, "ascending") for name in ("ingest_ms", "kafka_offset")]
    held = [one for one in order if one[0] in events.column_names]
    ranked = events.sort_by(held)
    return ranked.append_column("place", pa.array(range(len(ranked)), pa.int64()))
