"""The tiles of one hop as a query: a view's events aggregated by entity and tile. Pure text.

A view that was handed over from the lake begins with tiles of a snapshot: they are partials like those of a single event,
and both go into the one aggregation. A UNION ALL of what is not yet aggregated keeps the upsert key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeGuard

from features import row_sql
from features.views import Handover, Layout, Partial, PartialKind, View
from pipelines import distinct_function
from pipelines.sql_names import quoted

SOURCE = "source"
BASE = "base"
# What is aggregated, whatever it is made of: the name by which the hint finds it.
EVENTS = "events"
PLACE = ("`source_offset`", "`source_partition`")
# Sorts below every character of an event id, so that a shorter id comes before a longer one that it begins.
SEPARATOR = r"U&'\0001'"
# 15 digits hold every millisecond until the year 33658, and make text order the order of time.
TIME_DIGITS = 15


def has_base(handover: Handover | None) -> TypeGuard[Handover]:
    """Whether a job begins with tiles of a snapshot."""
    return handover is not None and bool(handover.base_topic)


def reads_place(view: View, handover: Handover | None) -> bool:
    """Whether a job looks at where an event stood: to tell it in the tiles, or to leave out what a snapshot has counted."""
    return view.origin_offsets or (handover is not None and view.copied)


def tile_query(view: View, layout: Layout, life_s: int, handover: Handover | None) -> str:
    """SELECT of a hop's tile rows, an upsert by join keys and `tile`.

    Args:
        view: The view; `SOURCE` is its stream.
        layout: The hop.
        life_s: How long a tile is kept after its last event, in processing time. By a hint: the job's one setting would
            keep the tiles of every hop for as long as the longest window of all.
        handover: Where its job begins; `BASE` then are the snapshot's tiles, if there were any.
    """
    if not has_base(handover):
        return _aggregated(view, layout, life_s, handover)
    keys = [quoted(key.name) for key in view.join_keys]
    columns = [
        *keys,
        "`tile`",
        "SUM(`n`) AS `n`",
        *(f"{_merged(p)} AS {quoted(p.field)}" for p in layout.partials),
        *_newest(view, "clock_ms"),
    ]
    rows = f"{_one_by_one(view, layout, handover)}\nUNION ALL\n{_base(view, layout)}"
    selected = _select(columns, f"({rows}) AS {quoted(EVENTS)}", hint=_kept_for(life_s))
    return f"{selected}\nGROUP BY {', '.join([*keys, '`tile`'])}"


def _aggregated(view: View, layout: Layout, life_s: int, handover: Handover | None) -> str:
    """The tiles of the stream alone."""
    keys = [quoted(key.name) for key in view.join_keys]
    tile = _tile(layout)
    columns = [
        *keys,
        f"{tile} AS `tile`",
        "COUNT(*) AS `n`",
        *(f"{_partial(view, p)} AS {quoted(p.field)}" for p in layout.partials),
        *_newest(view, "event_time_ms"),
    ]
    rows = f"{_rows(view, handover)} AS {quoted(EVENTS)}"
    selected = _select(columns, rows, _after(view, handover), hint=_kept_for(life_s))
    return f"{selected}\nGROUP BY {', '.join([*keys, tile])}"


def _kept_for(life_s: int) -> str:
    return f" /*+ STATE_TTL('{EVENTS}' = '{life_s} s') */"


def _one_by_one(view: View, layout: Layout, handover: Handover | None) -> str:
    """Each event as the tile that it would be alone."""
    columns = [
        *(quoted(key.name) for key in view.join_keys),
        f"{_tile(layout)} AS `tile`",
        "CAST(1 AS BIGINT) AS `n`",
        *(f"{_alone(view, p)} AS {quoted(p.field)}" for p in layout.partials),
        "`event_time_ms` AS `clock_ms`",
        *_place(view),
    ]
    return _select(columns, _rows(view, handover), _after(view, handover))


def _base(view: View, layout: Layout) -> str:
    """The snapshot's tiles of a hop."""
    columns = [*(quoted(key.name) for key in view.join_keys), "`tile`", "`n`"]
    columns += [*(quoted(p.field) for p in layout.partials), "`clock_ms`", *_place(view)]
    return _select(columns, quoted(BASE), f"`tile` LIKE '{layout.hop_s}/%'")


def _select(columns: Iterable[str], rows: str, where: str = "", hint: str = "") -> str:
    listed = ",\n".join(f"  {column}" for column in columns)
    # Names are checked identifiers, expressions come from here or from a checked tree.
    return f"SELECT{hint}\n{listed}\nFROM {rows}" + (f"\nWHERE {where}" if where else "")


def _tile(layout: Layout) -> str:
    return f"CONCAT('{layout.hop_s}/', CAST(`event_time_ms` / {layout.hop_ms} AS STRING))"


def _newest(view: View, clock: str) -> list[str]:
    return [f"MAX(`{clock}`) AS `clock_ms`", *(f"MAX({name}) AS {name}" for name in _place(view))]


def _place(view: View) -> tuple[str, ...]:
    """The columns that say up to which event a tile goes: only own requests are ever folded into rings."""
    return PLACE if view.origin_offsets else ()


def _after(view: View, handover: Handover | None) -> str:
    """Which events count: whose entity and time are known, and that no snapshot has counted."""
    keys = [quoted(key.name) for key in view.join_keys]
    present = " AND ".join(f"{name} IS NOT NULL" for name in [*keys, "`event_time_ms`"])
    if handover is None or not view.copied or not handover.offsets:
        return present
    firsts = " ".join(f"WHEN {p} THEN {o}" for p, o in enumerate(handover.offsets))
    return f"{present} AND `source_offset` >= CASE `source_partition` {firsts} ELSE 0 END"


def _rows(view: View, handover: Handover | None) -> str:
    """What is aggregated: the stream, or what the view's row-level SQL makes of each of its events."""
    rows = view.row_sql
    if rows is None:
        return quoted(SOURCE)
    made = dict(rows.select)
    kept = [*(key.name for key in view.join_keys), "event_time_ms", view.event_id_field]
    kept += ["source_offset", "source_partition"] if reads_place(view, handover) else []
    columns = [quoted(name) for name in dict.fromkeys(kept) if name not in made]
    columns += [f"{row_sql.flink(sql)} AS {quoted(name)}" for name, sql in made.items()]
    where = f" WHERE {row_sql.flink(rows.where)}" if rows.where else ""
    # Quoted names and expressions written from a checked tree.
    return f"(SELECT {', '.join(columns)} FROM {quoted(SOURCE)}{where})"  # noqa: S608


def _partial(view: View, partial: Partial) -> str:
    column = quoted(partial.column)
    number = f"CAST({column} AS DOUBLE)"
    stamped = _stamped(view, column)
    expressions: Mapping[PartialKind, str] = {
        "count": f"COUNT({column})",
        "sum": f"COALESCE(SUM({number}), 0)",
        "sumsq": f"COALESCE(SUM({number} * {number}), 0)",
        "min": f"MIN({number})",
        "max": f"MAX({number})",
        "first": f"MIN({stamped})",
        "last": f"MAX({stamped})",
        "distinct": f"{distinct_function.NAME}({_hashed(column)})",
    }
    return expressions[partial.kind]


def _alone(view: View, partial: Partial) -> str:
    """The partial of a single event; null where it adds nothing."""
    column = quoted(partial.column)
    number = f"CAST({column} AS DOUBLE)"
    match partial.kind:
        case "count":
            return f"CASE WHEN {column} IS NULL THEN CAST(0 AS BIGINT) ELSE CAST(1 AS BIGINT) END"
        case "sumsq":
            return f"{number} * {number}"
        case "first" | "last":
            return _stamped(view, column)
        case "distinct":
            return _hashed(column)
        case "sum" | "min" | "max":
            return number


def _merged(partial: Partial) -> str:
    """Partials of the same tile as one."""
    field = quoted(partial.field)
    match partial.kind:
        case "count":
            return f"SUM({field})"
        case "sum" | "sumsq":
            return f"COALESCE(SUM({field}), 0)"
        case "min" | "first":
            return f"MIN({field})"
        case "max" | "last":
            return f"MAX({field})"
        case "distinct":
            return f"{distinct_function.NAME}({field})"


def _hashed(column: str) -> str:
    """One value as the text of a set that holds just it (`features.distinct`); null where the column is."""
    return f"CONCAT('s', SUBSTRING(MD5(CAST({column} AS STRING)), 1, 16))"


def _stamped(view: View, column: str) -> str:
    """Time, event id, value: MIN is the first and MAX the last, in whatever order they came. Null where the column is."""
    time = f"LPAD(CAST(`event_time_ms` AS STRING), {TIME_DIGITS}, '0')"
    identity, value = quoted(view.event_id_field), f"CAST({column} AS STRING)"
    return f"CONCAT({time}, {SEPARATOR}, {identity}, {SEPARATOR}, {value})"
