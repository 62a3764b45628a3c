from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from feast import Entity, FeatureService, FeatureView, Field, KafkaSource, StreamFeatureView
from feast.aggregation import Aggregation
from feast.data_format import JsonFormat
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

from features.compiler import compile_repo
from features.lake_source import LakeSource
from features.refusal import PlanRefused
from features.views import View
from schemas.events import Event
from schemas.topics import Topic

HOUR = timedelta(hours=1)


class Reading(Event):
    id_field: ClassVar[str] = "reading_id"

    reading_id: str
    sensor: str
    line: int
    value: float | None
    ok: bool


TOPICS = {"lab.readings.valid": Topic("lab.readings.valid", Reading, "sensor", stage="valid")}
sensor = Entity(name="sensor", join_keys=["sensor"], value_type=ValueType.STRING)


def source(topic: str = "lab.readings.valid", table: str = "lab_readings") -> KafkaSource:
    return KafkaSource(
        name="readings",
        topic=topic,
        timestamp_field="event_time",
        message_format=JsonFormat(schema_json=""),
        batch_source=LakeSource(table),
    )


def view(*aggregations: Aggregation, **options: Any) -> StreamFeatureView:
    names = [a.resolved_name(a.time_window) for a in aggregations]
    given: dict[str, Any] = {
        "name": "readings",
        "entities": [sensor],
        "mode": "sql",
        "source": source(),
        "timestamp_field": "event_time",
        "schema": [
            Field(name="sensor", dtype=String),
            *(Field(name=n, dtype=Float64) for n in names),
        ],
        "aggregations": list(aggregations),
    }
    return StreamFeatureView(**(given | options))


def repo(*definitions: Any) -> ModuleType:
    module = ModuleType("lab")
    for position, definition in enumerate((sensor, *definitions)):
        setattr(module, f"d{position}", definition)
    return module


def compiled(definition: StreamFeatureView) -> View:
    return compile_repo(repo(definition), TOPICS).plan.views[0]


def mean(window: timedelta = HOUR, **options: Any) -> Aggregation:
    return Aggregation(column="value", function="mean", time_window=window, **options)


def test_a_view_compiles_to_what_executors_need() -> None:
    found = compiled(view(mean()))
    assert (found.topic, found.table, found.topic_out) == (
        "lab.readings.valid",
        "lab_readings",
        f"features.readings.{found.version}",
    )
    assert found.event_id_field == "reading_id"
    assert found.columns == {"sensor": "string", "reading_id": "string", "value": "double"}
    assert [a.name for a in found.aggregates] == ["mean_value_3600s"]


@pytest.mark.parametrize(
    ("slide", "tiling", "hop_s"),
    [
        (None, None, 300),
        (None, timedelta(minutes=10), 600),
        (timedelta(minutes=30), timedelta(minutes=10), 1800),
        (HOUR, timedelta(minutes=10), 600),
    ],
)
def test_the_hop_is_feasts(slide: timedelta | None, tiling: timedelta | None, hop_s: int) -> None:
    definition = view(mean(slide_interval=slide), tiling_hop_size=tiling, enable_tiling=True)
    assert compiled(definition).aggregates[0].hop_s == hop_s


def test_synonyms_are_understood_and_keep_their_names() -> None:
    asked = Aggregation(column="value", function="stddev", time_window=HOUR)
    found = compiled(view(asked)).aggregates[0]
    assert (found.name, found.function) == ("stddev_value_3600s", "std")


def test_a_string_may_be_counted() -> None:
    asked = Aggregation(column="sensor", function="count", time_window=HOUR, name="n")
    assert compiled(view(asked)).columns["sensor"] == "string"


def test_keys_of_integers_and_of_two_columns() -> None:
    line = Entity(name="line", join_keys=["line"], value_type=ValueType.INT64)
    schema = [
        Field(name="sensor", dtype=String),
        Field(name="line", dtype=Int64),
        Field(name="mean_value_3600s", dtype=Float64),
    ]
    definition = view(mean(), entities=[sensor, line], schema=schema)
    found = compile_repo(repo(line, definition), TOPICS).plan.views[0]
    assert [(k.name, k.type) for k in found.join_keys] == [("sensor", "string"), ("line", "bigint")]


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        (view(mean(timedelta(minutes=7))), "multiple of its hop"),
        (view(mean(timedelta(seconds=300.5))), "whole seconds"),
        (view(mean(timedelta(days=30))), "at most 1000 hops"),
        (view(Aggregation(column="value", function="mean", name="m")), "a time_window"),
        (view(Aggregation(column="value", function="median", time_window=HOUR)), "'median'"),
        (
            view(Aggregation(column="value", function="count_distinct", time_window=HOUR)),
            "is a double",
        ),
        (view(Aggregation(column="nothing", function="sum", time_window=HOUR)), "'nothing'"),
        (view(Aggregation(column="ok", function="sum", time_window=HOUR)), "'ok'"),
        (view(Aggregation(column="sensor", function="last", time_window=HOUR)), "is a string"),
        (view(mean(name="Mean Value")), "'Mean Value'"),
        (view(mean(name="m"), mean(name="m")), "'m' is there twice"),
        (view(), "it names no features"),
        (view(mean(), name="Bad-Name"), "'Bad-Name'"),
        (view(mean(), ttl=timedelta(minutes=1)), "ttl of at least"),
        (view(mean(), timestamp_field="at"), "it is 'at'"),
        (view(mean(), source=source(topic="lab.other")), "'lab.other'"),
        (view(mean(), source=source(table="lab_other")), "LakeSource('lab_readings')"),
        (view(mean(), entities=[]), "an entity"),
        (view(mean(), schema=[Field(name="other", dtype=Float64)]), "a schema of exactly"),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_reason(
    definition: StreamFeatureView, reason: str
) -> None:
    with pytest.raises(PlanRefused) as refused:
        compile_repo(repo(definition), TOPICS)
    text = [str(r) for r in refused.value.refusals]
    assert any(reason in line for line in text), text
    assert all(r.where.startswith("view ") for r in refused.value.refusals)


def test_every_reason_comes_at_once() -> None:
    first = view(mean(timedelta(minutes=7)))
    second = view(mean(), name="other", ttl=timedelta(minutes=1))
    with pytest.raises(PlanRefused) as refused:
        compile_repo(repo(first, second), TOPICS)
    assert len(refused.value.refusals) == 2


def test_a_service_may_only_name_what_runs() -> None:
    good, bad = view(mean()), view(mean(timedelta(minutes=7)), name="bad")
    with pytest.raises(PlanRefused) as refused:
        compile_repo(repo(good, bad, FeatureService(name="s", features=[good, bad])), TOPICS)
    assert any(r.where == "service s" for r in refused.value.refusals)


def test_a_service_keeps_the_order_and_the_choice_of_its_features() -> None:
    definition = view(mean(name="a"), mean(name="b"), mean(name="c"))
    service = FeatureService(name="s", features=[definition[["c", "a"]]])
    plan = compile_repo(repo(definition, service), TOPICS).plan
    assert plan.service("s").names == ("readings__c", "readings__a")


def test_row_level_sql_makes_the_columns_that_are_aggregated() -> None:
    sql = "SELECT value * 100 AS cents FROM readings WHERE line > 1"
    asked = Aggregation(column="cents", function="sum", time_window=HOUR, name="cents_1h")
    found = compiled(view(asked, udf_string=sql))
    assert found.columns == {"sensor": "string", "reading_id": "string", "cents": "double"}
    assert set(found.source_columns) == {"sensor", "reading_id", "value", "line"}
    assert found.fingerprint != compiled(view(mean(name="cents_1h"))).fingerprint


HOSTILE = (
    "x; DROP TABLE y",
    "x` --",
    "x' OR '1'='1",
    "../x",
    "x\n",
    "\u0445",
)  # The last is Cyrillic.


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_mean_something_elsewhere_are_refused_wherever_they_stand(name: str) -> None:
    entity = Entity(name=name, join_keys=["sensor"], value_type=ValueType.STRING)
    named = view(mean(), name="named", entities=[entity])
    row_key = Entity(name="row_key", join_keys=[name], value_type=ValueType.STRING)
    rows = FeatureView(
        name="rows",
        entities=[row_key],
        schema=[Field(name="rating", dtype=Float64)],
        source=LakeSource(f"lab_{name}"),
    )
    good = view(mean())
    service = FeatureService(name=name, features=[good])
    with pytest.raises(PlanRefused) as refused:
        compile_repo(repo(good, entity, named, row_key, rows, service), TOPICS)
    said = [(r.where, r.came) for r in refused.value.refusals]
    assert said == [
        ("view named", f"it is {name!r}"),
        ("view rows", f"it is {f'lab_{name}'!r}"),
        ("view rows", f"{name!r} is not one"),
        (f"service {name}", f"it is {name!r}"),
    ]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT LOWER(sensor) AS value FROM readings", "LOWER(sensor)"),
        ("SELECT value FROM readings; DROP TABLE readings", "DROP TABLE readings"),
        ("SELECT value AS reading_id FROM readings", "'reading_id'"),
        ('SELECT value AS "x; DROP TABLE y" FROM readings', "DROP TABLE y"),
    ],
)
def test_row_level_sql_outside_the_subset_is_refused(sql: str, reason: str) -> None:
    with pytest.raises(PlanRefused, match="view readings") as refused:
        compile_repo(repo(view(mean(), udf_string=sql)), TOPICS)
    assert any(reason in str(r) for r in refused.value.refusals)


def test_a_function_is_refused_because_feast_would_pickle_it() -> None:
    with pytest.raises(PlanRefused, match="pickle"):
        compile_repo(repo(view(mean(), mode="python", udf=lambda rows: rows)), TOPICS)


def test_a_refusal_names_the_line_of_the_definition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "from datetime import timedelta",
        "from tests.features.test_compiler import mean, view",
        "",
        "readings = view(mean(timedelta(minutes=7)))",
    ]
    (tmp_path / "lined").mkdir()
    (tmp_path / "lined" / "lab.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PlanRefused) as refused:
        compile_repo(import_module("lined.lab"), TOPICS)
    assert all(str(r).startswith("lined/lab.py:4: view readings") for r in refused.value.refusals)
