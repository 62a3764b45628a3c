"""`count_distinct` of the batch executor: the distinct hashes of each tile once, then of each row's window, in DuckDB.

DuckDB gives, for each row, how many hashes its window has and what the registers hold; the count is made of that by
`features.distinct`, as everywhere. A hash counts for a row if the first time it was seen in a tile lies before the row's
cutoff; in a head tile that is cut at the instant, the events themselves are asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa

from features.asked import AS_OF, CUTOFF, ROW
from features.distinct import EXACT_MAX, RANK_BITS, REGISTERS, estimate_of
from features.lake_tiles import distinct_hash
from features.views import Aggregate, Layout, View

_REST = (1 << RANK_BITS) - 1
# Rows × hashes of a window are sorted out at once: of 20,000 rows with 1,000 values each, twenty million.
ROWS_MAX = 20_000


def distinct_counts(
    connection: duckdb.DuckDBPyConnection,
    view: View,
    layout: Layout,
    wanted: Sequence[Aggregate],
    rows: pa.Table,
    *,
    exact_head: bool,
) -> dict[str, pa.ChunkedArray]:
    """The counts of one hop's `count_distinct` aggregates over `events_in`, by name, in the order of the rows."""
    found: dict[str, pa.ChunkedArray] = {}
    for aggregate in wanted:
        connection.execute(_hash_tables(view, layout, aggregate.column))
        query = _query(view, layout, aggregate, exact_head=exact_head)
        pieces = []
        for start in range(0, len(rows), ROWS_MAX):
            connection.register("asked", rows.slice(start, ROWS_MAX))
            pieces.append(_counts(connection.sql(query).to_arrow_table()))
            connection.unregister("asked")
        found[aggregate.name] = pa.chunked_array(pieces, pa.float64())
    return found


def _hash_tables(view: View, layout: Layout, column: str) -> str:
    """Events with a value as their hash, and each tile's hashes with when they were first seen and their place."""
    keys = [f'"{key.name}" AS k{i}' for i, key in enumerate(view.join_keys)]
    names = ", ".join(f"k{i}" for i in range(len(keys)))
    digits = f"length(ltrim(bin(h & {_REST}::UBIGINT), '0'))"
    return f"""
        CREATE OR REPLACE TEMP TABLE hashed AS
        SELECT * FROM (
            SELECT {", ".join(keys)}, event_time_ms AS ts, event_time_ms // {layout.hop_ms} AS tile,
                   ingest_ms AS seen, {distinct_hash(view, column)} AS h
            FROM events_in
        ) WHERE h IS NOT NULL;
        CREATE OR REPLACE TEMP TABLE hashes AS
        SELECT {names}, tile, h, min(seen) AS seen FROM hashed GROUP BY {names}, tile, h;
        CREATE OR REPLACE TEMP TABLE places AS
        SELECT h, (h >> {RANK_BITS})::USMALLINT AS register, ({RANK_BITS + 1} - {digits})::UTINYINT AS rank
        FROM (SELECT DISTINCT h FROM hashes);
    """  # noqa: S608 - names come from a compiled plan


def _query(view: View, layout: Layout, aggregate: Aggregate, *, exact_head: bool) -> str:
    """Row, how many hashes its window has, and the rank in each of its registers that holds any."""
    keys = [f'"{key.name}" AS k{i}' for i, key in enumerate(view.join_keys)]
    same = " AND ".join(f"r.k{i} = o.k{i}" for i in range(len(keys)))
    newest = "head" if exact_head else "head + 1"
    head = f"""
        UNION
        SELECT r.row, o.h FROM asked_keys r JOIN hashed o
        ON {same} AND r.head = o.tile AND o.ts <= r.as_of AND o.seen <= r.cutoff
    """  # noqa: S608
    return f"""
        WITH asked_keys AS (
            SELECT {ROW} AS row, {", ".join(keys)}, {AS_OF} AS as_of, {CUTOFF} AS cutoff,
                   {AS_OF} // {layout.hop_ms} AS head
            FROM asked
        ), spread AS (
            SELECT *, unnest(range(head - {aggregate.tiles - 1}, {newest})) AS tile FROM asked_keys
        ), held AS (
            SELECT r.row, o.h FROM spread r JOIN hashes o
            ON {same} AND r.tile = o.tile AND o.seen <= r.cutoff
            {head if exact_head else "UNION SELECT NULL, NULL WHERE false"}
        ), registers AS (
            SELECT row, register, max(rank) AS rank, count(*) AS n
            FROM held JOIN places USING (h) GROUP BY row, register
        ), windows AS (
            SELECT row, sum(n) AS n, CASE WHEN sum(n) > {EXACT_MAX} THEN list(rank) END AS ranks
            FROM registers GROUP BY row
        )
        SELECT coalesce(w.n, 0)::BIGINT AS n, w.ranks
        FROM asked_keys a LEFT JOIN windows w ON a.row = w.row ORDER BY a.row
    """  # noqa: S608


def _counts(windows: pa.Table) -> pa.Array:
    counts = windows["n"].to_numpy().astype(np.float64)
    ranks = windows["ranks"]
    for row in np.flatnonzero(counts > EXACT_MAX).tolist():
        held = np.bincount(ranks[row].values.to_numpy(), minlength=RANK_BITS + 2)
        held[0] = REGISTERS - held.sum()
        counts[row] = estimate_of(held.tolist())
    return pa.array(counts, pa.float64())
