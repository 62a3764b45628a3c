"""The local stack: `up`, `down`, `status`.

`up` chooses ports, writes what everybody else reads (`run/endpoints.json`, `run/settings.json`), starts a keeper with a
supervisor under it, and watches the state file until every service is ready. Whether a stack runs is one question with
one answer: is its lock held?
"""

from __future__ import annotations

import contextlib
import fcntl
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from infra import atomic_file, workers
from infra.local import endpoints, keeper, process
from infra.local.engine import Engine
from infra.local.flink import FlinkCluster
from infra.local.kafka import KafkaServer
from infra.local.ray_head import RayHead
from infra.local.redis_server import RedisServer
from infra.local.service import Service
from infra.settings import Settings
from schemas.errors import HeadraceError

Progress = Callable[[Mapping[str, Any]], None]

POLL_S = 0.2
# In a row; a worker may well fail once while the engines it needs settle.
FAILURES_MAX = 3
DOWN_TIMEOUT_S = 90.0


class StackError(HeadraceError):
    """The stack did not come up, or could not be stopped."""


def up(settings: Settings, progress: Progress = lambda _: None) -> Settings:
    """Start the stack, or join it where it runs already; returns when every service is ready.

    Args:
        settings: As read; embedded engines get their ports here.
        progress: Called with the state (see `status`) whenever it was read anew, about five times a second.

    Returns:
        The settings with the running stack's addresses.

    Raises:
        StackError: A service failed again and again, or time ran out; the stack is stopped again.
        PortTaken: A port fixed by settings is in use.
    """
    if is_running(settings):
        running = Settings.read(settings_file(settings))
        _wait_ready(running, progress)
        return running
    process.sweep(str(settings.data))
    resolved = _launch(settings)
    try:
        _wait_ready(resolved, progress)
    except BaseException:
        # Ctrl-C included: half a stack is of no use to anybody.
        down(settings)
        raise
    return resolved


def down(settings: Settings) -> int:
    """Stop the stack, whatever state it is in; returns how many processes had to be killed in the end.

    Raises:
        StackError: Processes are left that this user may not end.
    """
    state = atomic_file.read_json(_state_file(settings))
    if state and is_running(settings):
        with contextlib.suppress(psutil.Error):
            psutil.Process(state["supervisor_pid"]).send_signal(signal.SIGTERM)
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    stack = str(settings.data)
    while (is_running(settings) or process.marked(stack)) and time.monotonic() < deadline:
        # No supervisor under the lock: nobody will end these in order any more.
        if not is_running(settings) and not process.marked(stack, "keeper"):
            break
        time.sleep(POLL_S)
    killed = process.sweep(stack)
    if left := process.marked(stack):
        pids = ", ".join(str(one.pid) for one in left)
        raise StackError("down", wanted="no process left", came=f"{pids} would not end")
    for path in (endpoints.path_of(settings), _state_file(settings), settings_file(settings)):
        path.unlink(missing_ok=True)
    return killed


def status(settings: Settings) -> dict[str, Any] | None:
    """The supervisor's last state with each worker's last report; None where no stack runs."""
    state = atomic_file.read_json(_state_file(settings))
    if state is None or not is_running(settings):
        return None
    for name, row in state["services"].items():
        if row["kind"] == "worker":
            row["report"] = atomic_file.read_json(workers.report_path(settings, name))
    return state


def is_running(settings: Settings) -> bool:
    """Whether a supervisor holds this data folder."""
    try:
        with _lock(settings):
            return False
    except BlockingIOError:
        return True


def supervise(settings: Settings) -> None:
    """Be the supervisor of this data folder until SIGTERM; the hidden command behind `up`."""
    import threading  # noqa: PLC0415 - only this command waits on an event

    from infra.local.supervisor import Supervisor  # noqa: PLC0415

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    with _lock(settings, patience_s=5.0):
        Supervisor(str(settings.data), services(settings), _state_file(settings)).run(stop)


def services(settings: Settings) -> list[Service]:
    """Every service of the stack: engines, then steps, then workers."""
    return [
        *(_engine_service(settings, engine) for engine in _engines(settings)),
        *(_step_service(settings, entry) for entry in workers.STEPS),
        *(_worker_service(settings, entry) for entry in workers.WORKERS),
    ]


def log_file(settings: Settings, name: str) -> Path:
    """The log of a service, or of the supervisor."""
    return settings.run_dir / "logs" / f"{name}.log"


def _launch(settings: Settings) -> Settings:
    ports = endpoints.choose(settings)
    resolved = endpoints.resolve(settings, ports)
    for folder in ("lake", "features", "models", "reports", "run/logs"):
        (settings.data / folder).mkdir(parents=True, exist_ok=True)
    for log in (settings.run_dir / "logs").glob("*.log"):
        log.replace(log.with_suffix(".log.1"))
    for report in (settings.run_dir / "workers").glob("*.json"):
        report.unlink()
    _state_file(settings).unlink(missing_ok=True)
    atomic_file.write_json(endpoints.ports_file(settings), ports)
    atomic_file.write_json(endpoints.path_of(settings), endpoints.sections(ports))
    resolved.write(settings_file(settings))
    keeper.start(
        str(settings.data),
        _headrace("supervise", "--settings", str(settings_file(settings))),
        log_file(settings, "supervisor"),
    )
    return resolved


def _wait_ready(settings: Settings, progress: Progress) -> None:
    deadline = time.monotonic() + settings.local.start_timeout_s
    seen = False
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        state = status(settings)
        if state is None:
            if seen or not process.marked(str(settings.data)):
                raise _not_up(
                    settings, "the supervisor", "it ended", log_file(settings, "supervisor")
                )
            continue
        seen = True
        progress(state)
        if state["ready"]:
            return
        for name, row in state["services"].items():
            if row["failures"] >= FAILURES_MAX:
                raise _not_up(settings, name, row["error"], Path(row["log"]))
    late = [
        n
        for n, row in (status(settings) or {"services": {}})["services"].items()
        if row["phase"] != "ready"
    ]
    came = f"{', '.join(late)} not ready after {settings.local.start_timeout_s:.0f} s"
    raise _not_up(settings, "stack", came, settings.run_dir / "logs")


def _not_up(settings: Settings, where: str, came: str, log: Path) -> StackError:
    return StackError(
        where,
        wanted="it ready",
        came=came,
        mend=f"Read {log}, and see `headrace doctor`; data is under {settings.data}.",
    )


def _engines(settings: Settings) -> Iterator[Engine]:
    local, data, jars = settings.local, settings.data, Path(settings.jars)
    # The slow starters first.
    if local.flink:
        yield from FlinkCluster(
            folder=data / "flink",
            connector=Path(settings.flink.connector_jar),
            rest_port=settings.flink.rest_port,
            rpc_port=process.free_port(),
            slots=local.flink_slots,
            jobmanager_mb=local.flink_jobmanager_mb,
            taskmanager_mb=local.flink_taskmanager_mb,
        ).engines()
    if local.kafka:
        port = int(settings.kafka.bootstrap_servers.rpartition(":")[2])
        yield KafkaServer(data / "kafka", jars / "kafka", port=port, heap_mb=local.kafka_heap_mb)
    if local.redis:
        port = int(settings.stores.redis_url.rpartition(":")[2].partition("/")[0])
        yield RedisServer(data / "redis", port=port)
    if local.ray:
        yield RayHead(
            data / "ray",
            port=int(settings.serving.ray_address.rpartition(":")[2]),
            dashboard_port=settings.serving.dashboard_port,
            num_cpus=local.ray_num_cpus,
            object_store_mb=local.ray_object_store_mb,
        )


def _engine_service(settings: Settings, engine: Engine) -> Service:
    return Service(
        name=engine.name,
        kind="engine",
        command=engine.command,
        log=log_file(settings, engine.name),
        environment=engine.environment,
        prepare=engine.prepare,
        healthy=engine.healthy,
        needs=engine.after,
        start_timeout_s=engine.start_timeout_s,
        stop_grace_s=engine.stop_grace_s,
    )


def _step_service(settings: Settings, entry: workers.Entry) -> Service:
    return Service(
        name=entry.name,
        kind="step",
        command=lambda: _headrace("step", entry.name, "--settings", str(settings_file(settings))),
        log=log_file(settings, entry.name),
        environment=_worker_environment,
        needs=entry.needs,
        follows=entry.follows,
        start_timeout_s=settings.local.start_timeout_s,
    )


def _worker_service(settings: Settings, entry: workers.Entry) -> Service:
    report = workers.report_path(settings, entry.name)
    return Service(
        name=entry.name,
        kind="worker",
        command=lambda: _headrace("worker", entry.name, "--settings", str(settings_file(settings))),
        log=log_file(settings, entry.name),
        environment=_worker_environment,
        needs=entry.needs,
        follows=entry.follows,
        # The report of an earlier life must not speak for this one.
        prepare=lambda: report.unlink(missing_ok=True),
        healthy=lambda: workers.is_ready(report),
    )


def _worker_environment() -> dict[str, str]:
    return {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "OMP_NUM_THREADS": "1"}


def _headrace(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "infra.cli", *arguments]


def _state_file(settings: Settings) -> Path:
    return settings.run_dir / "state.json"


def settings_file(settings: Settings) -> Path:
    """Where a stack that is up keeps its settings, whole, for its processes."""
    return settings.run_dir / "settings.json"


@contextlib.contextmanager
def _lock(settings: Settings, *, patience_s: float = 0.0) -> Iterator[None]:
    """Hold the data folder; `patience_s` outlasts those who only look whether somebody does."""
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_s
    with (settings.run_dir / "lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.02)
        yield
