"""The command line as a user meets it: a process, its output, its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.cli import VERBS

ROOT = Path(__file__).parents[2]
HEADRACE = [sys.executable, "-m", "infra.cli"]


def headrace(*arguments: str, data: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HEADRACE_DATA_DIR": str(data), "NO_COLOR": "1", **more}
    return subprocess.run(
        [*HEADRACE, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_answers_at_once_and_lists_every_verb(tmp_path: Path) -> None:
    took_s = []
    for _ in range(3):
        started = time.monotonic()
        done = headrace("--help", data=tmp_path)
        took_s.append(time.monotonic() - started)
    assert done.returncode == 0
    for verb, line in VERBS.items():
        assert (f" {verb} " in done.stdout) is bool(line)
    # 0.3 s on a quiet machine; the least of three, for this one may be busy.
    assert min(took_s) < 1.5


@pytest.mark.parametrize(
    "verb", [verb for verb in VERBS if (ROOT / f"infra/commands/{verb}.py").exists()]
)
def test_every_verb_explains_itself_without_its_engines(verb: str, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.argv = ['headrace', {verb!r}, '--help']; from infra.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'feast', 'evidently', 'ray', 'pyflink', 'pyiceberg', 'faust', 'duckdb'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "raise SystemExit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_exit_codes(tmp_path: Path) -> None:
    assert headrace("frobnicate", data=tmp_path).returncode == 2
    assert headrace("status", "--frobnicate", data=tmp_path).returncode == 2
    failed = headrace("worker", "nobody", data=tmp_path)
    assert failed.returncode == 1
    assert failed.stderr.startswith("headrace: worker 'nobody': wanted one of intake")
    assert "Traceback" not in failed.stderr


def test_a_wrong_setting_is_one_sentence(tmp_path: Path) -> None:
    failed = headrace("status", data=tmp_path, HEADRACE_SERVING__REPLICAS="none")
    assert failed.returncode == 1
    assert "HEADRACE_SERVING__REPLICAS" in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1


def test_nothing_runs(tmp_path: Path) -> None:
    down = headrace("down", data=tmp_path)
    assert (down.returncode, down.stdout.strip()) == (0, "nothing was running")
    status = headrace("status", "--json", data=tmp_path)
    report = json.loads(status.stdout)
    assert status.returncode == 1
    assert report["healthy"] is False
    assert report["services"] == {}


def test_topics_as_json(tmp_path: Path) -> None:
    rows = json.loads(headrace("topics", "list", "--json", data=tmp_path).stdout)
    by_name = {row["name"]: row for row in rows}
    assert by_name["control.releases"]["compacted"]
    assert by_name["flights.requests"]["partitions"] == 4


def test_a_broker_out_of_reach_is_one_sentence(tmp_path: Path) -> None:
    done = headrace(
        "topics", "apply", data=tmp_path, HEADRACE_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1"
    )
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


def test_logs_shows_and_follows_until_ctrl_c(tmp_path: Path) -> None:
    log = tmp_path / "run" / "logs" / "kafka.log"
    log.parent.mkdir(parents=True)
    log.write_text("one\ntwo\nthree\n", encoding="utf-8")
    assert headrace("logs", "kafka", "-n", "2", data=tmp_path).stdout == "two\nthree\n"
    missing = headrace("logs", "zookeeper", data=tmp_path)
    assert missing.returncode == 1
    assert "one of: kafka" in missing.stderr
    environment = {**os.environ, "HEADRACE_DATA_DIR": str(tmp_path)}
    with subprocess.Popen(
        [*HEADRACE, "logs", "kafka", "-f"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        assert [following.stdout.readline() for _ in range(3)] == ["one\n", "two\n", "three\n"]
        with log.open("a", encoding="utf-8") as file:
            file.write("four\n")
        assert following.stdout.readline() == "four\n"
        following.send_signal(signal.SIGINT)
        assert following.wait(10) == 130


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("canary v0002 --share 101", "less than or equal to 100"),
        ("canary v0002", "--share"),
        ("shadow", "either VERSION or --off"),
        ("shadow v0002 --off", "either VERSION or --off"),
        ("pin v0002", "--key"),
        ("rule tenant never", "is not FIELD=VALUE"),
        ("rule tenant=acme first", "none of never, only, split"),
    ],
)
def test_a_release_order_that_is_none_is_wrong_usage(
    arguments: str, said: str, tmp_path: Path
) -> None:
    done = headrace("release", *arguments.split(), data=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
