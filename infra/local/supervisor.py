"""The supervisor: owns every process of a stack, restarts what ends, and stops everything in reverse order.

One thread, one loop: processes are started from the main thread only, because a child dies with the thread that
started it (see `process.spawn`). The state is a file, so `status` needs no connection.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen

import structlog

from infra import atomic_file
from infra.local import process
from infra.local.engine import tail
from infra.local.service import Phase, Service, Status

TICK_S = 0.2
# How often a running engine is asked again whether it answers.
PROBE_S = 5.0
ERROR_CHARACTERS = 600
# More JVMs and heavy imports than this at once on a small machine, and each runs into its own time limit.
STARTING_MAX = max(4, os.cpu_count() or 1)

log = structlog.get_logger()


class Supervisor:
    """Runs services until told to stop.

    Args:
        stack: The mark of every process (the data folder).
        services: In the order of starting; they are stopped in reverse.
        state_path: Rewritten whenever something changed.
    """

    def __init__(self, stack: str, services: Sequence[Service], state_path: Path) -> None:
        self.stack = stack
        self.services = list(services)
        self.state_path = state_path
        self.statuses = {service.name: Status() for service in self.services}
        self._processes: dict[str, Popen[bytes]] = {}
        self._answers: dict[str, bool] = {}
        self._probed_s = 0.0
        self._started_ms = time.time_ns() // 1_000_000
        self._written: object = None

    def run(self, stop: threading.Event) -> None:
        """Keep everything running until `stop` is set, then stop it; returns when no process is left."""
        try:
            while not stop.is_set():
                self.tick(time.monotonic())
                stop.wait(TICK_S)
        finally:
            self.stop_all()

    def tick(self, now_s: float) -> None:
        """Look at every service once."""
        for service in self.services:
            status = self.statuses[service.name]
            if status.phase in (Phase.STARTING, Phase.READY):
                self._watch(service, status, now_s)
            elif self._starting() < STARTING_MAX and status.may_start(
                now_s, needs_ready=self._ready(service.needs)
            ):
                self._start(service, status, now_s)
        if now_s - self._probed_s >= PROBE_S:
            self._probe()
            self._probed_s = now_s
        self._write(stopping=False)

    def stop_all(self) -> None:
        """Workers first, then steps, then the engines under them; those of a kind end side by side."""
        for kind in ("worker", "step", "engine"):
            self._stop([s for s in self.services if s.kind == kind])
        process.sweep(self.stack, spare=("keeper", "supervisor"))
        self._write(stopping=True)

    def _ready(self, names: Sequence[str]) -> bool:
        # A need that is not a service here is an external engine: it is somebody else's to keep up.
        known = (self.statuses[name] for name in names if name in self.statuses)
        return all(status.phase is Phase.READY for status in known)

    def _starting(self) -> int:
        return sum(status.phase is Phase.STARTING for status in self.statuses.values())

    def _start(self, service: Service, status: Status, now_s: float) -> None:
        marks = {process.STACK_MARK: self.stack, process.SERVICE_MARK: service.name}
        try:
            service.prepare()
            self._processes[service.name] = process.spawn(
                service.command(),
                log=service.log,
                environment={**os.environ, **service.environment(), **marks},
            )
        except OSError as error:
            status.failed(f"could not be started: {error}", now_s)
            return
        status.move(Phase.STARTING, now_s)
        log.info("started", service=service.name, pid=self._processes[service.name].pid)

    def _watch(self, service: Service, status: Status, now_s: float) -> None:
        if service.kind == "step" and status.phase is Phase.READY:
            return
        code = self._processes[service.name].poll()
        if code is not None:
            self._ended(service, status, code, now_s)
        elif status.phase is Phase.STARTING:
            if service.kind != "step" and service.healthy():
                status.move(Phase.READY, now_s)
                self._answers[service.name] = True
                log.info("ready", service=service.name)
            elif now_s - status.since_s > service.start_timeout_s:
                self._kill(service)
                self._fail(
                    service, status, f"no answer within {service.start_timeout_s:.0f} s", now_s
                )

    def _ended(self, service: Service, status: Status, code: int, now_s: float) -> None:
        self._kill(service)
        if service.kind == "step" and code == 0:
            status.error = ""
            status.move(Phase.READY, now_s)
            log.info("done", step=service.name)
        else:
            self._fail(service, status, f"ended with exit code {code}", now_s)

    def _fail(self, service: Service, status: Status, cause: str, now_s: float) -> None:
        was_ready = status.phase is Phase.READY
        status.failed(f"{cause}\n{tail(service.log, ERROR_CHARACTERS)}", now_s)
        log.warning("failed", service=service.name, cause=cause, failures=status.failures)
        if was_ready:
            self._restart_followers(service.name, now_s)

    def _restart_followers(self, name: str, now_s: float) -> None:
        for follower in self.services:
            if name in follower.follows and self.statuses[follower.name].phase is not Phase.WAITING:
                self._stop([follower])
                self.statuses[follower.name].move(Phase.WAITING, now_s)

    def _kill(self, service: Service) -> None:
        """End what is left of a service: its process, and children that it left behind."""
        process.end(self._processes[service.name], grace_s=0.0)
        process.sweep(self.stack, service.name)

    def _stop(self, services: Sequence[Service]) -> None:
        running = [s for s in services if s.name in self._processes]
        for service in running:
            if self._processes[service.name].poll() is None:
                process.signal_group(self._processes[service.name], signal.SIGTERM)
        deadline = time.monotonic() + max((s.stop_grace_s for s in running), default=0.0)
        for service in running:
            grace_s = max(0.0, deadline - time.monotonic())
            process.end(self._processes.pop(service.name), grace_s=grace_s)
            left = process.sweep(self.stack, service.name)
            self.statuses[service.name].move(Phase.STOPPED, time.monotonic())
            log.info("stopped", service=service.name, left_behind=left)

    def _probe(self) -> None:
        for service in self.services:
            if service.kind == "engine" and self.statuses[service.name].phase is Phase.READY:
                self._answers[service.name] = service.healthy()

    def _write(self, *, stopping: bool) -> None:
        state = {
            "supervisor_pid": os.getpid(),
            "started_ms": self._started_ms,
            "stopping": stopping,
            "ready": all(s.phase is Phase.READY for s in self.statuses.values()),
            "services": {s.name: self._row(s) for s in self.services},
        }
        if state != self._written:
            atomic_file.write_json(self.state_path, state)
            self._written = state

    def _row(self, service: Service) -> dict[str, object]:
        status = self.statuses[service.name]
        child = self._processes.get(service.name)
        alive = child is not None and child.returncode is None
        return {
            "kind": service.kind,
            "phase": status.phase.value,
            "answers": self._answers.get(service.name, True),
            "pid": child.pid if child is not None and alive else None,
            "restarts": status.restarts,
            "failures": status.failures if status.phase is not Phase.READY else 0,
            "error": status.error,
            "log": str(service.log),
        }
