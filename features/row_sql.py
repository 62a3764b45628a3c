"""Row-level SQL before aggregation: one `SELECT … FROM … [WHERE …]` in the subset that every executor reads alike.

A view says it Feast's own way, as `StreamFeatureView(mode="sql", udf_string="SELECT …")`; a `udf` is refused, because Feast
would pickle it. What is allowed is a list, and what it means is this, in Flink, DuckDB and Python:

- `+ - * /` compute in DOUBLE, whatever the columns are; `x / 0` is null, and so is what overflows to infinity.
- `= <> < <= > >= BETWEEN IN` compare numbers as DOUBLE and strings by code point; null logic is SQL's.
- `CASE COALESCE NULLIF ABS FLOOR CEIL CHAR_LENGTH LIKE`, `CAST(number AS DOUBLE)`, `CAST(integer AS STRING)`.

Join keys, the event's time and its id pass by themselves. Everything else is refused by its text and place: aggregates,
joins, subqueries, `*`, and functions whose meaning differs between engines (`LOWER` of 'İ', `ROUND`, `LEAST` of null).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import sqlglot
from sqlglot import exp
from sqlglot.dialects.spark import Spark

from features.views import ColumnType, RowSql

DIALECT = "duckdb"
DOUBLE_MAX = "1.7976931348623157E308"
_NUMBERS = frozenset({"double", "bigint"})
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div)
_COMPARISONS = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE)
Kind = str  # a ColumnType, "boolean", or "null"


class _Flink(Spark):
    """Spark's words, but a quote in a string is doubled: Flink reads a backslash as itself, and the string would end."""

    class Tokenizer(Spark.Tokenizer):
        """Says how strings are written, too."""

        STRING_ESCAPES: ClassVar[list[str]] = ["'"]


class RowSqlRefused(Exception):
    """What is wrong, and the text it is about."""

    def __init__(self, wanted: str, token: str) -> None:
        super().__init__(wanted, token)
        self.wanted = wanted
        self.token = token


class Typed(NamedTuple):
    """An expression with its casts written out, and its type."""

    sql: exp.Expression
    kind: Kind


def parse(text: str, columns: Mapping[str, ColumnType]) -> RowSql:
    """Check a row-level SELECT and write its meaning out.

    Args:
        text: The SQL as its author wrote it; the name after FROM is theirs to choose.
        columns: The stream's columns.

    Raises:
        RowSqlRefused: It is not of the subset.
    """
    select = _select(text)
    typer = _Typer(columns)
    outputs: dict[str, ColumnType] = {}
    projections = []
    for projection in select.expressions:
        name = projection.alias_or_name
        if not name:
            raise RowSqlRefused("a name for every expression: … AS name", projection.sql())
        if name in outputs:
            raise RowSqlRefused("each name once", name)
        typed = _finite(typer.type(projection.unalias()))
        outputs[name] = _column_type(typed, projection)
        projections.append((name, _written(typed.sql)))
    where = select.args.get("where")
    condition = _written(typer.boolean(where.this)) if where else None
    read = {name: columns[name] for name in sorted(typer.read)}
    return RowSql(tuple(projections), condition, read, outputs)


def flink(sql: str) -> str:
    """Checked SQL in Flink's words."""
    tree = sqlglot.parse_one(sql, dialect=DIALECT).transform(_flink_length)
    return tree.sql(_Flink, identify=True, comments=False)


def _written(tree: exp.Expression) -> str:
    """Without the author's comments: what is executed is what was checked, and nothing beside it."""
    return tree.sql(DIALECT, comments=False)


def _flink_length(node: exp.Expression) -> exp.Expression:
    if isinstance(node, exp.Length):
        return exp.Anonymous(this="CHAR_LENGTH", expressions=[node.this])
    return node


def _select(text: str) -> exp.Select:
    try:
        trees = sqlglot.parse(text, dialect=DIALECT)
    except sqlglot.ParseError as error:
        first = error.errors[0] if error.errors else {}
        place = (
            f"{first.get('highlight', '')} (line {first.get('line')}, column {first.get('col')})"
        )
        raise RowSqlRefused("SQL that can be parsed", place) from error
    except sqlglot.errors.TokenError as error:
        raise RowSqlRefused("SQL that can be parsed", str(error)) from error
    if len(trees) != 1 or not isinstance(trees[0], exp.Select):
        raise RowSqlRefused("one SELECT", text.strip())
    select = trees[0]
    for part, value in select.args.items():
        if value and part not in ("expressions", "from_", "from", "where"):
            token = value[0].sql() if isinstance(value, list) else str(value)
            raise RowSqlRefused("only SELECT, FROM and WHERE", token)
    source = select.args.get("from_") or select.args.get("from")
    if source is None or not _is_one_name(source.this):
        raise RowSqlRefused("FROM the stream, by one name", source.sql() if source else "no FROM")
    return select


def _is_one_name(source: exp.Expression) -> bool:
    """Whether it is a table by its bare name: no file, function, schema, alias of columns, sample or join."""
    if not isinstance(source, exp.Table) or not isinstance(source.this, exp.Identifier):
        return False
    if not source.name.isidentifier():
        return False
    more = {part: value for part, value in source.args.items() if value and part != "this"}
    alias = more.pop("alias", None)
    return not more and (alias is None or not alias.args.get("columns"))


class _Typer:
    """Gives every node its type, writes casts out, and refuses what is not on the list."""

    def __init__(self, columns: Mapping[str, ColumnType]) -> None:
        self._columns = columns
        self.read: set[str] = set()

    def type(self, node: exp.Expression) -> Typed:  # noqa: PLR0911 - one a kind of node
        """The expression with its casts written out, and its type."""
        match node:
            case exp.Paren():
                inner = self.type(node.this)
                return Typed(exp.Paren(this=inner.sql), inner.kind)
            case exp.Column():
                return self._column(node)
            case exp.Literal() | exp.Null() | exp.Boolean():
                return _literal(node)
            case exp.Neg():
                return Typed(exp.Neg(this=exp.Paren(this=self.number(node.this))), "double")
            case exp.Cast():
                return self._cast(node)
            case exp.Case() | exp.Coalesce() | exp.Nullif():
                return self._choice(node)
            case exp.Length():
                text = self.string(node.this)
                return Typed(_cast(exp.Length(this=text), "bigint"), "bigint")
            case exp.Abs() | exp.Floor() | exp.Ceil():
                self._only_this(node)
                return Typed(type(node)(this=self.number(node.this)), "double")
        if isinstance(node, _ARITHMETIC):
            return self._arithmetic(node)
        return Typed(self.boolean(node), "boolean")

    def number(self, node: exp.Expression) -> exp.Expression:
        """The expression as DOUBLE."""
        typed = self.type(node)
        if typed.kind not in _NUMBERS and typed.kind != "null":
            raise RowSqlRefused("a number", node.sql())
        return typed.sql if typed.kind == "double" else _cast(typed.sql, "double")

    def string(self, node: exp.Expression) -> exp.Expression:
        """The expression, which must be a string."""
        typed = self.type(node)
        if typed.kind not in ("string", "null"):
            raise RowSqlRefused("a string", node.sql())
        return typed.sql

    def boolean(self, node: exp.Expression) -> exp.Expression:  # noqa: PLR0911 - one a kind
        """The expression as a condition."""
        match node:
            case exp.Paren():
                return exp.Paren(this=self.boolean(node.this))
            case exp.And() | exp.Or():
                return type(node)(
                    this=self.boolean(node.this), expression=self.boolean(node.expression)
                )
            case exp.Not():
                return exp.Not(this=exp.Paren(this=self.boolean(node.this)))
            case exp.Boolean():
                return node.copy()
            case exp.Is() if isinstance(node.expression, exp.Null):
                return exp.Is(this=exp.Paren(this=self.type(node.this).sql), expression=exp.Null())
            case exp.Between():
                low, high = node.args["low"], node.args["high"]
                value, low, high = self._comparable(node.this, low, high)
                return exp.Between(this=value, low=low, high=high)
            case exp.In() if node.expressions:
                value, *options = self._comparable(node.this, *node.expressions)
                return exp.In(this=value, expressions=options)
            case exp.Like():
                return self._like(node)
        if isinstance(node, _COMPARISONS):
            one, two = self._comparable(node.this, node.expression)
            return type(node)(this=one, expression=two)
        raise RowSqlRefused("an expression of the portable subset", node.sql())

    def _column(self, node: exp.Column) -> Typed:
        name = node.name
        if node.args.get("table") or name not in self._columns:
            raise RowSqlRefused(f"a column of the stream: {sorted(self._columns)}", node.sql())
        self.read.add(name)
        return Typed(exp.column(name, quoted=True), self._columns[name])

    def _arithmetic(self, node: exp.Expression) -> Typed:
        one = exp.Paren(this=self.number(node.this))
        two: exp.Expression = exp.Paren(this=self.number(node.expression))
        if isinstance(node, exp.Div):
            two = exp.Nullif(this=two.this, expression=_double("0"))
        return Typed(exp.Paren(this=type(node)(this=one, expression=two)), "double")

    def _cast(self, node: exp.Cast) -> Typed:
        typed = self.type(node.this)
        wanted = node.to.sql("spark").upper()
        if isinstance(node, exp.TryCast):
            raise RowSqlRefused("CAST, not TRY_CAST", node.sql())
        if wanted == "DOUBLE" and typed.kind in _NUMBERS:
            return Typed(_cast(typed.sql, "double"), "double")
        if wanted == "STRING" and typed.kind == "bigint":
            return Typed(_cast(typed.sql, "string"), "string")
        raise RowSqlRefused("CAST of a number to DOUBLE, or of an integer to STRING", node.sql())

    def _choice(self, node: exp.Expression) -> Typed:
        """CASE, COALESCE, NULLIF: whose branches have one type, integers giving way to doubles."""
        if isinstance(node, exp.Nullif):
            one, two = self._comparable(node.this, node.expression)
            return Typed(exp.Nullif(this=one, expression=two), self._kinds(node.this)[0])
        if isinstance(node, exp.Coalesce):
            branches, kind = self._alike([node.this, *node.expressions])
            return Typed(exp.Coalesce(this=branches[0], expressions=branches[1:]), kind)
        values = [i.args["true"] for i in node.args["ifs"]]
        default = node.args.get("default")
        branches, kind = self._alike([*values, *([default] if default else [])])
        made = exp.Case()
        for branch, value in zip(node.args["ifs"], branches, strict=False):
            condition = (
                branch.this
                if node.this is None
                else exp.EQ(this=node.this.copy(), expression=branch.this)
            )
            made = made.when(self.boolean(condition), value)
        return Typed(made.else_(branches[-1]) if default else made, kind)

    def _kinds(self, *nodes: exp.Expression) -> list[Kind]:
        kinds = [self.type(n).kind for n in nodes]
        return ["double" if k in _NUMBERS else k for k in kinds]

    def _alike(self, nodes: list[exp.Expression]) -> tuple[list[exp.Expression], Kind]:
        kinds = {k for n in nodes if (k := self.type(n).kind) != "null"}
        if len(kinds) == 1 and "boolean" not in kinds:
            return [self.type(n).sql for n in nodes], kinds.pop()
        if kinds and kinds <= _NUMBERS:
            return [self.number(n) for n in nodes], "double"
        raise RowSqlRefused(
            "branches of one type, number or string", ", ".join(n.sql() for n in nodes)
        )

    def _comparable(self, *nodes: exp.Expression) -> list[exp.Expression]:
        kinds = {k for k in self._kinds(*nodes) if k != "null"}
        if kinds == {"string"}:
            return [self.string(n) for n in nodes]
        if kinds <= {"double"}:
            return [self.number(n) for n in nodes]
        raise RowSqlRefused(
            "numbers with numbers, strings with strings", ", ".join(n.sql() for n in nodes)
        )

    def _like(self, node: exp.Like) -> exp.Expression:
        pattern = node.expression
        if not (isinstance(pattern, exp.Literal) and pattern.is_string):
            raise RowSqlRefused("a literal pattern for LIKE, without ESCAPE", node.sql())
        return exp.Like(this=self.string(node.this), expression=_literal(pattern).sql)

    @staticmethod
    def _only_this(node: exp.Expression) -> None:
        extra = [k for k, v in node.args.items() if v and k != "this"]
        if extra:
            raise RowSqlRefused(f"{node.key.upper()} of one argument", node.sql())


def _literal(node: exp.Expression) -> Typed:
    if isinstance(node, exp.Null):
        return Typed(exp.Null(), "null")
    if isinstance(node, exp.Boolean):
        return Typed(node.copy(), "boolean")
    text = str(node.this)
    if node.is_string:
        if "\\" in text or not text.isprintable():
            raise RowSqlRefused("a string without backslashes and control characters", node.sql())
        return Typed(node.copy(), "string")
    if text.isdigit() and len(text) <= 15:  # noqa: PLR2004 - what a double holds exactly
        return Typed(node.copy(), "bigint")
    return Typed(_double(text), "double")


def _double(text: str) -> exp.Expression:
    return _cast(exp.Literal.number(text), "double")


def _cast(node: exp.Expression, kind: ColumnType) -> exp.Expression:
    names = {"double": "DOUBLE", "bigint": "BIGINT", "string": "VARCHAR"}
    return exp.cast(node, names[kind], dialect=DIALECT)


def _finite(typed: Typed) -> Typed:
    """Doubles that overflowed, and what came of them, are null: engines disagree on how NaN compares."""
    if typed.kind != "double" or not typed.sql.find(*_ARITHMETIC):
        return typed
    low, high = exp.Neg(this=_double(DOUBLE_MAX)), _double(DOUBLE_MAX)
    within = exp.Between(this=typed.sql, low=low, high=high)
    return Typed(exp.Case().when(within, typed.sql.copy()), "double")


def _column_type(typed: Typed, projection: exp.Expression) -> ColumnType:
    match typed.kind:
        case "double":
            return "double"
        case "bigint":
            return "bigint"
        case "string":
            return "string"
    raise RowSqlRefused("a number or a string: CASE WHEN … THEN 1 ELSE 0 END", projection.sql())
