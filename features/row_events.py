"""Row-level SQL run on events: one at a time in Python, or a table at once in DuckDB."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Protocol

import duckdb
import pyarrow as pa
import sqlglot
from sqlglot import exp

from features.row_sql import DIALECT
from features.row_views import RowSql
from features.views import View

Event = Mapping[str, Any]
Value = float | int | str | bool | None
# What a view's events have besides the columns it reads.
PLATFORM_COLUMNS = ("event_time_ms", "ingest_ms", "kafka_partition", "kafka_offset")


class Projected(Protocol):
    """Whose events are something done to the stream's: a `View`, or a `RowView` with a topic."""

    @property
    def row_sql(self) -> RowSql | None:
        """None where events are taken as they are."""


def events_of(view: Projected, events: Iterable[Event]) -> Iterator[Event]:
    """The events as the view aggregates them: projected, and without those that its WHERE turns away."""
    rows = view.row_sql
    if rows is None:
        yield from events
        return
    for event in events:
        if rows.where is None or _value(_tree(rows.where), event) is True:
            yield {**event, **{name: _value(_tree(sql), event) for name, sql in rows.select}}


def table_of(view: View, events: pa.Table) -> pa.Table:
    """The same of a table of events, with just the columns that the view needs."""
    return events if view.row_sql is None else projected(view.row_sql, view.columns, events)


def projected(rows: RowSql, columns: Iterable[str], events: pa.Table) -> pa.Table:
    """A table of events after the SQL: what it makes, the columns that are needed besides, and the platform's."""
    made = dict(rows.select)
    passed = [n for n in (*columns, *PLATFORM_COLUMNS) if n not in made]
    selected = [quoted(n) for n in dict.fromkeys(passed) if n in events.column_names]
    selected += [f"{sql} AS {quoted(name)}" for name, sql in made.items()]
    where = f" WHERE {rows.where}" if rows.where else ""
    with duckdb.connect(":memory:") as connection:
        connection.register("events", events)
        # The text was written by `features.row_sql` from a checked tree.
        query = f"SELECT {', '.join(selected)} FROM events{where}"  # noqa: S608
        return connection.sql(query).to_arrow_table()


@lru_cache(maxsize=1_000)
def _tree(sql: str) -> exp.Expression:
    tree = sqlglot.parse_one(sql, dialect=DIALECT)
    assert isinstance(tree, exp.Expression)
    return tree


def _value(node: exp.Expression, event: Event) -> Value:
    """A checked expression of one event; null is None, conditions are three-valued."""
    return _OF[type(node)](node, event)


def _column(node: exp.Expression, event: Event) -> Value:
    value = event.get(node.name)
    return None if isinstance(value, float) and math.isnan(value) else value


def _literal(node: exp.Expression, _: Event) -> Value:
    text = str(node.this)
    if node.is_string:
        return text
    return int(text) if text.isdigit() else float(text)


def _cast(node: exp.Expression, event: Event) -> Value:
    value = _value(node.this, event)
    if value is None:
        return None
    wanted = node.args["to"].this
    if wanted == exp.DataType.Type.DOUBLE:
        return float(value)
    return int(value) if wanted == exp.DataType.Type.BIGINT else str(value)


def _strict(
    function: Callable[..., Value], *names: str
) -> Callable[[exp.Expression, Event], Value]:
    """A function of arguments of which a null makes the answer null."""

    def evaluate(node: exp.Expression, event: Event) -> Value:
        values = [_value(node.args[name], event) for name in names]
        return None if None in values else function(*values)

    return evaluate


def _binary(function: Callable[[Any, Any], Value]) -> Callable[[exp.Expression, Event], Value]:
    return _strict(function, "this", "expression")


def _nullif(node: exp.Expression, event: Event) -> Value:
    one, two = _value(node.this, event), _value(node.expression, event)
    return None if one is not None and one == two else one


def _coalesce(node: exp.Expression, event: Event) -> Value:
    branches = (node.this, *node.expressions)
    return next((v for b in branches if (v := _value(b, event)) is not None), None)


def _case(node: exp.Expression, event: Event) -> Value:
    for branch in node.args["ifs"]:
        if _value(branch.this, event) is True:
            return _value(branch.args["true"], event)
    default = node.args.get("default")
    return None if default is None else _value(default, event)


def _in(node: exp.Expression, event: Event) -> Value:
    value = _value(node.this, event)
    options = [_value(option, event) for option in node.expressions]
    if value is None:
        return None
    return True if value in [o for o in options if o is not None] else _false_or_null(options)


def _false_or_null(options: list[Value]) -> Value:
    return None if None in options else False


def _and(node: exp.Expression, event: Event) -> Value:
    sides = (_value(node.this, event), _value(node.expression, event))
    return False if False in sides else (None if None in sides else True)


def _or(node: exp.Expression, event: Event) -> Value:
    sides = (_value(node.this, event), _value(node.expression, event))
    return True if True in sides else (None if None in sides else False)


def _between(node: exp.Expression, event: Event) -> Value:
    value, low, high = (_value(node.args[n], event) for n in ("this", "low", "high"))
    sides: list[Value] = [
        None if value is None or bound is None else holds
        for bound, holds in ((low, _le(low, value)), (high, _le(value, high)))
    ]
    return False if False in sides else (None if None in sides else True)


def _le(one: Any, two: Any) -> bool:  # noqa: ANN401 - numbers or strings
    return one is not None and two is not None and bool(one <= two)


def _like(text: str, pattern: str) -> bool:
    parts = {"%": ".*", "_": "."}
    expression = "".join(parts.get(letter, re.escape(letter)) for letter in pattern)
    return re.fullmatch(expression, text, re.DOTALL) is not None


def _arithmetic(function: Callable[[float, float], float]) -> Callable[[Any, Any], float]:
    def compute(one: float, two: float) -> float:
        try:
            return function(one, two)
        except OverflowError:
            return math.inf

    return compute


_OF: Mapping[type[exp.Expression], Callable[[exp.Expression, Event], Value]] = {
    exp.Column: _column,
    exp.Literal: _literal,
    exp.Null: lambda _, __: None,
    exp.Boolean: lambda node, _: bool(node.this),
    exp.Paren: lambda node, event: _value(node.this, event),
    exp.Neg: _strict(lambda x: -x, "this"),
    exp.Cast: _cast,
    exp.Length: _strict(len, "this"),
    exp.Abs: _strict(abs, "this"),
    exp.Floor: _strict(lambda x: float(math.floor(x)) if math.isfinite(x) else x, "this"),
    exp.Ceil: _strict(lambda x: float(math.ceil(x)) if math.isfinite(x) else x, "this"),
    exp.Add: _binary(_arithmetic(lambda a, b: a + b)),
    exp.Sub: _binary(_arithmetic(lambda a, b: a - b)),
    exp.Mul: _binary(_arithmetic(lambda a, b: a * b)),
    exp.Div: _binary(_arithmetic(lambda a, b: a / b)),
    exp.EQ: _binary(lambda a, b: a == b),
    exp.NEQ: _binary(lambda a, b: a != b),
    exp.LT: _binary(lambda a, b: a < b),
    exp.LTE: _binary(lambda a, b: a <= b),
    exp.GT: _binary(lambda a, b: a > b),
    exp.GTE: _binary(lambda a, b: a >= b),
    exp.Like: _binary(_like),
    exp.Is: lambda node, event: _value(node.this, event) is None,
    exp.Not: _strict(lambda x: not x, "this"),
    exp.And: _and,
    exp.Or: _or,
    exp.In: _in,
    exp.Between: _between,
    exp.Case: _case,
    exp.Coalesce: _coalesce,
    exp.Nullif: _nullif,
}


def quoted(name: str) -> str:
    """A name as DuckDB's identifier."""
    return '"' + name.replace('"', '""') + '"'
