"""SQL and identifiers injected through names and SQL of feature definitions.

Injected: a string that means something to SQL, Kafka, Redis or a path, in each place in turn where a definition takes a
name: view, feature, column, entity, join key, table, topic, service, field of a row view, a column made by row SQL; then
row SQL and entity SQL that reach for files, other tables and second statements. Must hold: each is refused with the place
named, before a topic, a lake table, a registry or a plan is made; the same definition with an honest name compiles; a
quote in a string stays in that string. Does not show: an honest query that is merely expensive, or contracts and use
cases written by somebody hostile, for those are code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from confluent_kafka.admin import AdminClient

from features import row_sql
from features.entity_rows import EntityRowsRefused, entity_rows
from features.lake import Lake
from features.refusal import PlanRefused
from features.settings import StoreSettings
from pipelines import deploy
from pipelines.settings import FlinkSettings
from tests.conftest import stores_at
from tests.faults.stage import Stage

PAYLOADS = (
    "x; DROP TABLE y; --",
    'x"; DROP TABLE y; --',
    "x`) SELECT 1; --",
    "x' OR '1'='1",
    "x\n",
    "x\x00y",
    "../../plan",
    "x/*",
    "{x}",
    "x y",
    "х",  # noqa: RUF001 - Cyrillic, and not the x it looks like
    "${env:HOME}",
)
HONEST = {"table": None, "topic": None, "view": "honest", "column": "level", "join key": "station"}
PER_PLACE = 3
ROW_SQL = (
    "SELECT level AS v FROM read_csv('{secret}')",
    "SELECT level AS v FROM '{secret}'",
    "SELECT level AS v FROM readings; DROP TABLE readings",
    "SELECT (SELECT 1) AS v FROM readings",
    "SELECT level AS v FROM readings, other",
    "SELECT level AS v FROM readings WHERE station IN (SELECT station FROM other)",
    "SELECT getenv('HOME') AS v FROM readings",
    "SELECT level AS v FROM readings UNION ALL SELECT 1",
    "INSERT INTO other SELECT level AS v FROM readings",
)
ENTITY_SQL = (
    "SELECT * FROM read_text('{secret}')",
    "SELECT * FROM '{secret}'",
    "FROM read_csv('{secret}')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT (SELECT max(content) FROM read_text('{secret}')) AS t",
    "WITH a AS (SELECT 1) SELECT * FROM a JOIN read_blob('{secret}') b ON true",
    "COPY (SELECT 1) TO '{made}'",
    "SELECT 1; COPY (SELECT 1) TO '{made}'",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{made}''')",
    "ATTACH '{made}' AS x",
    "SET enable_external_access = true; SELECT * FROM read_text('{secret}')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM sys.path",
    "SELECT * FROM table",
    "SELECT * FROM tree",
)


def run(stage: Stage) -> None:
    """Try every place."""
    stores = stores_at(stage.folder, "redis://127.0.0.1:1/0")
    before = _made(stage, stores)
    definitions = _places(stage)
    stage.inject(
        f"{PER_PLACE} of {len(PAYLOADS)} hostile names in each of {len(definitions)} places"
    )
    for place, definition in definitions.items():
        for payload in stage.dice.sample(PAYLOADS, PER_PLACE):
            refused, said = _applied(stage, stores, partial(definition, payload))
            named = repr(payload)[1:-1] in said and ("view " in said or "service " in said)
            held = refused and (named or said.startswith("Feast: "))
            stage.outcome.check(
                "every hostile name is refused, and its place named", holds=held, came=(place, said)
            )
    _honest(stage, stores, definitions)
    _row_sql(stage, stores)
    stage.outcome.check(
        "nothing was made", holds=_made(stage, stores) == before, came=_made(stage, stores)
    )
    _entity_sql(stage)
    stage.outcome.counts |= {
        "names": len(definitions) * PER_PLACE,
        "queries": len(ROW_SQL) + len(ENTITY_SQL),
    }


def _honest(stage: Stage, stores: StoreSettings, definitions: dict[str, Any]) -> None:
    """The same definitions with honest names: or everything might be refused for another reason."""
    for place, definition in definitions.items():
        name = HONEST.get(place, "honest")
        with _module(stage, definition(name)):
            try:
                deploy.plan(stage.case, stage.rig.kafka, stores, FlinkSettings(rest_port=1))
                said = ""
            except PlanRefused as refused:
                said = str(refused)
        stage.outcome.check("honest names are not refused", holds=not said, came=(place, said))


def _row_sql(stage: Stage, stores: StoreSettings) -> None:
    secret, _ = _secret(stage)
    for text in ROW_SQL:
        sql = text.format(secret=secret)
        refused, said = _applied(stage, stores, partial(_windowed, stage, sql=sql))
        held = refused and "view honest" in said and "its SQL has" in said
        stage.outcome.check("hostile row SQL is refused, and its view named", holds=held, came=said)
    # A string may hold anything printable: what matters is that it ends where it ended.
    for payload in PAYLOADS:
        if payload.isprintable():
            doubled = payload.replace("'", "''")
            rows = row_sql.parse(f"SELECT '{doubled}' AS v FROM x", {"level": "double"})  # noqa: S608
            written = row_sql.flink(rows.select[0][1])
            stage.outcome.check(
                "a string ends where it ended", holds=written == f"'{doubled}'", came=written
            )


def _entity_sql(stage: Stage) -> None:
    secret, word = _secret(stage)
    made = stage.folder / "made"
    lake = Lake(stores_at(stage.folder / "entity", "redis://127.0.0.1:1/0"))
    for text in ENTITY_SQL:
        sql = text.format(secret=secret, made=made, folder=stage.folder)
        try:
            said = f"answered {entity_rows(sql, lake).table.to_pylist()}"
            refused = False
        except EntityRowsRefused as error:
            said, refused = str(error), True
        held = refused and "entity_df" in said and word not in said
        stage.outcome.check("hostile entity SQL is refused", holds=held, came=(sql, said))
    stage.outcome.check("no file was written", holds=not made.exists())


def _secret(stage: Stage) -> tuple[Path, str]:
    word = f"secret{stage.outcome.seed}"
    path = stage.folder / "secret.csv"
    path.write_text(f"level\n{word}\n", encoding="utf-8")
    return path, word


def _made(stage: Stage, stores: StoreSettings) -> tuple[list[str], list[str]]:
    """Topics of features, and files under the stores."""
    names = AdminClient(stage.rig.kafka.client_config()).list_topics(timeout=10).topics
    folders = [Path(stores.plan_path).parent, stage.folder / "lake"]
    files = [str(path) for folder in folders for path in folder.rglob("*")]
    return sorted(n for n in names if n.startswith("features.")), sorted(files)


def _applied(
    stage: Stage, stores: StoreSettings, definitions: Callable[[], list[Any]]
) -> tuple[bool, str]:
    """Whether `apply` refused, and what it said. What Feast itself does not construct was never a definition."""
    try:
        made = definitions()
    except (ValueError, TypeError) as error:
        return True, f"Feast: {error}"
    with _module(stage, made):
        try:
            deploy.apply(stage.case, stage.rig.kafka, stores, FlinkSettings(rest_port=1))
        except PlanRefused as refused:
            return True, str(refused)
        except Exception as error:  # noqa: BLE001 - it came past the list, whatever it met then
            return False, f"{type(error).__name__}: {error}"
    return False, "applied"


@contextmanager
def _module(stage: Stage, definitions: list[Any]) -> Iterator[None]:
    """The definitions as `features.<case>`."""
    module = ModuleType(f"features.{stage.case}")
    module.__spec__ = ModuleSpec(module.__name__, loader=None)
    for position, one in enumerate(definitions):
        setattr(module, f"d{position}", one)
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        del sys.modules[module.__name__]


def _places(stage: Stage) -> dict[str, Callable[[str | None], list[Any]]]:
    """Place → definitions with a name there."""
    return {
        "view": lambda name: _windowed(stage, view=name),
        "feature": lambda name: _windowed(stage, feature=name),
        "column": lambda name: _windowed(stage, column=name),
        "entity": lambda name: _windowed(stage, entity=name),
        "join key": lambda name: _windowed(stage, join_key=name),
        "table": lambda name: _windowed(stage, table=name),
        "topic": lambda name: _windowed(stage, topic=name),
        "service": lambda name: _windowed(stage, service=name),
        "made by row SQL": lambda name: _windowed(
            stage,
            sql='SELECT level AS "{}" FROM x'.format(  # noqa: S608 - hostile on purpose
                str(name).replace('"', '""')
            ),
        ),
        "row view": lambda name: _rows(stage, view=name),
        "row view's field": lambda name: _rows(stage, field=name),
        "row view's join key": lambda name: _rows(stage, join_key=name),
        "row view's entity": lambda name: _rows(stage, entity=name),
        "row view's table": lambda name: _rows(stage, table=name),
    }


def _windowed(stage: Stage, **names: str | None) -> list[Any]:
    from feast import (  # noqa: PLC0415 - ten seconds, for this case alone
        Entity,
        FeatureService,
        Field,
        KafkaSource,
        StreamFeatureView,
    )
    from feast.aggregation import Aggregation  # noqa: PLC0415
    from feast.data_format import JsonFormat  # noqa: PLC0415
    from feast.types import Float64, String  # noqa: PLC0415
    from feast.value_type import ValueType  # noqa: PLC0415

    from features.lake_source import LakeSource  # noqa: PLC0415

    def of(place: str, honest: str) -> str:
        name = names.get(place)
        return honest if name is None else name

    feature, key = of("feature", "mean_level"), of("join_key", "station")
    entity = Entity(name=of("entity", "place"), join_keys=[key], value_type=ValueType.STRING)
    mean = Aggregation(
        column=of("column", "level"),
        function="mean",
        time_window=timedelta(hours=1),
        name=feature,
    )
    source = KafkaSource(
        name="readings",
        topic=of("topic", f"{stage.case}.readings.valid"),
        timestamp_field="event_time",
        message_format=JsonFormat(schema_json=""),
        batch_source=LakeSource(of("table", f"{stage.case}_readings")),
    )
    sql = {"udf_string": names["sql"]} if names.get("sql") else {}
    view = StreamFeatureView(
        name=of("view", "honest"),
        entities=[entity],
        mode="sql",
        source=source,
        timestamp_field="event_time",
        schema=[Field(name=key, dtype=String), Field(name=feature, dtype=Float64)],
        aggregations=[mean],
        **sql,
    )
    return [entity, view, FeatureService(name=of("service", "honest"), features=[view])]


def _rows(stage: Stage, **names: str | None) -> list[Any]:
    from feast import Entity, FeatureView, Field  # noqa: PLC0415 - ten seconds
    from feast.types import Float64, String  # noqa: PLC0415
    from feast.value_type import ValueType  # noqa: PLC0415

    from features.lake_source import LakeSource  # noqa: PLC0415

    key = names.get("join_key") or "station"
    entity = Entity(
        name=names.get("entity") or "place", join_keys=[key], value_type=ValueType.STRING
    )
    view = FeatureView(
        name=names.get("view") or "honest_rows",
        entities=[entity],
        schema=[
            Field(name=key, dtype=String),
            Field(name=names.get("field") or "rating", dtype=Float64),
        ],
        source=LakeSource(names.get("table") or f"{stage.case}_readings"),
    )
    return [entity, view]
