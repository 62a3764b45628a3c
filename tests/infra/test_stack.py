"""The whole stack from the command line: up, up again, status, a killed worker, down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.local import process

# The end-to-end test starts the same stack by the demo.
pytestmark = pytest.mark.nightly
ROOT = Path(__file__).parents[2]
# A start takes under a minute on a quiet machine; the suite may share two cores with another one.
UP_TIMEOUT_S = 600


class HeadRace:
    """The command line on a data folder of its own."""

    def __init__(self, data: Path, jars: Path) -> None:
        self.data = data
        self.environment = {
            **os.environ,
            "HEADRACE_DATA_DIR": str(data),
            "HEADRACE_JARS": str(jars),
            "HEADRACE_LOCAL__START_TIMEOUT_S": str(UP_TIMEOUT_S),
        }

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "infra.cli", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=UP_TIMEOUT_S,
            check=False,
        )

    def status(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self("status", "--json").stdout)
        return report


@pytest.fixture(scope="module")
def headrace(tmp_path_factory: pytest.TempPathFactory, jars: Path) -> Iterator[HeadRace]:
    data = tmp_path_factory.mktemp("stack")
    command = HeadRace(data, jars)
    up = command("up")
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield command
    finally:
        down = command("down")
        assert down.returncode == 0, down.stderr
        assert process.marked(str(data)) == []


@pytest.mark.slow
@pytest.mark.timeout(2 * UP_TIMEOUT_S)
def test_everything_is_healthy_and_on_loopback_only(headrace: HeadRace) -> None:
    report = headrace.status()
    assert report["healthy"], report
    assert len(report["flink_jobs"]) >= 4
    addresses = {
        connection.laddr.ip.removeprefix("::ffff:")
        for one in process.marked(str(headrace.data))
        for connection in one.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {process.LOOPBACK}


@pytest.mark.slow
def test_up_twice_is_harmless(headrace: HeadRace) -> None:
    before = headrace.status()
    assert headrace("up").returncode == 0
    after = headrace.status()
    for name, row in before["services"].items():
        assert after["services"][name]["pid"] == row["pid"], name


@pytest.mark.slow
def test_a_killed_worker_comes_back(headrace: HeadRace) -> None:
    before = headrace.status()["services"]["intake"]
    os.kill(before["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 120
    while (row := headrace.status()["services"]["intake"])["restarts"] == before["restarts"]:
        assert time.monotonic() < deadline, row
    while (row := headrace.status()["services"]["intake"])["phase"] != "ready":
        assert time.monotonic() < deadline, row
    assert row["pid"] != before["pid"]


@pytest.mark.slow
def test_every_service_has_a_log(headrace: HeadRace) -> None:
    for name in [*headrace.status()["services"], "supervisor"]:
        assert headrace("logs", name, "-n", "1").returncode == 0, name
