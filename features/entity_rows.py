"""The rows a training set is asked for, in whatever form Feast's users give them, as one Arrow table."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import sqlglot
from sqlglot import exp

from features.lake import Lake
from schemas.errors import HeadraceError

EVENT_TIMESTAMP = "event_timestamp"
KNOWN_AT = "known_at"


class EntityRowsRefused(HeadraceError):
    """The rows to compute features for cannot be understood."""


class EntityRows(NamedTuple):
    """Rows as they came, and the instants in them.

    Attributes:
        table: Every column as given, in the order given; repeated rows stay.
        event_time_ms: `[rows]`, the instant of each.
        known_at_ms: `[rows]`, until when what was ingested counts; None where the rows have no `known_at`.
        time_column: The column that the instants are from.
    """

    table: pa.Table
    event_time_ms: pa.ChunkedArray
    known_at_ms: pa.ChunkedArray | None
    time_column: str


def entity_rows(given: object, lake: Lake) -> EntityRows:
    """Read entity rows.

    Args:
        given: A pandas data frame, an Arrow table, or the text of a SELECT over lake tables (DuckDB's SQL). One column
            of timestamps says as of when; those without a zone are UTC.
        lake: Where the tables that a SELECT names are.

    Raises:
        EntityRowsRefused: It is none of these, or has no instant.
    """
    if isinstance(given, str):
        table = _selected(given, lake)
    elif isinstance(given, pd.DataFrame):
        table = pa.Table.from_pandas(given, preserve_index=False)
    elif isinstance(given, pa.Table):
        table = given
    else:
        raise EntityRowsRefused(
            "entity_df",
            wanted="a pandas data frame, an Arrow table or a SELECT",
            came=f"it is {type(given).__name__}",
        )
    known = table[KNOWN_AT] if KNOWN_AT in table.column_names else None
    name = _time_column(table)
    known_ms = None if known is None else milliseconds(known)
    return EntityRows(table, milliseconds(table[name]), known_ms, name)


def milliseconds(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Timestamps as epoch milliseconds; those without a zone are UTC, as Feast has them.

    Raises:
        EntityRowsRefused: They are something else, or one is null.
    """
    if not pa.types.is_timestamp(times.type):
        raise EntityRowsRefused("entity_df", wanted="timestamps", came=f"a column of {times.type}")
    if times.null_count:
        raise EntityRowsRefused(
            "entity_df", wanted="an instant in every row", came=f"{times.null_count} are null"
        )
    kind = pa.timestamp("ms", times.type.tz)
    return pc.cast(times, kind, safe=False).cast(pa.int64())


def _time_column(table: pa.Table) -> str:
    """Feast's rule: `event_timestamp`, or the only column of timestamps."""
    times = [f.name for f in table.schema if pa.types.is_timestamp(f.type) and f.name != KNOWN_AT]
    if EVENT_TIMESTAMP in times or len(times) == 1:
        return EVENT_TIMESTAMP if EVENT_TIMESTAMP in times else str(times[0])
    raise EntityRowsRefused(
        "entity_df",
        wanted=f"a column {EVENT_TIMESTAMP}, or just one column of timestamps",
        came=f"timestamps {times} of columns {table.column_names}",
    )


def _selected(sql: str, lake: Lake) -> pa.Table:
    """Run a SELECT over lake tables, and over nothing else: no file and no address can be read."""
    try:
        trees = sqlglot.parse(sql, dialect="duckdb")
    except sqlglot.errors.SqlglotError as error:
        raise EntityRowsRefused("entity_df", wanted="a SELECT", came=str(error)) from error
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        raise EntityRowsRefused("entity_df", wanted="one SELECT", came=sql.strip())
    named = _tables(trees[0], lake.tables())
    with duckdb.connect(":memory:") as connection:
        # What the list lets through must not be enough: two locks on one door.
        connection.execute("SET enable_external_access = false")
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET lock_configuration = true")
        for name in named:
            connection.register(name, lake.scan(name))
        try:
            return connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise EntityRowsRefused(
                "entity_df",
                wanted=f"a SELECT over lake tables {lake.tables()}",
                came=str(error),
            ) from error


def _tables(tree: exp.Query, tables: Collection[str]) -> set[str]:
    """The lake tables that a query reads; anything else after FROM is refused, but its own CTEs and series of numbers."""
    local = {cte.alias for cte in tree.find_all(exp.CTE)}
    named = set()
    for table in tree.find_all(exp.Table):
        if isinstance(table.this, exp.GenerateSeries):
            continue
        plain = isinstance(table.this, exp.Identifier) and not table.args.get("db")
        if not plain or table.name not in {*tables, *local}:
            raise EntityRowsRefused(
                "entity_df",
                wanted=f"a SELECT over lake tables {sorted(tables)}",
                came=f"it reads {table.sql(dialect='duckdb')}",
            )
        named.add(table.name)
    return named - local
