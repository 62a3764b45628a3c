"""`headrace explain` over a real lake and real topics."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from features.lake import Lake
from features.lake_schema import Coordinate, event_table, lake_schema
from features.settings import StoreSettings
from features.views import Plan, Service
from infra.commands.explain import NEVER_SEEN, app
from schemas import topics
from schemas.envelope import headers
from schemas.events import Event
from schemas.quarantine import PREFIX
from schemas.results import Result, Route, Status
from tests.faults import scored
from tests.faults.stage import SERVICE
from tests.pipelines import toy
from tests.serving import model_folders

if TYPE_CHECKING:
    from pathlib import Path

    from schemas.settings import KafkaSettings

CASE = "explained"
VIEW = f"{CASE}_levels"
TRACE = "00-" + "c" * 32 + "-" + "d" * 16 + "-01"


def question(request_id: str) -> toy.Question:
    return toy.Question(event_time_ms=toy.START_MS, request_id=request_id, station="s1")


def result(of: toy.Question, **changes: Any) -> Result:
    made = Result(
        event_time_ms=of.event_time_ms,
        request_id=of.request_id,
        entity=of.key,
        status=Status.SCORED,
        score=0.5,
        label=True,
        model=CASE,
        version="v0001",
        route=Route.CHAMPION,
        epoch=1,
        features={"hour": 1.0, f"{VIEW}__count_level": 2.0, "made__x": None},
        ages_ms={VIEW: 60_000, "other": None},
        read_at_ms=of.event_time_ms,
        scored_at_ms=of.event_time_ms,
        traceparent=TRACE,
    )
    return made.model_copy(update=changes)


def produce(kafka: KafkaSettings, topic: str, event: Event, *more: tuple[str, bytes]) -> None:
    producer = Producer(kafka.client_config())
    said: Any = [*headers(event, source="test", traceparent=TRACE), *more]
    producer.produce(topic, event.encode(), event.key, headers=said)
    assert producer.flush(10) == 0


@pytest.fixture
def stores(tmp_path: Path) -> StoreSettings:
    return StoreSettings(
        catalog_uri=f"sqlite:///{tmp_path}/catalog.db",
        warehouse=f"file://{tmp_path}/warehouse",
        plan_path=str(tmp_path / "plan.json"),
    )


@pytest.fixture
def explain(
    kafka: KafkaSettings, stores: StoreSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """The command over the session's broker, and a lake, a plan and a version of its own."""
    scored.register(CASE)
    topics.apply(kafka, CASE)
    view = toy.view(CASE)
    service = Service(SERVICE, tuple((view.name, a.name) for a in view.aggregates))
    plan = Plan(views=(view,), services=(service,))
    plan.save(stores.plan_path)
    model_folders.write(tmp_path / "models", "v0001", of=CASE, given=plan)
    told = {
        "CASE": CASE,
        "DATA_DIR": str(tmp_path),
        "KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "STORES__CATALOG_URI": stores.catalog_uri,
        "STORES__WAREHOUSE": stores.warehouse,
        "STORES__PLAN_PATH": stores.plan_path,
        "SERVING__MODELS_DIR": str(tmp_path / "models"),
    }
    for name, value in told.items():
        monkeypatch.setenv(f"HEADRACE_{name}", value)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, list(arguments))

    return run


def archive(stores: StoreSettings, topic: str, event: Event, offset: int) -> None:
    lake, row = Lake(stores), topics.table_of(CASE)[topic]
    assert row.contract is not None
    lake.create(row.table, lake_schema(row.contract))
    place = Coordinate(event.event_time_ms, topic, 0, offset)
    lake.append(row.table, event_table(row.contract, [event.model_dump()], [place]))


def test_one_in_the_lake_is_told_whole(explain: Any, stores: StoreSettings) -> None:
    asked = question("q1")
    archive(stores, f"{CASE}.requests", asked, 71)
    archive(stores, f"{CASE}.results", result(asked), 71)
    newest = toy.reading(-60, station="s1")
    archive(stores, f"{CASE}.readings.valid", newest, 12)
    # Two outcomes that contradict each other: the first that was received counts, wherever it lies in the lake.
    for high, offset in ((False, 9), (True, 8)):
        truth = toy.Answer(event_time_ms=toy.START_MS, request_id="q1", high=high)
        archive(stores, f"{CASE}.outcomes.valid", truth, offset)
    done = explain("q1", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["state"], told["trace_id"]) == ("answered", "c" * 32)
    assert told["result"]["place"] == f"{CASE}.results[0]@71"
    assert told["model"]["version"] == "v0001"
    assert told["outcome"]["high"] is True
    of_view = next(one for one in told["features"] if one.get("view") == VIEW)
    assert of_view["age_ms"] == 60_000
    assert of_view["newest_event"] == f"{CASE}.readings.valid[0]@12"
    shown = explain("q1").output
    assert f"{CASE} v0001 (champion) answered 0.5, label True." in shown
    for words in ("the request itself", "made of the others", f"{VIEW}__count_level", "1.0 min"):
        assert words in shown


def test_one_that_fell_back_and_is_not_yet_in_the_lake(explain: Any, kafka: KafkaSettings) -> None:
    asked = question("q2")
    fell: dict[str, Any] = {"status": Status.FALLBACK, "route": Route.RULE}
    fell["reasons"] = ("output_not_finite: 1 of 1",)
    produce(kafka, f"{CASE}.requests.bulk", asked)
    produce(kafka, f"{CASE}.results", result(asked, **fell))
    truth = toy.Answer(event_time_ms=toy.START_MS, request_id="q2", high=True)
    produce(kafka, f"{CASE}.outcomes.valid", truth)
    told = json.loads(explain("q2", "--json").stdout)
    assert told["said"][0].startswith("The rule answered")
    assert told["said"][1] == "Because: output_not_finite: 1 of 1."
    assert told["request"]["place"].startswith(f"{CASE}.requests.bulk[")
    assert told["outcome"]["high"] is True
    assert told["total_ms"] is not None


def test_a_dead_letter_an_expired_a_waiting_one_and_one_that_nobody_has_seen(
    explain: Any, kafka: KafkaSettings
) -> None:
    said = {"reason": b"contract", "rule": b"flight: missing", "topic": b"x.requests"}
    why = [(PREFIX + name, value) for name, value in said.items()]
    produce(kafka, f"{CASE}.requests.dlq", question("q3"), *why)
    told = json.loads(explain("q3", "--json").stdout)
    assert (told["state"], told["dead_letters"][0]["rule"]) == ("dead_lettered", "flight: missing")
    gone: dict[str, Any] = {"status": Status.EXPIRED, "score": None, "label": None}
    gone |= {"features": {}, "ages_ms": {}, "reasons": ("deadline: passed 7 ms before",)}
    produce(kafka, f"{CASE}.results", result(question("q4"), **gone))
    shown = explain("q4").output
    assert "Expired: " in shown
    assert "deadline: passed 7 ms before" in shown
    produce(kafka, f"{CASE}.requests", question("q5"))
    assert "Nobody has answered yet" in explain("q5").output
    never = explain("q6")
    assert never.exit_code == NEVER_SEEN
    assert "never seen" in never.output
