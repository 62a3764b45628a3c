"""`headrace status`: what it says of a job and of a worker."""

from __future__ import annotations

import io
import time

import msgspec
import pytest
from rich.console import Console

from infra.commands.status import job_line, table
from pipelines.job_health import JobHealth, job_health
from pipelines.settings import FlinkSettings

STARTED = JobHealth("1", "features.a [f]", "RUNNING", 0, restarts=0, restored=False)


@pytest.mark.parametrize(
    ("health", "line"),
    [
        (STARTED, "flink job RUNNING   features.a [f]"),
        (
            msgspec.structs.replace(
                STARTED, state_bytes=2_097_152, checkpoint_age_s=4.2, lag_events=7
            ),
            "flink job RUNNING   features.a [f], state 2,048 KiB, checkpoint 4 s ago, 7 events behind",
        ),
        (
            msgspec.structs.replace(STARTED, state="RESTARTING", restarts=3, checkpoints_failed=2),
            "flink job RESTARTING features.a [f], 3 restarts, 2 checkpoints failed",
        ),
    ],
)
def test_a_job_is_a_line_and_trouble_is_named_only_where_there_was_any(
    health: JobHealth, line: str
) -> None:
    assert job_line(msgspec.structs.asdict(health)) == line


def test_late_events_are_told_beside_their_view_s_job() -> None:
    late = {"late_events": 1_234, "too_late_events": 0}
    line = job_line(msgspec.structs.asdict(STARTED) | late)
    assert line == "flink job RUNNING   features.a [f], 1,234 late"


def test_without_a_cluster_there_are_no_jobs() -> None:
    assert job_health(FlinkSettings(rest_port=1)) == []


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (
            {"epoch": 3, "waiting": 0, "judged": 2, "registered": 2, "registry_behind": 0},
            "epoch 3, waiting 0, judged 2, registered 2 (",
        ),
        (
            {"epoch": 3, "waiting": 0, "judged": 2, "registered": 2, "registry_behind": 1}
            | {"registry_error": "its file is gone"},
            "registered 2, registry_behind 1, registry_error its file is gone (",
        ),
        (
            {"results": 9, "outcomes": 8, "joined": 7, "late": 0, "unknown": 1}
            | {"waiting": 2, "evicted": 0},
            "late 0, waiting 2, evicted 0 (",
        ),
    ],
)
def test_what_documents_send_people_here_for_is_told_after_the_first(
    report: dict[str, object], said: str
) -> None:
    row = {"phase": "ready", "answers": True, "pid": 1, "restarts": 0, "error": ""}
    told = report | {"reported_ms": time.time() * 1000}
    shown = io.StringIO()
    view = table({"services": {"worker": row | {"report": told}}})
    Console(file=shown, width=200).print(view)
    assert said in shown.getvalue()
