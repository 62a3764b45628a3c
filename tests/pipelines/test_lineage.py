from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from features.settings import StoreSettings
from features.views import View
from pipelines.flink_sql import Job
from pipelines.lineage import FILE, TrainingRun, jobs_ended, jobs_started
from schemas.manifest import Manifest, Trained
from schemas.settings import KafkaSettings

WAREHOUSE = "file:///lake"
BY_HAND = "c0ffee00-0000-4000-8000-000000000000"


def stores(folder: Path | None = None, url: str | None = None) -> StoreSettings:
    return StoreSettings(
        warehouse=WAREHOUSE, lineage_dir=str(folder) if folder else None, lineage_url=url
    )


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def made() -> Manifest:
    return Manifest(
        model="toy",
        version="v0002",
        case="toy",
        service="s",
        inputs=(),
        definitions={},
        contract="",
        threshold=0.5,
        trained=Trained(since_ms=0, until_ms=1, rows=1, label_rate=0.5),
        snapshots={},
        metrics={},
        parameters={},
        seed=1,
        code="",
        lock="",
        created_ms=0,
        files={},
    )


def test_a_training_says_what_it_read_and_made(tmp_path: Path) -> None:
    run = TrainingRun(stores(tmp_path / "lineage"), "toy", "order-1")
    run.begin({"toy_requests": 12345678901234567})
    run.complete(made(), tmp_path / "models")
    start, complete = events(tmp_path / "lineage")
    assert [start["eventType"], complete["eventType"]] == ["START", "COMPLETE"]
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert start["job"]["name"] == "toy.training"
    (read,) = start["inputs"]
    assert (read["namespace"], read["name"]) == (WAREHOUSE, "toy_requests")
    assert read["facets"]["version"]["datasetVersion"] == "12345678901234567"
    (written,) = complete["outputs"]
    assert (written["namespace"], written["name"]) == (f"file://{tmp_path}/models", "toy")
    assert written["facets"]["version"]["datasetVersion"] == "v0002"
    assert start["run"]["facets"]["parent"]["job"]["name"] == "order-1"


def test_a_training_that_failed_says_why(tmp_path: Path) -> None:
    run = TrainingRun(stores(tmp_path), "toy", None)
    run.begin({})
    run.fail("there are none")
    assert events(tmp_path)[1]["eventType"] == "FAIL"
    assert events(tmp_path)[1]["run"]["facets"]["errorMessage"]["message"] == "there are none"


def test_all_attempts_at_an_order_are_one_run_and_a_training_by_hand_is_one_of_its_own(
    tmp_path: Path,
) -> None:
    told = stores(tmp_path)
    for run in (
        TrainingRun(told, "toy", "order-1", "a"),
        TrainingRun(told, "toy", "order-1", "b"),
        TrainingRun(told, "toy", "order-2"),
        TrainingRun(told, "toy", None, BY_HAND),
        TrainingRun(told, "toy", None),
    ):
        run.abort("refused")
    assert {event["eventType"] for event in events(tmp_path)} == {"ABORT"}
    first, again, other, by_hand, unnamed = (e["run"]["runId"] for e in events(tmp_path))
    assert first == again
    assert by_hand == BY_HAND
    assert len({first, other, by_hand, unnamed}) == 4


def test_a_feature_job_leads_from_its_topic_to_its_tiles(tmp_path: Path) -> None:
    view = View("delays", "toy.rows.valid", "toy_rows", "event_id", (), {}, ())
    kafka = KafkaSettings(bootstrap_servers="broker:9092,other:9092")
    job = Job(view.versioned, {}, (), ())
    jobs_started(stores(tmp_path), kafka, [view], [job])
    jobs_ended(stores(tmp_path), [job.name])
    start, end = events(tmp_path)
    assert start["job"]["facets"]["jobType"]["processingType"] == "STREAMING"
    assert [d["namespace"] for d in (*start["inputs"], *start["outputs"])] == [
        "kafka://broker:9092"
    ] * 2
    assert start["inputs"][0]["name"] == view.topic
    assert start["outputs"][0]["name"] == view.topic_out
    assert (end["eventType"], end["run"]["runId"]) == ("COMPLETE", start["run"]["runId"])


@pytest.fixture
def collector() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address that events are posted to."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()
        thread.join()


def test_an_address_is_told_as_well(
    tmp_path: Path, collector: tuple[str, list[dict[str, Any]]]
) -> None:
    url, got = collector
    TrainingRun(stores(tmp_path, url), "toy", None).begin({})
    assert got == events(tmp_path)


def test_what_cannot_be_told_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    TrainingRun(stores(tmp_path, "http://127.0.0.1:1"), "toy", None).begin({})
    TrainingRun(stores(), "toy", None).begin({})
