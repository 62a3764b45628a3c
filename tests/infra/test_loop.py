"""`headrace loop` as a command, on a real broker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import structlog
from typer.testing import CliRunner

from infra import atomic_file
from infra.cli import command_line
from infra.settings import Settings
from infra.workers import report_path
from schemas import topics
from tests.monitoring import rig

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from schemas.settings import KafkaSettings

CASE = "loop_command"


def test_json_tells_what_the_trainer_is_at(
    kafka: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.register(CASE)
    topics.create(kafka, topics.CONTROL_TOPICS)
    monkeypatch.setenv("HEADRACE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HEADRACE_CASE", CASE)
    monkeypatch.setenv("HEADRACE_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap_servers)
    try:
        assert _status()["training"] is None
        report = report_path(Settings.load(), "trainer")
        report.parent.mkdir(parents=True)
        atomic_file.write_json(report, {"training": "fitting"})
        told = _status()
    finally:
        rig.unregister(CASE)
        # A command decides where its process logs to, and this one goes on.
        structlog.reset_defaults()
    assert (told["case"], told["training"], told["order"]) == (CASE, "fitting", None)


def _status() -> dict[str, Any]:
    done = CliRunner().invoke(command_line(["loop"]), ["loop", "status", "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    told: dict[str, Any] = json.loads(done.stdout)
    return told
