"""Row-level SQL: what is refused, and that Python and DuckDB read alike what is not."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.batch import asked_rows, compute
from features.reference import features_as_of
from features.row_events import events_of, table_of
from features.row_sql import RowSqlRefused, flink, parse
from features.views import Aggregate, ColumnType, JoinKey, RowSql, View
from tests.features.readings import START_MS, assert_same

COLUMNS: dict[str, ColumnType] = {"a": "double", "b": "double", "n": "bigint", "s": "string"}


@pytest.mark.parametrize(
    ("sql", "token"),
    [
        ("SELECT * FROM x", "*"),
        ("SELECT a FROM x JOIN y ON x.a = y.a", "JOIN y"),
        ("SELECT SUM(a) AS t FROM x", "SUM(a)"),
        ("SELECT a FROM x GROUP BY a", "GROUP BY a"),
        ("SELECT a FROM x ORDER BY a", "ORDER BY a"),
        ("SELECT a FROM (SELECT * FROM y) AS x", "(SELECT * FROM y)"),
        ("SELECT (SELECT 1) AS t FROM x", "(SELECT 1)"),
        ("SELECT a FROM x; DROP TABLE x", "DROP TABLE x"),
        ("SELECT LOWER(s) AS t FROM x", "LOWER(s)"),
        ("SELECT RANDOM() AS t FROM x", "RAND()"),
        ("SELECT missing FROM x", "missing"),
        ("SELECT y.a FROM x", "y.a"),
        ("SELECT a + s AS t FROM x", "s"),
        ("SELECT a FROM x WHERE a = s", "a, s"),
        ("SELECT a + 1 FROM x", "a + 1"),
        ("SELECT a, b AS a FROM x", "a"),
        ("SELECT a > 1 AS t FROM x", "a > 1"),
        ("SELECT CAST(s AS DOUBLE) AS t FROM x", "CAST(s AS DOUBLE)"),
        ("SELECT ROW_NUMBER() OVER () AS t FROM x", "ROW_NUMBER() OVER ()"),
        ("SELECT FROM WHERE", "WHERE (line 1, column 17)"),
        ("DELETE FROM x", "DELETE FROM x"),
        ("SELECT DISTINCT a FROM x", "DISTINCT"),
        ("SELECT a", "no FROM"),
        ("SELECT a FROM read_csv('/etc/passwd')", "/etc/passwd"),
        ("SELECT a FROM '/etc/passwd'", "/etc/passwd"),
        ("SELECT a FROM other.schema.x", "other.schema.x"),
        ("SELECT a FROM x TABLESAMPLE (10 PERCENT)", "TABLESAMPLE"),
        ("SELECT a FROM x AS y(b)", "y(b)"),
        ("SELECT AS STRUCT a FROM x", "STRUCT"),
    ],
)
def test_what_is_not_of_the_subset_is_refused_by_its_text(sql: str, token: str) -> None:
    with pytest.raises(RowSqlRefused) as caught:
        parse(sql, COLUMNS)
    assert token in caught.value.token


def test_what_runs_is_what_was_checked_without_the_authors_comments() -> None:
    rows = parse("SELECT a + 1 -- */ DROP TABLE x; /*\n AS t FROM x WHERE n = 1 /* y */", COLUMNS)
    assert "DROP" not in rows.select[0][1]
    assert "/*" not in f"{rows.select[0][1]}{rows.where}"


def test_a_quote_in_a_string_stays_in_it_for_flink() -> None:
    """Flink reads a backslash as itself, so an escaped quote would end the string, and SQL go on behind it."""
    rows = parse("SELECT NULLIF(s, 'x'') FROM y; --') AS t FROM x", COLUMNS)
    assert flink(rows.select[0][1]) == "NULLIF(`s`, 'x'') FROM y; --')"


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("a", "double"),
        ("n", "bigint"),
        ("n + 1", "double"),
        ("CASE WHEN a > 1 THEN 1 ELSE 0 END", "bigint"),
        ("COALESCE(n, a)", "double"),
        ("CHAR_LENGTH(s)", "bigint"),
        ("NULLIF(s, 'x')", "string"),
        ("CAST(n AS VARCHAR)", "string"),
    ],
)
def test_types_follow_from_the_columns(sql: str, kind: str) -> None:
    assert parse(f"SELECT {sql} AS t FROM x", COLUMNS).columns == {"t": kind}  # noqa: S608


def test_only_what_is_read_is_read() -> None:
    assert parse("SELECT a * 2 AS t FROM x WHERE s = 'y'", COLUMNS).reads == {
        "a": "double",
        "s": "string",
    }


NUMBERS = ["a", "b", "n", "0", "1", "2.5", "-3"]
STRINGS = ["s", "'x'", "''", "CAST(n AS VARCHAR)"]
DEPTH = 3


@st.composite
def expressions(draw: st.DrawFn, depth: int = DEPTH) -> str:
    """A number."""
    form = draw(st.integers(0, 7)) if depth else 0
    if form == 0:
        return draw(st.sampled_from(NUMBERS))
    one, two = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    return [
        f"({one} {draw(st.sampled_from('+-*/'))} {two})",
        f"{draw(st.sampled_from(['ABS', 'FLOOR', 'CEIL']))}({one})",
        f"COALESCE({one}, {two})",
        f"NULLIF({one}, {two})",
        f"CASE WHEN {draw(conditions(depth - 1))} THEN {one} ELSE {two} END",
        f"-({one})",
        f"CHAR_LENGTH({draw(st.sampled_from(STRINGS))})",
    ][form - 1]


@st.composite
def conditions(draw: st.DrawFn, depth: int = 2) -> str:
    form = draw(st.integers(0, 8 if depth else 6))
    operator = draw(st.sampled_from(["=", "<>", "<", "<=", ">", ">="]))
    one, two, three = (draw(st.sampled_from(NUMBERS)) for _ in range(3))
    text, other = draw(st.sampled_from(STRINGS)), draw(st.sampled_from(STRINGS))
    simple = [
        f"{one} {operator} {two}",
        f"{text} {operator} {other}",
        f"{one} BETWEEN {two} AND {three}",
        f"{one} IN ({two}, {three})",
        f"{text} LIKE '{draw(st.sampled_from(['x%', '%y', '_', '']))}'",
        f"{text} IS NULL",
        f"{one} IS NOT NULL",
    ]
    if form < len(simple):
        return simple[form]
    inner = draw(conditions(depth - 1))
    joined = f"({inner} {draw(st.sampled_from(['AND', 'OR']))} {draw(conditions(depth - 1))})"
    return joined if form == len(simple) else f"NOT ({inner})"


rows = st.lists(
    st.fixed_dictionaries(
        {
            "a": st.none() | st.sampled_from([0.0, -0.0, 1.0, -2.5, 1e300, 3.25]),
            "b": st.none() | st.sampled_from([0.0, 1.0, 7.0, -1e300]),
            "n": st.none() | st.integers(-5, 5),
            "s": st.none() | st.sampled_from(["", "x", "xy", "é"]),
        }
    ),
    min_size=1,
    max_size=6,
)
SCHEMA = pa.schema({"a": pa.float64(), "b": pa.float64(), "n": pa.int64(), "s": pa.string()})


def view_of(row_sql: RowSql) -> View:
    return View("v", "t.valid", "t", "id", (), {}, (), row_sql=row_sql)


@settings(max_examples=150, deadline=None)
@given(expression=expressions(), condition=conditions(), events=rows)
def test_python_and_duckdb_read_the_subset_alike(
    expression: str, condition: str, events: list[dict[str, Any]]
) -> None:
    flag = f"CASE WHEN {condition} THEN 1 ELSE 0 END"
    sql = f"SELECT {expression} AS t, {flag} AS c FROM x WHERE {condition} OR s IS NULL"  # noqa: S608
    view = view_of(parse(sql, COLUMNS))
    found = table_of(view, pa.Table.from_pylist(events, schema=SCHEMA)).to_pylist()
    wanted = list(events_of(view, events))
    assert [r["c"] for r in found] == [r["c"] for r in wanted]
    for one, two in zip(found, wanted, strict=True):
        assert same(one["t"], two["t"]), (sql, one["t"], two["t"])


def same(one: float | None, two: float | None) -> bool:
    """Python's evaluator leaves what overflowed to the CASE that both evaluate."""
    if one is None or two is None:
        return one is two
    return math.isclose(one, two, rel_tol=1e-12)


VIEW = View(
    name="big",
    topic="t.valid",
    table="t",
    event_id_field="id",
    join_keys=(JoinKey("s"),),
    columns={"s": "string", "id": "string", "cents": "double"},
    aggregates=(
        Aggregate("sum_1h", "cents", "sum", 3600, 600),
        Aggregate("count_1h", "cents", "count", 3600, 600),
    ),
    row_sql=parse("SELECT a * 100 AS cents FROM t WHERE n > 1", COLUMNS),
)


def test_windows_are_over_what_the_sql_left() -> None:
    events = [
        {"event_time_ms": START_MS + i, "id": f"e{i}", "s": "k", "a": i / 4, "n": i % 4, "b": 0.0}
        for i in range(40)
    ]
    lake = pa.Table.from_pylist([e | {"ingest_ms": START_MS} for e in events])
    entities = pa.table({"s": ["k"], "event_time_ms": [START_MS + 30]})
    found = compute(VIEW, ["sum_1h", "count_1h"], table_of(VIEW, lake), asked_rows(VIEW, entities))
    wanted = features_as_of(VIEW, events, {"s": "k"}, START_MS + 30)
    assert wanted["count_1h"] == 15
    assert_same(found.to_pylist()[0], wanted)
