"""Two days of flights through every engine; then, on the stack left up, every command and snippet of the README."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import psutil
import pytest

from features.lake import Lake
from features.rings import Rings
from features.views import JoinKey, Plan
from infra.settings import Settings
from infra.topic_scan import scan
from schemas.client import Client
from schemas.flights import SERVICE, FlightRequest
from schemas.topics import table_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemas.settings import KafkaSettings

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def headrace(arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infra.cli", *arguments.split()],
        cwd=ROOT,
        env={**os.environ, "HEADRACE_DATA_DIR": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def home(jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    os.environ["HEADRACE_JARS"] = str(jars)
    return tmp_path_factory.mktemp("end_to_end")


@pytest.fixture(scope="module")
def summary(home: Path) -> Iterator[dict[str, Any]]:
    days = "demo --keep --json --since 2013-06-01 --until 2013-06-03"
    done = headrace(days, home)
    try:
        assert done.returncode == 0, done.stderr[-5_000:]
        yield json.loads(done.stdout)
    finally:
        headrace("down", home / "demo" / "stack")


@pytest.fixture(scope="module")
def running(summary: dict[str, Any], home: Path) -> Settings:
    assert summary["lost"] == 0
    return Settings.load(data_dir=str(home / "demo" / "stack"))


def test_every_request_has_exactly_one_answer(summary: dict[str, Any]) -> None:
    assert summary["requests"] > 1_000
    assert (summary["duplicates"], summary["lost"]) == (0, 0)
    dead = summary["dead_lettered_by_topic"]["flights.requests.dlq"]
    assert summary["results"] + dead == summary["requests"]
    assert summary["dead_lettered"] >= 50
    assert summary["statuses"]["scored"] > 0.95 * summary["results"]


def test_every_served_value_is_explained(summary: dict[str, Any]) -> None:
    parity = summary["parity"]
    assert parity["compared"] > 10_000
    assert parity["unexplained"] == 0, parity["unexplained_examples"]
    assert parity["equal"] > 0.5 * parity["compared"]


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    "command",
    [
        "features plan",
        "features apply",
        "features list",
        "features test features/tests/flights_origin.toml",
        "features show origin_departures",
        "features certify",
        "features parity",
        "features parity --since 12h",
        "up",
        "status --json",
        "models list",
        "models keys list",
        "models registry",
        "models sbom v0001",
        "models sign v0001 --reason again",
        "models verify v0001",
        "models card v0001",
        "release list",
        "release pin --key N14228 v0001",
        "release pin --key N14228 --off",
        "release list --history 10",
        "audit",
        "accuracy",
        "audit verify",
        "loop status",
        "loop pause --reason holidays --until 2d",
        "loop resume",
        "reports",
        "reports --json",
        "accuracy --by week,version,carrier",
        "replay --from 12h",
        "topics list",
        "topics grow",
        "schemas check",
        "logs scorer",
    ],
)
def test_a_command_of_the_readme_works_on_the_stack(command: str, home: Path) -> None:
    done = headrace(command, home / "demo" / "stack")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


@pytest.mark.usefixtures("running")
def test_requirements_are_checked_with_evidence(home: Path) -> None:
    done = headrace("requirements check --json", home / "demo" / "stack")
    told = {one["requirement"]: one for one in json.loads(done.stdout)["requirements"]}
    assert done.returncode in (0, 1, 2), done.stderr
    assert told["availability.share"]["rows"] > 1_000
    assert told["availability.share"]["value"] > 0.99
    assert told["latency.p95_ms"]["rows"] > 1_000
    assert any(name.startswith("freshness.") for name in told)


def test_a_decision_is_explained_from_the_lake(running: Settings, home: Path) -> None:
    (table,) = {t.table for t in table_of(running.case).values() if t.name.endswith(".results")}
    ids = Lake(running.stores).scan(table, columns=("request_id",))["request_id"]
    done = headrace(f"explain {ids[len(ids) // 2].as_py()} --json", home / "demo" / "stack")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["state"] == "answered"
    assert told["timings_us"].keys() >= {"queue", "read", "predict"}
    assert told["model"]["version"] == told["result"]["version"]
    assert any(one.get("newest_event") for one in told["features"])
    assert headrace("explain nobody", home / "demo" / "stack").returncode == 3


def test_doctor_finds_this_machine_fit(home: Path) -> None:
    done = headrace("doctor", home)
    assert done.returncode == 0, done.stdout


def test_status_names_one_running_job_a_view(running: Settings, home: Path) -> None:
    status = json.loads(headrace("status --json", home / "demo" / "stack").stdout)
    assert status["healthy"]
    plan = json.loads(Path(running.stores.plan_path).read_text())
    jobs = [job["name"] for job in status["flink_jobs"] if job["state"] == "RUNNING"]
    assert len(jobs) == len(plan["views"])
    for view in plan["views"]:
        assert sum(f"features.{view['name']}" in job for job in jobs) == 1


def test_feast_answers_what_the_scorer_used(running: Settings) -> None:
    """The client asks about a live aircraft at the stream's clock; Feast reads as of the same clock."""
    from features.feast_store import feature_store  # noqa: PLC0415 - Feast takes ten seconds

    stores = running.stores.model_copy(update={"clock": "stream"})
    clock_ms = Rings(stores).clock()
    assert clock_ms is not None
    departure = json.loads(last_value(running.kafka, "flights.departures.valid"))
    request = FlightRequest(
        request_id="end-to-end-1",
        event_time_ms=clock_ms,
        distance_miles=1_000.0,
        scheduled_hour=12,
        scheduled_weekday=0,
        **{k: departure[k] for k in ("carrier", "flight", "tailnum", "origin", "dest")},
    )
    with Client(running.kafka, case="flights") as client:
        result = client.ask(request, timeout_s=30)
    store = feature_store(stores)
    entity = {k.name: getattr(request, k.name) for k in _join_keys(running)}
    served = store.get_online_features(
        features=store.get_feature_service(SERVICE), entity_rows=[entity], full_feature_names=True
    ).to_dict()
    compared = 0
    for name, value in result.features.items():
        if "__" in name:
            compared += 1
            online = served[name][0]
            missing = value is None
            assert (
                (online is None or pd.isna(online)) if missing else online == pytest.approx(value)
            )
    assert compared >= 10


def _join_keys(running: Settings) -> tuple[JoinKey, ...]:
    return Plan.load(running.stores.plan_path).join_keys(SERVICE)


def last_value(kafka: KafkaSettings, topic: str) -> bytes:
    messages = list(scan(kafka, topic))
    return max(messages, key=lambda m: m.timestamp()[1]).value() or b""


def test_the_lake_is_read_by_others_alone(running: Settings) -> None:
    results = Lake(running.stores).scan("flights_results")  # noqa: F841 - DuckDB reads the local
    [counted] = duckdb.sql("SELECT count(*), count(DISTINCT request_id) FROM results").fetchall()
    assert counted[0] == counted[1] > 1_000


@pytest.mark.usefixtures("summary")
def test_the_snippets_of_the_readme_run(running: Settings) -> None:
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        exec(snippet, {"BOOTSTRAP_SERVERS": running.kafka.bootstrap_servers})  # noqa: S102


def test_the_first_request_is_answered_each_of_its_ways(running: Settings) -> None:
    page = (ROOT / "docs" / "first-request.md").read_text()
    for snippet in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(snippet, {"BOOTSTRAP_SERVERS": running.kafka.bootstrap_servers})  # noqa: S102
    [asked] = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    asked = asked.replace("localhost:8000", f"127.0.0.1:{running.serving.http_port}")
    done = subprocess.run(["/bin/bash", "-c", asked], capture_output=True, text=True, check=True)
    [shown] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    answer, told = json.loads(done.stdout), json.loads(shown)
    assert [(o["name"], o["datatype"]) for o in answer["outputs"]] == [
        (o["name"], o["datatype"]) for o in told["outputs"]
    ]
    assert answer["outputs"][1]["data"] == ["scored"]


def test_the_snippet_about_points_in_time_runs(
    running: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_DATA_DIR", running.data_dir)
    page = (ROOT / "docs" / "point-in-time.md").read_text()
    [snippet] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(snippet, names)  # noqa: S102
    happened, known = (names[of]["count_delay_1h"] for of in ("happened", "known"))
    assert len(happened) == len(known) > 1_000
    # What had arrived is a part of what had happened.
    assert (happened >= known).all()


def test_reports_lie_where_the_readme_says(home: Path, summary: dict[str, Any]) -> None:
    assert summary["lake"]["flights_results"] == summary["results"]
    assert (home / "demo" / "summary.json").exists()


def test_down_leaves_no_process(running: Settings, home: Path) -> None:
    done = headrace("down", home / "demo" / "stack")
    assert done.returncode == 0, done.stderr
    left = [p for p in psutil.process_iter(["cmdline"]) if _of(p, running.data_dir)]
    assert left == []


def _of(process: psutil.Process, data_dir: str) -> bool:
    return any(data_dir in part for part in process.info["cmdline"] or ())
