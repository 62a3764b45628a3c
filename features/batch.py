"""The batch executor: features as of an instant from the lake, in DuckDB.

The same tiles and the same merge as the stream's: tiles behind the head are aggregated once and joined by (key, tile), the
head is cut event by event. One view after another, because DuckDB's memory for several windowed joins in one
query grows with their product (duckdb#17001).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from features.asked import AS_OF, CUTOFF, ROW, asked
from features.distinct_batch import distinct_counts
from features.on_demand_function import Column, Function, evaluate
from features.row_batch import row_features
from features.row_events import PLATFORM_COLUMNS, projected, quoted, table_of
from features.row_table import view_rows
from features.row_views import RowView
from features.tiles import VARIANCE_FLOOR, Floats
from features.views import Aggregate, Layout, Partial, PartialKind, Plan, View
from schemas.errors import HeadraceError

Mode = Literal["event", "known"]
Progress = Callable[[str, int, int], None]
# How the head tile is cut: at the instant (the meaning), or not at all (what a ring holds).
Head = Literal["exact", "whole"]
# Rows × tiles of a window stand in memory at once: 200,000 × 48 tiles of six partials are about half a gigabyte.
ROWS_MAX = 200_000

_TILE: Mapping[PartialKind, str] = {
    "count": "count({c})",
    "sum": "coalesce(sum({c}), 0)",
    "sumsq": "coalesce(sum({c} * {c}), 0)",
    "min": "min({c})",
    "max": "max({c})",
    "first": "arg_min({c}, (ts, id))",
    "last": "arg_max({c}, (ts, id))",
}


class EntitiesIncomplete(HeadraceError):
    """The rows to compute features for lack a join key or an instant."""


class Scans(Protocol):
    """Whatever gives a table's rows; `features.lake.Lake` is one."""

    def scan(
        self,
        table: str,
        *,
        snapshot_id: int | None = None,
        since_ms: int | None = None,
        until_ms: int | None = None,
        columns: tuple[str, ...] = ("*",),
    ) -> pa.Table:
        """Rows with `since_ms ≤ event_time_ms < until_ms`."""


Source = Scans | Mapping[str, pa.Table]


def features_as_of(
    plan: Plan,
    service: str,
    source: Source,
    entities: pa.Table,
    *,
    mode: Mode = "event",
    snapshots: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> pa.Table:
    """The entities with the service's features added, one float64 column a feature by its full name, null as null.

    Args:
        plan: The applied plan.
        service: The service's name.
        source: The lake, or its tables (name → rows with contract columns and `ingest_ms`).
        entities: The service's join keys, the request's columns that on-demand views read, and `event_time_ms`; in mode
            "known" also `known_at_ms`. Other columns pass.
        mode: "event": all events up to `event_time_ms`. "known": of those, what was ingested by `known_at_ms`.
        snapshots: Table → the snapshot to read, to compute the same again later.
        progress: Told after each piece of work: the view, its rows done, and of how many.

    Raises:
        EntitiesIncomplete: a needed column is missing.
    """
    needed = [*plan.entity_columns(service), *plan.request_columns(service), "event_time_ms"]
    needed += ["known_at_ms"] if mode == "known" else []
    missing = [name for name in needed if name not in entities.column_names]
    if missing:
        raise EntitiesIncomplete(
            f"entities for service {service}", wanted=f"columns {needed}", came=f"no {missing}"
        )
    chosen = plan.service(service).features
    columns: dict[str, pa.ChunkedArray] = {}
    for view in plan.service_views(service):
        names = [feature for owner, feature in chosen if owner == view.name]
        events = view_events(view, source, entities["event_time_ms"], snapshots)
        rows = asked_rows(view, entities, entities["known_at_ms"] if mode == "known" else None)
        values = compute(view, names, events, rows, progress=progress)
        columns |= {f"{view.name}__{name}": values[name] for name in names}
    columns |= _rows_of(plan, service, source, entities, mode, snapshots)
    columns |= _made_of(plan, service, columns, entities)
    for name in plan.service(service).names:
        entities = entities.append_column(name, columns[name])
    return entities


def _rows_of(
    plan: Plan,
    service: str,
    source: Source,
    entities: pa.Table,
    mode: Mode,
    snapshots: Mapping[str, int] | None,
) -> dict[str, pa.ChunkedArray]:
    """The features of the service's views of rows, by their full names."""
    columns: dict[str, pa.ChunkedArray] = {}
    views = plan.service_row_views(service)
    if not views:
        return columns
    known = mode == "known"
    with duckdb.connect(":memory:") as connection:
        for view in views:
            names = [f for owner, f in plan.service(service).features if owner == view.name]
            rows = asked(view.join_keys, entities, entities["known_at_ms"] if known else None)
            events = row_events(view, source, snapshots)
            values = row_features(view, names, events, rows, connection, known=known)
            columns |= {f"{view.name}__{name}": values[name] for name in names}
    return columns


def _made_of(
    plan: Plan, service: str, columns: Mapping[str, pa.ChunkedArray], entities: pa.Table
) -> dict[str, pa.ChunkedArray]:
    """The features of the service's on-demand views, by their full names, from those of the others and the request's."""
    views = plan.service_on_demand(service)
    inputs = {one.full for view in views for one in view.inputs}
    read = {name: entities[name] for name in plan.request_columns(service)}
    read |= {name: column for name, column in columns.items() if name in inputs}
    given = {name: _values_of(column) for name, column in read.items()}
    made = evaluate([Function(view) for view in views], given, len(entities))
    return {
        n: pa.chunked_array([pa.array(c, pa.float64(), from_pandas=True)]) for n, c in made.items()
    }


def _values_of(column: pa.ChunkedArray) -> Column:
    """Numbers as float64 with NaN for null, all else as Python has it."""
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        values: Floats = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return values
    listed: list[object] = column.to_pylist()
    return listed


def row_events(
    view: RowView, source: Source, snapshots: Mapping[str, int] | None = None
) -> pa.Table:
    """The rows of the lake table behind a view of rows, after the view's row-level SQL."""
    if isinstance(source, Mapping):
        table = source[view.table]
    else:
        table = source.scan(view.table, snapshot_id=(snapshots or {}).get(view.table))
    if view.row_sql is not None:
        table = projected(view.row_sql, view.kinds, table)
    return view_rows(view, table)


def asked_rows(
    view: View, entities: pa.Table, cutoff_ms: pa.ChunkedArray | None = None
) -> pa.Table:
    """Entities as `compute` wants them: row number, join keys, instant, and the last ingest time that counts."""
    return asked([key.name for key in view.join_keys], entities, cutoff_ms)


def view_events(
    view: View,
    source: Source,
    as_of_ms: pa.ChunkedArray,
    snapshots: Mapping[str, int] | None = None,
    *,
    open_end: bool = False,
) -> pa.Table:
    """The events that any of the instants' windows can hold, after the view's row-level SQL.

    With `open_end` also all later ones: they may have pushed tiles out of a ring.
    """
    if isinstance(source, Mapping):
        return table_of(view, source[view.table])
    reach_ms = max((a.window_s + a.hop_s) * 1000 for a in view.aggregates)
    bounds = pc.min_max(as_of_ms).as_py() if len(as_of_ms) else {"min": 0, "max": 0}
    events = source.scan(
        view.table,
        snapshot_id=(snapshots or {}).get(view.table),
        since_ms=bounds["min"] - reach_ms,
        until_ms=None if open_end else bounds["max"] + reach_ms,
        columns=tuple(dict.fromkeys([*view.source_columns, *PLATFORM_COLUMNS])),
    )
    return table_of(view, events)


def compute(
    view: View,
    names: Sequence[str],
    events: pa.Table,
    rows: pa.Table,
    head: Head = "exact",
    progress: Progress | None = None,
) -> pa.Table:
    """Features of one view for `asked_rows`, in their order: one float64 column a name."""
    wanted = [view.aggregate(name) for name in names]
    columns: dict[str, pa.ChunkedArray] = {}
    with duckdb.connect(":memory:") as connection:
        connection.register("events_in", events)
        for layout in view.layouts:
            mine = [a for a in wanted if a.hop_s == layout.hop_s]
            sets = [a for a in mine if a.function == "count_distinct"]
            exact = head == "exact"
            columns |= distinct_counts(connection, view, layout, sets, rows, exact_head=exact)
            mine = [a for a in mine if a not in sets]
            if mine:
                connection.execute(tile_tables(view, layout))
                query = _query(view, layout, mine, head)
                values = _in_pieces(connection, query, rows, _told(view, progress))
                columns |= {a.name: values[a.name] for a in mine}
    return pa.table({name: columns[name] for name in names})


def _in_pieces(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    rows: pa.Table,
    told: Callable[[int, int], None],
) -> pa.Table:
    """The query over a bounded number of rows at a time: each row is spread over all tiles of its window."""
    pieces = []
    for start in range(0, max(len(rows), 1), ROWS_MAX):
        connection.register("asked", rows.slice(start, ROWS_MAX))
        pieces.append(connection.sql(query).to_arrow_table())
        connection.unregister("asked")
        told(min(start + ROWS_MAX, len(rows)), len(rows))
    return pa.concat_tables(pieces)


def _told(view: View, progress: Progress | None) -> Callable[[int, int], None]:
    return lambda done, of: progress(view.name, done, of) if progress else None


def tile_tables(view: View, layout: Layout) -> str:
    """SQL that makes the hop's events `e` and tiles `tiles` of `events_in`. NaN is null, as everywhere.

    Join keys are `k0`, `k1`, … there, in the view's order.
    """
    columns = ", ".join(
        f"CASE WHEN isnan({quoted(c)}::DOUBLE) THEN NULL ELSE {quoted(c)}::DOUBLE END AS {_col(c)}"
        if view.columns[c] != "string"
        else f"{quoted(c)} AS {_col(c)}"
        for c in dict.fromkeys(p.column for p in _numbers(layout))
    )
    return f"""
        CREATE OR REPLACE TEMP TABLE e AS
        SELECT {_keys(view)}, event_time_ms AS ts, {quoted(view.event_id_field)} AS id,
               event_time_ms // {layout.hop_ms} AS tile, ingest_ms AS seen, {columns}
        FROM events_in;
        CREATE OR REPLACE TEMP TABLE tiles AS
        SELECT {_aliases(view)}, tile, max(seen) AS seen, {_partials(layout)}
        FROM e GROUP BY {_aliases(view)}, tile;
    """  # noqa: S608 - names come from a compiled plan and are quoted


def _query(view: View, layout: Layout, wanted: Sequence[Aggregate], head: Head) -> str:
    """Pieces of windows – whole tiles, and cut ones event by event – merged by row.

    A tile is whole for a row when it lies behind the head and everything in it had been ingested by the cutoff.
    """
    longest = max(a.tiles for a in wanted)
    same = " AND ".join(f"r.k{i} = o.k{i}" for i in range(len(view.join_keys)))
    fields = ", ".join(quoted(p.field) for p in _numbers(layout))
    cut = "r.tile = r.head OR " if head == "exact" else ""
    until = "AND o.ts <= r.as_of" if head == "exact" else ""
    features = ",\n".join(f"{_merged(a)} AS {quoted(a.name)}" for a in wanted)
    return f"""
        WITH asked_keys AS (
            SELECT {ROW} AS row, {_keys(view)}, {AS_OF} AS as_of, {CUTOFF} AS cutoff,
                   {AS_OF} // {layout.hop_ms} AS head
            FROM asked
        ), spread AS (
            SELECT *, unnest(range(head - {longest - 1}, head + 1)) AS tile FROM asked_keys
        ), matched AS (
            SELECT r.*, {fields}, ({cut} o.seen > r.cutoff) AS is_cut
            FROM spread r JOIN tiles o ON {same} AND r.tile = o.tile
        ), pieces AS (
            SELECT row, head, tile, {fields} FROM matched WHERE NOT is_cut
            UNION ALL
            SELECT r.row, any_value(r.head), r.tile, {_partials(layout, "o.")}
            FROM (SELECT row, head, tile, as_of, cutoff, {_aliases(view)} FROM matched WHERE is_cut) r
            JOIN e o ON {same} AND r.tile = o.tile AND o.seen <= r.cutoff {until}
            GROUP BY r.row, r.tile
        )
        SELECT {features}
        FROM asked_keys a LEFT JOIN pieces p ON a.row = p.row
        GROUP BY a.row ORDER BY a.row
    """  # noqa: S608


def _merged(aggregate: Aggregate) -> str:
    """The window's value from the pieces in it."""
    within = f"FILTER (WHERE p.tile > p.head - {aggregate.tiles})"

    def part(kind: PartialKind, merge: str = "sum({c})") -> str:
        field = "p." + quoted(Partial(kind, aggregate.column).field)
        return f"{merge.format(c=field)} {within}"

    count, total = part("count"), part("sum")
    squares = part("sumsq")
    spread = f"({squares} - {total} * {total} / {count})"
    variance = (
        f"CASE WHEN {count} >= 2 THEN CASE WHEN {spread} <= {VARIANCE_FLOOR} * {squares} THEN 0.0 "
        f"ELSE {spread} / ({count} - 1) END END"
    )
    value = {
        "count": f"coalesce({count}, 0)",
        "sum": f"coalesce({total}, 0)",
        "mean": f"{total} / nullif({count}, 0)",
        "var": variance,
        "std": f"sqrt({variance})",
        "min": part("min", "min({c})"),
        "max": part("max", "max({c})"),
        "first": part("first", "arg_min({c}, p.tile)"),
        "last": part("last", "arg_max({c}, p.tile)"),
    }[aggregate.function]
    return f"({value})::DOUBLE"


def _partials(layout: Layout, of: str = "") -> str:
    parts = (
        _TILE[p.kind].format(c=of + _col(p.column)).replace("(ts, id)", f"({of}ts, {of}id)")
        + f" AS {quoted(p.field)}"
        for p in _numbers(layout)
    )
    return ", ".join(parts)


def _numbers(layout: Layout) -> list[Partial]:
    """Those that merge as numbers; sets of distinct values have a way of their own (`features.distinct_batch`)."""
    return [p for p in layout.partials if p.kind != "distinct"]


def _keys(view: View) -> str:
    return ", ".join(f"{quoted(k.name)} AS k{i}" for i, k in enumerate(view.join_keys))


def _aliases(view: View) -> str:
    return ", ".join(f"k{i}" for i in range(len(view.join_keys)))


def _col(column: str) -> str:
    return quoted(f"c_{column}")
