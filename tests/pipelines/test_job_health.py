"""What is told of a job that really runs: how far it is behind its stream, and which events came late."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

from features.views import Plan
from infra.local import process
from infra.local.flink import FlinkCluster
from pipelines import intake
from pipelines.flink_jobs import submit
from pipelines.flink_sql import job
from pipelines.job_health import JobHealth, job_health
from pipelines.job_lag import committed_lag_events
from pipelines.settings import FlinkSettings
from schemas import topics
from schemas.worker import WorkerContext
from tests.pipelines import toy
from tests.pipelines.records import committed, eventually, produce, produce_events

if TYPE_CHECKING:
    from pathlib import Path

    from schemas.settings import KafkaSettings

CASE = "behind"
BACKLOG = 100_000
PORTION = 50_000
LATENESS_S = 3_600
# The view's hop is 300 s and its longest window six hours.
NEWEST_S = 30_000
LATE_S = (NEWEST_S - 400, NEWEST_S - 25_000)
TOO_LATE_S = (NEWEST_S - 26_000, 0)


@pytest.mark.parametrize(
    ("name", "view"),
    [
        ("features.levels [0123456789ab]", "levels"),
        ("features.levels.01234567 [0123456789ab]", "levels"),
        ("somebody's own", None),
        ("features.a", None),
    ],
)
def test_a_job_names_its_view(name: str, view: str | None) -> None:
    assert JobHealth("1", name, "RUNNING", 0).view == view


@pytest.mark.nightly
@pytest.mark.slow
def test_a_backlog_is_told_until_it_is_worked_off(
    kafka: KafkaSettings, jars: Path, tmp_path: Path
) -> None:
    toy.register(CASE)
    view = toy.view(CASE)
    topics.apply(kafka, CASE)
    topics.create(kafka, [topics.tile_topic(view.topic_out)])
    value = toy.reading(0).encode()
    for _ in range(BACKLOG // PORTION):
        produce(kafka, view.topic, ((f"s{n % 7}", value) for n in range(PORTION)))
    connector = next((jars / "flink").glob("flink-sql-connector-kafka-*.jar"))
    cluster = FlinkCluster(
        tmp_path, connector, rest_port=process.free_port(), rpc_port=process.free_port(), slots=2
    )
    flink = FlinkSettings(
        rest_port=cluster.rest_port, connector_jar=str(connector), checkpoint_interval_s=1
    )
    mine = job(view, kafka, flink)
    jobmanager, taskmanager = cluster.engines()

    def _told() -> int | None:
        (health,) = job_health(flink)
        return health.lag_events

    def _committed() -> int | None:
        return committed_lag_events(kafka, view.topic_out, view.topic)

    assert _committed() == BACKLOG
    with jobmanager, taskmanager:
        submit([mine], flink)
        eventually(lambda: _told() == 0)
        eventually(lambda: _committed() == 0)
        (health,) = job_health(flink)
        assert health.group == view.topic_out
    # Nobody runs it any more: what comes now lies beyond its last checkpoint.
    produce(kafka, view.topic, [("s1", value)] * 100)
    assert _committed() == 100
    nowhere = kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1"})
    assert committed_lag_events(nowhere, view.topic_out, view.topic) is None


def test_late_events_are_counted_by_view_once_they_passed(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    case = toy.register("lateness")
    view = toy.view(case)
    topics.apply(kafka, case)
    plan_path = tmp_path / "plan.json"
    Plan((view,)).save(plan_path)
    events = [toy.reading(i, station="s1") for i in range(0, NEWEST_S + 1, 100)]
    late = [toy.reading(i, station="s1") for i in (*LATE_S, *TOO_LATE_S, NEWEST_S - 300)]
    produce_events(kafka, f"{case}.readings", [*events, *late])
    produce(kafka, f"{case}.readings", [("s1", b"{")])
    report: dict[str, object] = {}
    stop = threading.Event()
    ctx = WorkerContext(case, stop, report.update)
    thread = threading.Thread(target=intake.run, args=(ctx, kafka, str(plan_path), LATENESS_S))
    thread.start()
    try:
        eventually(lambda: report.get("accepted") == len(events) + len(late))
        assert report[f"late.{view.name}"] == len(LATE_S) + len(TOO_LATE_S)
        assert report[f"too_late.{view.name}"] == len(TOO_LATE_S)
        # A view that is added meanwhile is counted for from then on.
        more = msgspec.structs.replace(view, name="more_levels")
        Plan((view, more)).save(plan_path)
        eventually(lambda: report.get("late.more_levels") == 0)
        produce_events(kafka, f"{case}.readings", [toy.reading(0, station="s1")])
        eventually(lambda: report.get("too_late.more_levels") == 1)
        assert report[f"too_late.{view.name}"] == len(TOO_LATE_S) + 1
    finally:
        stop.set()
        thread.join()
    # Late is not lost.
    assert len(committed(kafka, view.topic)) == len(events) + len(late) + 1
