"""What a user is told of versions: made, listed, made smaller, on generated payments and without any engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from infra.cli import command_line
from pipelines.estimators import UnknownEstimator
from schemas.manifest import versions
from tests.pipelines.payments_lake import CASE, lake

if TYPE_CHECKING:
    from typer.testing import Result

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a lake of payments, and no broker."""
    folder = tmp_path_factory.mktemp("home")
    lake(folder)
    return folder


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_DATA_DIR", str(home))
    # A port that refuses at once, instead of one on which somebody's own broker may listen.
    monkeypatch.setenv("HEADRACE_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")


def models(arguments: str) -> Result:
    """The command, in this process: another one would import the same for seconds."""
    return CliRunner().invoke(command_line(["models"]), ["models", *arguments.split()])


@pytest.fixture(scope="module")
def trained(home: Path) -> dict[str, Any]:
    """What was said of a version."""
    arguments = f"models train --case {CASE} --estimator neural --since 30d --json"
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli", *arguments.split()],
        cwd=ROOT,
        env={**os.environ, "HEADRACE_DATA_DIR": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "fitting neural on" in done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_a_version_is_made_of_the_estimator_that_was_named(trained: dict[str, Any]) -> None:
    told = (trained["version"], trained["estimator"], trained["precision"])
    assert told == ("v0001", "neural", "fp32")
    assert trained["metrics"]["auc"] > 0.95
    assert trained["took_s"] > 0


@pytest.mark.usefixtures("trained")
def test_a_network_is_made_smaller_and_listed_without_a_broker(home: Path) -> None:
    done = models(f"quantize v0001 --case {CASE}")
    assert done.exit_code == 0, done.stderr
    assert "made v0002, v0003; nothing is released" in done.stdout
    (home / "models" / CASE / "v0009").mkdir()
    listed = models(f"list --case {CASE}")
    assert "left out: " in listed.stderr
    assert "v0009/manifest.json: wanted a model's manifest" in listed.stderr
    assert "what is released is not known" in listed.stderr
    (home / "models" / CASE / "v0009").rmdir()
    assert [" ".join(line.split()[:5]) for line in listed.stdout.splitlines()[2:]] == [
        "v0002 neural int8 of v0001",
        "v0003 neural fp16 of v0001",
    ]
    again = models(f"quantize v0002 --case {CASE}")
    assert (again.exit_code, again.stdout) == (2, "")
    assert "wanted a version as it was trained" in again.stderr


def test_what_cannot_be_trained_is_said_in_a_sentence(home: Path) -> None:
    before = versions(home / "models", CASE)
    done = models(f"train --case {CASE} --estimator forest")
    assert isinstance(done.exception, UnknownEstimator)
    assert "wanted one of trees, neural, but 'forest'" in str(done.exception)
    assert versions(home / "models", CASE) == before
