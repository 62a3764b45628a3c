"""Where a decision is looked for: the lake first, then what is not yet in it on the topics, then the dead letters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from confluent_kafka import KafkaException

from features.answers import RECEIVED
from features.lake import Lake, NoSuchLakeTable
from features.lake_schema import LAKE_COLUMNS
from features.views import Plan, PlanUnreadable
from infra.decision import Behind, Decision, Letter, Record
from infra.topic_scan import told
from schemas import topics, usecase
from schemas.control import Release
from schemas.envelope import header
from schemas.errors import HeadraceError
from schemas.quarantine import PREFIX
from schemas.results import Result
from serving.manifest import ModelRefused
from serving.registry import Registry, UnknownVersion

if TYPE_CHECKING:
    from pathlib import Path

    from confluent_kafka import Message

    from features.settings import StoreSettings
    from schemas.events import Event
    from schemas.manifest import Manifest
    from schemas.settings import KafkaSettings
    from schemas.topics import Topic

# Of a refused value, which may be a megabyte, as much as a person reads.
VALUE_CHARS_MAX = 2_000


class TopicsUnreadable(HeadraceError):
    """What is not yet in the lake cannot be read."""


class Search:
    """Looks a request id up wherever it may be.

    Args:
        kafka: The cluster.
        stores: The lake and the plan.
        models_dir: Where versions lie.
        case: The use case.
        progress: Told what is being read.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        stores: StoreSettings,
        models_dir: Path,
        case: str,
        progress: Callable[[str], None],
    ) -> None:
        self._kafka, self._case, self._progress = kafka, case, progress
        self._plan_path = stores.plan_path
        self._lake = Lake(stores)
        self._registry = Registry(models_dir)
        self._contracts = usecase.load("schemas", case)
        self._table = topics.table_of(case)

    def find(self, request_id: str) -> Decision | None:
        """Everything there is; None where nobody has ever seen the id, or all of it is gone."""
        result = self._one([self._table[f"{self._case}.results"]], request_id)
        asked = topics.lanes(self._case)
        request = self._one(asked, request_id)
        letters = [one for topic in asked for one in self._letters(topic, request_id)]
        if result is None and request is None and not letters:
            return None
        outcomes = [self._table[f"{self._case}.outcomes{topics.VALID_SUFFIX}"]]
        answer = result.event if result else None
        return Decision(
            request_id,
            self._case,
            request=request,
            result=result,
            letters=letters,
            outcome=self._one(outcomes, request_id),
            release=self._release(answer.epoch) if isinstance(answer, Result) else None,
            model=self._model(answer) if isinstance(answer, Result) else None,
            behind=self._behind(request, answer) if isinstance(answer, Result) else (),
        )

    def _one(self, places: list[Topic], request_id: str) -> Record | None:
        """The record of that id that was received first, on topics that share a lake table."""
        table = places[0].table
        self._progress(f"looking into {table}")
        try:
            committed = self._lake.committed(table)
            rows = self._lake.scan(table, equal={"request_id": request_id})
        except NoSuchLakeTable:
            committed, rows = {}, None
        if rows is not None and len(rows):
            return self._of_lake(places[0], rows)
        for topic in places:
            begin = {p: offset for (name, p), offset in committed.items() if name == topic.name}
            for message in self._read(topic.name, begin):
                if _is(message, request_id):
                    found = self._of_kafka(topic, message)
                    if found is not None:
                        return found
        return None

    def _read(self, topic: str, begin: Mapping[int, int] | None = None) -> Any:  # noqa: ANN401 - a generator
        """The topic's records, with a word on how far it is."""
        try:
            yield from told(self._kafka, topic, self._progress, begin)
        except KafkaException as error:
            raise TopicsUnreadable(
                f"topic {topic} on {self._kafka.bootstrap_servers}",
                wanted="what the lake does not hold yet, and the dead letters",
                came=str(error.args[0]),
                mend="Is the broker up (`headrace status`)?",
            ) from error

    def _of_lake(self, topic: Topic, rows: pa.Table) -> Record | None:
        received = rows.sort_by([(name, "ascending") for name in RECEIVED])
        row = received.slice(0, 1).to_pylist()[0]
        place = _place(row["kafka_topic"], row["kafka_partition"], row["kafka_offset"])
        event = _event(topic, rows.schema, row)
        return Record(event, place, row["ingest_ms"], in_lake=True) if event else None

    def _of_kafka(self, topic: Topic, message: Message) -> Record | None:
        """None for a record that its contract refuses: its dead letter tells more."""
        if topic.contract is None:
            return None
        try:
            event = topic.contract.model_validate_json(message.value() or b"")
        except ValueError:
            return None
        ingest_ms = message.timestamp()[1]
        parent = header(message, "traceparent")
        return Record(event, _where(message), ingest_ms, in_lake=False, traceparent=parent)

    def _letters(self, topic: Topic, request_id: str) -> list[Letter]:
        return [_letter(m) for m in self._read(topic.dlq) if _is(m, request_id)]

    def _release(self, epoch: int) -> Release | None:
        """The release in force then; the topic itself keeps only the newest, the lake keeps all."""
        topic = self._table["control.releases"]
        try:
            rows = self._lake.scan(topic.table, equal={"epoch": epoch, "case": self._case})
        except NoSuchLakeTable:
            return None
        if not len(rows):
            return None
        found = _event(topic, rows.schema, rows.slice(0, 1).to_pylist()[0])
        return found if isinstance(found, Release) else None

    def _model(self, answer: Result) -> Manifest | None:
        try:
            return self._registry.manifest(answer.model, answer.version)
        except (UnknownVersion, ModelRefused):
            return None

    def _behind(self, request: Record | None, answer: Result) -> list[Behind]:
        """Each view's newest event, found in the lake by its entity and its time."""
        try:
            keys = _keys(Plan.load(self._plan_path))
        except PlanUnreadable:
            keys = {}
        found = []
        for view, age_ms in answer.ages_ms.items():
            place = None
            if view in keys and request is not None and age_ms is not None:
                table, columns = keys[view]
                entity = {c: getattr(request.event, name, None) for name, c in columns.items()}
                self._progress(f"looking for the newest event of {view}")
                place = self._newest(table, entity, answer.event_time_ms - age_ms)
            found.append(Behind(view, age_ms, place))
        return found

    def _newest(self, table: str, entity: Mapping[str, Any], at_ms: int) -> str | None:
        """Where an entity's event of that instant lies; None where the lake cannot tell."""
        columns = ("kafka_topic", "kafka_partition", "kafka_offset")
        # A key that a view's SQL makes is no column of its table.
        if None in entity.values() or not self._has(table, {*entity, *columns, "event_time_ms"}):
            return None
        rows = self._lake.scan(
            table, since_ms=at_ms, until_ms=at_ms + 1, equal=entity, columns=columns
        ).to_pylist()
        return _place(*(rows[-1][name] for name in columns)) if rows else None

    def _has(self, table: str, columns: set[str]) -> bool:
        try:
            return columns <= set(self._lake.schema(table).names)
        except NoSuchLakeTable:
            return False


def _keys(plan: Plan) -> dict[str, tuple[str, dict[str, str]]]:
    """View → its lake table, and for each join key the table's column."""
    windows = {v.name: (v.table, {k.name: k.name for k in v.join_keys}) for v in plan.views}
    rows = {
        v.name: (v.table, {k: v.columns.get(k, k) for k in v.join_keys}) for v in plan.row_views
    }
    return windows | rows


def _event(topic: Topic, schema: pa.Schema, row: Mapping[str, Any]) -> Event | None:
    """A lake row as its event again; a column that its contract gained later may be null."""
    lake = {field.name for field in LAKE_COLUMNS}
    values = {}
    for name in (one for one in schema.names if one not in lake):
        value, kind = row[name], schema.field(name).type
        if value is not None:
            values[name] = dict(value) if pa.types.is_map(kind) else value
        elif not (pa.types.is_map(kind) or pa.types.is_list(kind)):
            values[name] = None
    contract = topic.contract
    # By way of JSON, because a contract is strict and knows no lists where it has tuples.
    return contract.model_validate_json(json.dumps(values)) if contract else None


def _is(message: Message, request_id: str) -> bool:
    """By its header, or where that is missing by its value, which need not even be JSON."""
    said = header(message, "ce_id")
    if said == request_id:
        return True
    value = message.value() or b""
    text = value if isinstance(value, bytes) else value.encode()
    return json.dumps(request_id).encode() in text and b'"request_id"' in text


def _letter(message: Message) -> Letter:
    said = {
        name: header(message, PREFIX + name) or ""
        for name in ("reason", "rule", "detail", "topic", "partition", "offset")
    }
    value = message.value() or b""
    text = value if isinstance(value, str) else value.decode("utf-8", "replace")
    return Letter(
        place=_where(message),
        origin=_place(said["topic"], said["partition"], said["offset"]),
        reason=said["reason"],
        rule=said["rule"],
        detail=said["detail"],
        ingest_ms=message.timestamp()[1],
        traceparent=header(message, "traceparent"),
        value=text[:VALUE_CHARS_MAX],
    )


def _where(message: Message) -> str:
    return _place(message.topic(), message.partition(), message.offset())


def _place(topic: object, partition: object, offset: object) -> str:
    return f"{topic}[{partition}]@{offset}" if topic else "history"
