"""`headrace features …` where nothing runs: what needs no stack, and what is said where one is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from features.compiled_plan import compiled_plan
from features.unit_test import run

ROOT = Path(__file__).parents[2]
FAILING = """
view = "origin_departures"
t0 = "2013-06-01T12:02:00Z"
[[event]]
at = "t0 - 1 min"
origin = "JFK"
dep_delay = 4.0
[[expect]]
at = "t0"
origin = "JFK"
mean_delay_1h = 5.0
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features_commands")


def features(*arguments: str, data: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infra.cli", "features", *arguments],
        cwd=ROOT,
        env={**os.environ, "HEADRACE_DATA_DIR": str(data), "NO_COLOR": "1", **more},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize(
    "verb", ["plan", "apply", "list", "test", "certify", "parity", "show", "rebuild"]
)
def test_every_verb_has_an_example_and_json(verb: str, data: Path) -> None:
    done = features(verb, "--help", data=data, COLUMNS="200")
    assert done.returncode == 0
    assert f"Example: headrace features {verb}" in done.stdout
    assert "--json" in done.stdout


def test_shipped_test_files_pass(data: Path) -> None:
    plan = compiled_plan("flights", data / "features" / "plan.json")
    for path in sorted((ROOT / "features" / "tests").glob("flights_*.toml")):
        assert all(outcome.ok for outcome in run(path, plan)), path.name
    done = features("test", data=data)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed" in done.stdout


def test_a_failing_expectation_shows_what_came_and_exits_with_1(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(FAILING)
    done = features("test", str(path), data=data)
    assert done.returncode == 1
    assert "expected 5, got 4" in done.stdout
    assert '"dep_delay":4.0' in done.stdout
    (told,) = json.loads(features("test", str(path), "--json", data=data).stdout)
    assert (told["ok"], told["expected"], told["got"]) == (False, 5.0, 4.0)


def test_certifying_without_the_stream_is_said_to_be_no_full_certificate(data: Path) -> None:
    done = features(
        *("certify", "--without-stream", "--seeds", "3", "--json", "--view", "origin_departures"),
        data=data,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["full"] is False
    (view,) = told["views"]
    assert (view["view"], view["differences"]) == ("origin_departures", 0)
    assert view["compared"] > 1_000
    kept = json.loads((data / "features/certificates/origin_departures.json").read_text())
    assert kept["executors"] == ["ring", "batch", "reference"]


def test_apply_refuses_what_is_not_certified_where_that_is_demanded(data: Path) -> None:
    done = features("apply", data=data, HEADRACE_FLINK__REQUIRE_CERTIFICATE="true")
    assert done.returncode == 1
    assert "headrace features certify" in done.stderr
    assert not (data / "features" / "plan.json").exists()


def test_plan_tells_the_difference_and_the_cost_where_nothing_runs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    nowhere = {
        "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "HEADRACE_FLINK__REST_PORT": "1",
    }
    done = features("plan", data=data, **nowhere)
    assert done.returncode == 0, done.stderr
    for line in (
        "+ view origin_departures",
        "+ service flights_v1",
        "+ table flights_departures",
        "Kafka does not answer",
        "Flink does not answer",
    ):
        assert line in done.stdout
    told = json.loads(features("plan", "--json", data=data, **nowhere).stdout)
    assert (told["topics"], told["submitted"]) == (None, None)
    assert len(told["diff"]["tables"]) == len(set(told["diff"]["tables"]))
    (origin,) = (cost for cost in told["costs"] if cost["view"] == "origin_departures")
    assert origin["flink_gib_a_million"] == pytest.approx(origin["flink_bytes"] * 1e6 / 2**30, 1e-2)
    assert any("tiles of 300 s" in line for line in origin["arithmetic"])
    assert not data.exists(), "a plan changes nothing"


@pytest.mark.parametrize("verb", [("show", "origin_departures"), ("parity",), ("rebuild", "--yes")])
def test_what_needs_an_applied_plan_says_so(verb: tuple[str, ...], tmp_path: Path) -> None:
    done = features(*verb, data=tmp_path)
    assert done.returncode == 1
    assert "headrace features apply" in done.stderr
