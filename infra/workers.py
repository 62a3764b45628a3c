"""headrace's own processes: the table of workers and of steps, and how one is run in the foreground."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import structlog

from infra import atomic_file
from schemas.errors import HeadraceError
from schemas.worker import WorkerContext

if TYPE_CHECKING:
    from pathlib import Path

    from infra.settings import Settings

log = structlog.get_logger()


class UnknownWorker(HeadraceError):
    """No worker of that name."""


@dataclass(frozen=True)
class Entry:
    """A function of another layer that runs as a process of its own.

    Attributes:
        name: Of the process.
        target: `module:function`; imported only in that process.
        sections: Settings it is given after its first argument, as dotted paths.
        needs: Services that must be ready before it starts.
        follows: Services whose restart it cannot survive: it is started again after them.
    """

    name: str
    target: str
    sections: tuple[str, ...]
    needs: tuple[str, ...]
    follows: tuple[str, ...] = ()

    def function(self) -> Callable[..., None]:
        """Import the target."""
        module, _, name = self.target.partition(":")
        function: Callable[..., None] = getattr(import_module(module), name)
        return function

    def arguments(self, settings: Settings) -> list[object]:
        """The sections' values."""
        return [_section(settings, path) for path in self.sections]


# Run once at every start, to the end. The JobManager keeps its jobs in memory only, so they are submitted again after
# it; what they write are whole tiles, so that repeats nothing.
STEPS = (
    Entry("topics", "schemas.topics:apply", ("kafka", "case"), needs=("kafka",)),
    Entry(
        "features",
        "pipelines.deploy:start",
        ("case", "kafka", "stores", "flink"),
        needs=("topics", "redis", "taskmanager"),
        follows=("jobmanager",),
    ),
)

WORKERS: tuple[Entry, ...] = (
    Entry(
        "intake",
        "pipelines.intake:run",
        ("kafka", "stores.plan_path", "flink.lateness_s"),
        ("topics",),
    ),
    Entry("materializer", "pipelines.materializer:run", ("kafka", "stores"), ("features", "redis")),
    Entry("archiver", "pipelines.archiver:run", ("kafka", "stores", "pipelines"), ("features",)),
    Entry(
        "trainer",
        "pipelines.trainer:run",
        ("kafka", "stores", "pipelines", "serving.models_dir"),
        ("features",),
    ),
    Entry(
        "scorer",
        "serving.deployment:run",
        ("kafka", "stores", "serving"),
        ("features", "redis", "ray"),
        follows=("ray",),
    ),
    Entry("gateway", "serving.gateway:run", ("kafka", "serving"), ("topics",)),
    Entry(
        "admission",
        "serving.admission:run",
        ("kafka", "stores", "serving", "admission"),
        ("features",),
    ),
    Entry("outcomes", "monitoring.outcomes:run", ("kafka", "monitoring"), ("topics",)),
    Entry(
        "drift",
        "monitoring.drift_worker:run",
        ("kafka", "monitoring", "serving.models_dir"),
        ("topics",),
    ),
    Entry("guard", "monitoring.guard_worker:run", ("kafka",), ("topics",)),
    Entry("auditor", "monitoring.auditor:run", ("kafka",), ("topics",)),
)


def worker(name: str) -> Entry:
    """The worker of that name.

    Raises:
        UnknownWorker: There is none; the message lists those there are.
    """
    for entry in WORKERS:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in WORKERS)
    raise UnknownWorker(f"worker {name!r}", wanted=f"one of {known}", came="there is none")


def report_path(settings: Settings, name: str) -> Path:
    """Where a worker's last report lies: its counters, and `reported_ms`."""
    return settings.run_dir / "workers" / f"{name}.json"


def is_ready(report: Path) -> bool:
    """Whether a worker does its work: it has reported, and does not say `ready: 0`, which is its to say."""
    counters = atomic_file.read_json(report)
    return counters is not None and bool(counters.get("ready", 1))


def run_worker(entry: Entry, settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT; what it raises goes to the caller."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    path = report_path(settings, entry.name)

    def report(counters: Mapping[str, float | int | str]) -> None:
        atomic_file.write_json(path, {**counters, "reported_ms": time.time_ns() // 1_000_000})

    prepare_environment(settings)
    context = WorkerContext(case=settings.case, stop=stop, report=report)
    log.info("worker started", worker=entry.name, pid=os.getpid())
    entry.function()(context, *entry.arguments(settings))
    log.info("worker stopped", worker=entry.name)


def run_step(name: str, settings: Settings) -> None:
    """Run a step of `up` to its end."""
    entry = next(step for step in STEPS if step.name == name)
    prepare_environment(settings)
    entry.function()(*entry.arguments(settings))


def prepare_environment(settings: Settings) -> None:
    """What engines' libraries read from the environment; to be set before they are imported."""
    # Two cores: threads inside numpy and ONNX beside a broker and Flink cost more than they give.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if settings.local.ray:
        from infra.local.ray_head import client_environment  # noqa: PLC0415 - only where Ray is ours

        os.environ.update(client_environment(settings.data / "ray"))


def _section(settings: Settings, path: str) -> object:
    value: object = settings
    for name in path.split("."):
        value = getattr(value, name)
    return value
