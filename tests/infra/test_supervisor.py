"""The supervisor on small real processes: restart, order, clean stop, and nothing left after kill -9."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.local import keeper, process
from infra.local.service import Phase, Service
from infra.local.supervisor import Supervisor

ALIVE = "import time; time.sleep(600)"
# A worker with a child of its own that has left its session, as Ray's do.
WITH_DAEMON = (
    "import subprocess, sys, time;"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True);"
    "time.sleep(600)"
)


def python(code: str) -> Callable[[], list[str]]:
    return lambda: [sys.executable, "-S", "-c", code]


def worker(folder: Path, name: str = "worker", code: str = ALIVE, **more: Any) -> Service:
    log = folder / f"{name}.log"
    return Service(name, "worker", python(code), log, **{"healthy": lambda: True, **more})


def until(happened: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


class Running:
    """A supervisor in this process, ticked by hand: children must be started by the main thread."""

    def __init__(self, folder: Path, *services: Service) -> None:
        self.stack = str(folder)
        self.state = folder / "state.json"
        self.supervisor = Supervisor(self.stack, services, self.state)

    def ticks_until(self, happened: Callable[[], object]) -> None:
        def tick() -> object:
            self.supervisor.tick(time.monotonic())
            return happened()

        until(tick)

    def rows(self) -> dict[str, Any]:
        rows: dict[str, Any] = json.loads(self.state.read_text(encoding="utf-8"))["services"]
        return rows

    def phase(self, name: str) -> Phase:
        return self.supervisor.statuses[name].phase

    def is_ready(self, name: str = "worker") -> bool:
        return self.phase(name) is Phase.READY


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def make(*services: Service) -> Running:
        started.append(Running(tmp_path, *services))
        return started[-1]

    yield make
    for one in started:
        one.supervisor.stop_all()
    assert process.marked(str(tmp_path)) == []


def test_a_killed_worker_is_restarted_with_its_children(
    run: Callable[..., Running], tmp_path: Path
) -> None:
    running = run(worker(tmp_path, code=WITH_DAEMON))
    running.ticks_until(lambda: len(process.marked(running.stack)) == 2)
    first = running.rows()["worker"]["pid"]
    old = {one.pid for one in process.marked(running.stack)}
    psutil.Process(first).kill()
    running.ticks_until(lambda: running.supervisor.statuses["worker"].restarts == 1)
    assert not old & {one.pid for one in process.marked(running.stack)}, "its daemon stayed"
    running.ticks_until(running.is_ready)
    assert running.rows()["worker"]["pid"] not in (None, first)


def test_a_crashing_worker_backs_off_and_says_why(
    run: Callable[..., Running], tmp_path: Path
) -> None:
    running = run(worker(tmp_path, code="raise SystemExit('no such topic')"))
    running.ticks_until(lambda: running.supervisor.statuses["worker"].failures >= 2)
    row = running.rows()["worker"]
    assert row["phase"] == "backoff"
    assert "exit code 1" in row["error"]
    assert "no such topic" in row["error"]


def test_a_worker_that_never_answers_is_restarted(
    run: Callable[..., Running], tmp_path: Path
) -> None:
    running = run(worker(tmp_path, healthy=lambda: False, start_timeout_s=0.3))
    running.ticks_until(lambda: running.supervisor.statuses["worker"].restarts == 1)
    assert "no answer" in running.supervisor.statuses["worker"].error


def test_a_command_that_does_not_exist_is_an_error_not_a_crash(
    run: Callable[..., Running], tmp_path: Path
) -> None:
    missing = Service("worker", "worker", lambda: ["/no/such/program"], tmp_path / "log")
    running = run(missing)
    running.ticks_until(lambda: running.phase("worker") is Phase.BACKOFF)
    assert "/no/such/program" in running.supervisor.statuses["worker"].error


def test_needs_steps_and_followers(run: Callable[..., Running], tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    engine = Service("engine", "engine", python(ALIVE), tmp_path / "e.log", healthy=lambda: True)
    code = f"open({str(marks)!r}, 'a').write('x')"
    step = Service(
        "step", "step", python(code), tmp_path / "s.log", needs=("engine",), follows=("engine",)
    )
    running = run(engine, step, worker(tmp_path, needs=("step", "somebody else's")))
    running.supervisor.tick(time.monotonic())
    assert running.phase("step") is Phase.WAITING
    running.ticks_until(running.is_ready)
    assert marks.read_text(encoding="utf-8") == "x"
    survivor = running.rows()["worker"]["pid"]
    psutil.Process(running.rows()["engine"]["pid"]).kill()
    running.ticks_until(
        lambda: marks.read_text(encoding="utf-8") == "xx" and running.is_ready("step")
    )
    assert running.rows()["worker"]["pid"] == survivor


def test_stop_ends_a_process_that_ignores_sigterm(tmp_path: Path) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True);"
        + ALIVE
    )
    running = Running(tmp_path, worker(tmp_path, code=deaf, stop_grace_s=0.5))
    running.ticks_until(lambda: "deaf" in _text(tmp_path / "worker.log"))
    running.supervisor.stop_all()
    assert process.marked(running.stack) == []


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


SUPERVISE = """
import signal, sys, threading
from pathlib import Path
from infra.local.service import Service
from infra.local.supervisor import Supervisor
folder = Path(sys.argv[1])
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
code = sys.argv[2]
service = Service("worker", "worker", lambda: [sys.executable, "-c", code], folder / "w.log", healthy=lambda: True)
Supervisor(str(folder), [service], folder / "state.json").run(stop)
"""


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[tuple[str, dict[str, psutil.Process]]]:
    """A keeper with a supervisor with a worker with a daemon."""
    stack = str(tmp_path)
    command = [sys.executable, "-c", SUPERVISE, stack, WITH_DAEMON]
    keeper.start(stack, command, tmp_path / "supervisor.log")
    until(lambda: len(process.marked(stack)) == 4)
    named = {name: process.marked(stack, name)[0] for name in ("keeper", "supervisor", "worker")}
    yield stack, named
    process.sweep(stack)


def test_sigterm_to_the_supervisor_leaves_nothing(
    kept: tuple[str, dict[str, psutil.Process]],
) -> None:
    stack, named = kept
    named["supervisor"].send_signal(signal.SIGTERM)
    until(lambda: process.marked(stack) == [])


@pytest.mark.parametrize("victim", ["supervisor", "keeper"])
def test_kill_9_leaves_nothing(victim: str, kept: tuple[str, dict[str, psutil.Process]]) -> None:
    stack, named = kept
    named[victim].kill()
    until(lambda: process.marked(stack) == [])


def test_kill_9_of_both_at_once_leaves_no_worker(
    kept: tuple[str, dict[str, psutil.Process]],
) -> None:
    _, named = kept
    named["keeper"].suspend()
    named["supervisor"].kill()
    named["keeper"].kill()
    until(
        lambda: not named["worker"].is_running() or named["worker"].status() == psutil.STATUS_ZOMBIE
    )


def test_run_returns_when_told_to_stop(tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    Supervisor(str(tmp_path), [worker(tmp_path)], tmp_path / "state.json").run(stop)
    state = json.loads((tmp_path / "state.json").read_text(encoding="utf-8"))
    assert state["stopping"]
    assert state["services"]["worker"]["pid"] is None
    assert process.marked(str(tmp_path)) == []


def test_a_child_runs_where_the_packages_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `python -m`, a folder named `infra` where the user stands would hide ours."""
    (tmp_path / "infra").mkdir()
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log"
    command = [sys.executable, "-m", "infra.cli", "--help"]
    assert process.spawn(command, log=log, environment=dict(os.environ)).wait(30) == 0
    assert "headrace" in log.read_text(encoding="utf-8")
