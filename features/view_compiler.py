"""One windowed view: a Feast `StreamFeatureView` with aggregations → `View`, or the reasons why not."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

import pyarrow as pa
from feast import Entity, KafkaSource, StreamFeatureView
from feast.aggregation import Aggregation
from feast.feature_view import DUMMY_ENTITY_NAME

from features import row_sql
from features.lake_schema import arrow_schema
from features.lake_source import LakeSource
from features.refusal import Refusal
from features.row_views import EVENT_TIME
from features.views import PARTIALS_OF, Aggregate, ColumnType, Function, JoinKey, RowSql, View
from schemas.topics import Topic

HOP_DEFAULT = timedelta(minutes=5)  # Feast's own
# A ring is read whole for every request: a thousand slots of a few partials are some 50 kB an entity.
TILES_MAX = 1_000
# Names become topics, SQL identifiers, Redis keys and `view__feature`.
NAME = re.compile(r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$")
# Columns keep the spelling of their contract; none of their characters has a meaning in any SQL or topic name.
COLUMN = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
TABLE = re.compile(r"^[A-Za-z0-9_-]+$")
SUBSET = "The portable subset is described in features/row_sql.py."
SYNONYMS = {"avg": "mean", "stddev": "std", "variance": "var"}
ARROW_TYPES: Mapping[pa.DataType, ColumnType] = {
    pa.float64(): "double",
    pa.int64(): "bigint",
    pa.string(): "string",
}


class ViewCompiler:
    """Compiles one view; what is wrong with it collects in `refusals`."""

    def __init__(
        self,
        definition: StreamFeatureView,
        entities: Mapping[str, Entity],
        topics: Mapping[str, Topic],
    ) -> None:
        self.definition = definition
        self.where = f"view {definition.name}"
        self.entities = entities
        self.topics = topics
        self.refusals: list[Refusal] = []

    def refuse(self, wanted: str, came: str, mend: str, where: str = "") -> None:
        """Note one reason, of the view or of a part of it."""
        self.refusals.append(Refusal(where or self.where, wanted, came, mend))

    def view(self) -> View | None:
        """The compiled view; None where anything was refused."""
        topic = self._topic()
        if topic is None or topic.contract is None:
            return None
        columns = {
            field.name: kind
            for field in arrow_schema(topic.contract)
            if (kind := ARROW_TYPES.get(field.type)) is not None
        }
        rows = self._row_sql(columns, topic.contract.id_field)
        columns |= rows.columns if rows else {}
        join_keys = self._join_keys(columns)
        aggregates = tuple(a for a in map(self._over(columns), self._asked()) if a is not None)
        self._check_whole(aggregates)
        if self.refusals:
            return None
        read = {a.column for a in aggregates} | {key.name for key in join_keys}
        id_field = topic.contract.id_field
        self._check_columns(topic, read | {id_field} | set(rows.reads if rows else ()))
        if self.refusals:
            return None
        return View(
            name=self.definition.name,
            topic=topic.name,
            table=topic.table,
            event_id_field=id_field,
            join_keys=join_keys,
            columns={name: columns[name] for name in sorted(read | {id_field})},
            aggregates=aggregates,
            ttl_s=int((self.definition.ttl or timedelta()).total_seconds()),
            row_sql=rows,
            origin_offsets=rows is None and _own(topic, join_keys),
        )

    def _topic(self) -> Topic | None:
        stream = self.definition.stream_source
        if not isinstance(stream, KafkaSource):
            came = f"its source is a {type(self.definition.source).__name__}"
            self.refuse("a KafkaSource", came, "Give it a KafkaSource with a LakeSource behind.")
            return None
        name = stream.kafka_options.topic
        topic = self.topics.get(name)
        if topic is None or topic.contract is None:
            readable = sorted(t.name for t in self.topics.values() if t.stage in ("valid", "own"))
            self.refuse(
                f"a topic with a contract, one of {readable}", f"it reads {name!r}", "Declare it."
            )
            return None
        self._check_times(stream, topic)
        return topic

    def _check_times(self, stream: KafkaSource, topic: Topic) -> None:
        batch = self.definition.batch_source
        if not isinstance(batch, LakeSource) or batch.table != topic.table:
            came = f"its batch source is {getattr(batch, 'name', None)!r}"
            self.refuse(
                f"the same topic's lake table behind it, LakeSource({topic.table!r})",
                came,
                "Otherwise training would read other events than serving.",
            )
        elif batch.field_mapping or batch.created_timestamp_column:
            came = "it maps columns, or says when a row was created"
            mend = "Both executors go by the contract's names and by when an event was ingested."
            self.refuse("its lake table as it is", came, mend)
        for holder, field in (
            ("the view", self.definition.timestamp_field),
            ("its stream source", stream.timestamp_field),
        ):
            if field != EVENT_TIME:
                self.refuse(
                    f"timestamp_field={EVENT_TIME!r} on {holder}",
                    f"it is {field!r}",
                    "headrace derives it from the contract's event_time_ms.",
                )

    def _row_sql(self, columns: Mapping[str, ColumnType], id_field: str) -> RowSql | None:
        definition = self.definition
        if definition.udf is not None or definition.feature_transformation is not None:
            mend = "Write the row-level SQL as udf_string; aggregate the stream's own columns else."
            self.refuse("no function", "it has a udf, which Feast would pickle", mend)
            return None
        if not definition.udf_string:
            return None
        try:
            rows = row_sql.parse(definition.udf_string, columns)
        except row_sql.RowSqlRefused as error:
            self.refuse(error.wanted, f"its SQL has {error.token!r}", SUBSET)
            return None
        for name in rows.columns:
            if not NAME.fullmatch(name) or name in (id_field, "event_time_ms"):
                came = f"its SQL makes {name!r}"
                self.refuse("columns named by a-z, 0-9 and single _", came, "Rename it.")
        return rows

    def _join_keys(self, columns: Mapping[str, ColumnType]) -> tuple[JoinKey, ...]:
        keys = []
        if self.definition.entities == [DUMMY_ENTITY_NAME]:
            self.refuse("an entity", "it has none", "Windows are kept per entity.")
            return ()
        for name in self.definition.entities:
            entity = self.entities.get(name)
            column = entity.join_key if entity else name
            kind = columns.get(column)
            if entity is None:
                self.refuse(f"entity {name!r} in the same module", "it is not there", "Define it.")
            elif not COLUMN.fullmatch(name):
                wanted = "an entity named by letters, digits and _"
                self.refuse(wanted, f"it is {name!r}", "Rename the entity.")
            elif kind is None or kind == "double":
                self.refuse(
                    "a join key that is a string or integer column of the stream",
                    f"{column!r} is {kind or 'not one of its columns'}",
                    f"Choose one of {sorted(c for c, k in columns.items() if k != 'double')}.",
                )
            else:
                keys.append(JoinKey(column, "bigint" if kind == "bigint" else "string"))
        return tuple(keys)

    def _asked(self) -> list[Aggregation]:
        if not self.definition.aggregations:
            self.refuse("aggregations", "it has none", "Add Aggregation(column, function, …).")
        return list(self.definition.aggregations)

    def _over(self, columns: Mapping[str, ColumnType]) -> Any:  # noqa: ANN401 - a local function
        return lambda asked: self._aggregate(asked, columns)

    def _aggregate(self, asked: Aggregation, columns: Mapping[str, ColumnType]) -> Aggregate | None:
        name = asked.resolved_name(asked.time_window)
        where = f"{self.where}, feature {name}"
        before = len(self.refusals)
        function = self._function(asked, where)
        kind = columns.get(asked.column)
        if kind is None:
            came = f"column {asked.column!r} is not one of them"
            self.refuse(f"a column of the stream: {sorted(columns)}", came, "Correct it.", where)
        elif kind == "double" and function == "count_distinct":
            self.refuse(
                "a column of strings or integers for count_distinct",
                f"{asked.column!r} is a double",
                "Engines write a double in different ways; count what it stands for, e.g. a rounded BIGINT by row SQL.",
                where,
            )
        elif kind == "string" and function not in ("count", "count_distinct", None):
            self.refuse(
                f"a numeric column for {function}",
                f"{asked.column!r} is a string",
                "Rings hold numbers only; a string can be counted: count, count_distinct.",
                where,
            )
        window_s, hop_s = self._window(asked, where)
        if not NAME.fullmatch(name):
            self.refuse("a name of a-z, 0-9 and single _", f"it is {name!r}", "Rename.", where)
        if len(self.refusals) > before or function is None:
            return None
        return Aggregate(name, asked.column, function, window_s, hop_s)

    def _function(self, asked: Aggregation, where: str) -> Function | None:
        wanted = SYNONYMS.get(asked.function.lower(), asked.function.lower())
        for function in PARTIALS_OF:
            if function == wanted:
                return function
        mend = f"Choose one of {sorted(PARTIALS_OF)}."
        self.refuse("a function that tiles can merge", f"it is {asked.function!r}", mend, where)
        return None

    def _window(self, asked: Aggregation, where: str) -> tuple[int, int]:
        window = asked.time_window
        if window is None or window <= timedelta():
            self.refuse("a time_window", f"it is {window}", "Every feature needs one.", where)
            return 1, 1
        slide = asked.slide_interval
        hop = self.definition.tiling_hop_size or HOP_DEFAULT
        if slide is not None and slide < window:
            hop = slide
        second = timedelta(seconds=1)
        if hop < second or hop % second or window % second:
            self.refuse(
                "a window and a hop of whole seconds",
                f"they are {window} and {hop}",
                "Round.",
                where,
            )
            return 1, 1
        if window % hop:
            self.refuse(
                f"a window that is a multiple of its hop, {hop}",
                f"it is {window}",
                "Change time_window, slide_interval or the view's tiling_hop_size.",
                where,
            )
        if window // hop > TILES_MAX:
            self.refuse(
                f"at most {TILES_MAX} hops a window",
                f"{window} has {window // hop} of {hop}",
                "Give it a longer slide_interval.",
                where,
            )
        return window // second, hop // second

    def _check_columns(self, topic: Topic, columns: Collection[str]) -> None:
        """Contracts may name their fields as they like, but what a view reads of them goes into SQL."""
        for name in sorted(columns):
            if not COLUMN.fullmatch(name):
                wanted = "columns named by letters, digits and _"
                self.refuse(wanted, f"it reads {name!r}", "Rename the contract's field.")
        if not TABLE.fullmatch(topic.table):
            wanted = "a topic named by letters, digits, _, - and ."
            self.refuse(wanted, f"it reads {topic.name!r}", "Rename the topic.")

    def _check_whole(self, aggregates: Sequence[Aggregate]) -> None:
        definition = self.definition
        names = [a.name for a in aggregates]
        if not NAME.fullmatch(definition.name):
            came = f"it is {definition.name!r}"
            self.refuse("a name of a-z, 0-9 and single _", came, "Rename the view.")
        for name in sorted({n for n in names if names.count(n) > 1}):
            self.refuse("each feature name once", f"{name!r} is there twice", "Name one of them.")
        declared = {field.name for field in definition.features}
        if not self.refusals and declared != set(names):
            self.refuse(
                f"a schema of exactly its features {sorted(names)}",
                f"it declares {sorted(declared)}",
                "Feast serves what the schema names: add a Field for each aggregation.",
            )
        longest_s = max((a.window_s for a in aggregates), default=0)
        ttl = definition.ttl
        if ttl and ttl.total_seconds() < longest_s:
            self.refuse(
                f"a ttl of at least the longest window, {timedelta(seconds=longest_s)}",
                f"it is {ttl}",
                "Windows decay by themselves; leave the ttl out or lengthen it.",
            )


def _own(topic: Topic, join_keys: Sequence[JoinKey]) -> bool:
    """Whether all events of an entity are requests of one partition, which their Kafka key decides."""
    if topic.stage != "own" or topic.contract is None:
        return False
    return topic.contract.key_field in {key.name for key in join_keys}
