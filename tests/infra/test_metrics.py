"""Metrics: what status knows, in Prometheus' words, anew at every scrape."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from typer.testing import CliRunner

from infra.commands.metrics import app
from infra.metrics import StackMetrics
from pipelines.job_health import JobHealth
from serving.stages import Labels, Row, Stages, merged
from serving.stopwatch import Took

if TYPE_CHECKING:
    from pathlib import Path

JOB = JobHealth("1", "features.a [f]", "RUNNING", 0, restarts=2, state_bytes=4_096, lag_events=30)


def _summary() -> dict[str, Any]:
    service = {"phase": "ready", "answers": True, "restarts": 1}
    return {
        "healthy": True,
        "services": {
            "kafka": service | {"report": None},
            "materializer": service | {"answers": False, "report": {"expired": 7, "word": "x"}},
            "intake": service | {"report": {"late.a": 5}},
        },
        "flink_jobs": [
            msgspec.structs.asdict(JOB) | {"late_events": 5, "too_late_events": None},
        ],
    }


def test_services_counters_and_jobs_are_samples_and_the_unknown_is_left_out() -> None:
    registry = CollectorRegistry(auto_describe=False)
    now = _summary()
    registry.register(StackMetrics(lambda: now))
    sample = registry.get_sample_value
    assert sample("headrace_healthy") == 1
    assert sample("headrace_service_ready", {"service": "kafka"}) == 1
    assert sample("headrace_service_ready", {"service": "materializer"}) == 0
    expired = {"service": "materializer", "number": "expired"}
    assert sample("headrace_worker", expired) == 7
    assert sample("headrace_worker", expired | {"number": "word"}) is None
    job = {"job": JOB.name}
    assert sample("headrace_job_running", job) == 1
    assert sample("headrace_job_restarts", job) == 2
    assert sample("headrace_job_state_bytes", job) == 4_096
    assert sample("headrace_job_lag_events", job) == 30
    assert sample("headrace_job_late_events", job) == 5
    assert sample("headrace_job_too_late_events", job) is None
    # Told once, beside its job.
    assert sample("headrace_worker", {"service": "intake", "number": "late.a"}) is None
    assert sample("headrace_job_checkpoint_age_seconds", job) is None
    now["services"]["materializer"]["report"]["expired"] = 9
    assert sample("headrace_worker", expired) == 9
    assert b"# TYPE headrace_job_restarts gauge" in generate_latest(registry)


def test_stages_and_answers_of_the_scorer_are_a_histogram_and_a_counter() -> None:
    stages = Stages()
    took = Took(taken_ms=1_000, read_us=700, predict_us={"v1": 90}, commit_us=5_000)
    rows = [Row("scored", 990, Labels("v1", "canary", "acme", "interactive"))] * 3
    stages.observe(took, [*rows, Row("dead_lettered", 980, Labels(lane="bulk"))], 1_020)
    now = _summary()
    scorer = {"phase": "ready", "answers": True, "restarts": 0}
    scorer["report"] = {"stages": json.dumps(merged([stages.snapshot(), stages.snapshot()]))}
    now["services"]["scorer"] = scorer
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StackMetrics(lambda: now))
    sample = registry.get_sample_value
    of = {"service": "scorer", "version": "", "route": "", "tenant": "", "lane": ""}
    whole = of | {"version": "v1", "route": "canary", "tenant": "acme", "lane": "interactive"}
    assert sample("headrace_answers_total", whole | {"status": "scored"}) == 6
    refused = of | {"lane": "bulk", "status": "dead_lettered"}
    assert sample("headrace_answers_total", refused) == 2
    name, end = "headrace_stage_seconds", {"stage": "end_to_end"}
    assert sample(f"{name}_count", whole | end) == 6
    assert sample(f"{name}_sum", whole | end) == pytest.approx(0.18)
    assert sample(f"{name}_bucket", whole | end | {"le": "0.03"}) == 6
    assert sample(f"{name}_bucket", whole | end | {"le": "0.02"}) == 0
    predict = of | {"version": "v1", "stage": "predict"}
    assert sample(f"{name}_bucket", predict | {"le": "0.0001"}) == 2
    assert sample(f"{name}_count", of | {"stage": "commit"}) == 2
    assert sample("headrace_worker", {"service": "scorer", "number": "stages"}) is None


def test_a_stack_that_is_down_is_told_as_not_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_DATA_DIR", str(tmp_path))
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 0, done.output
    assert "headrace_healthy 0.0" in done.output
