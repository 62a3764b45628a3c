"""The trainer: every retraining order is answered by one candidate, whatever crashes in between.

The control log is its only memory. An order without a candidate is open; it is trained in a process of its own and answered
once. After a crash the order is still open, and a version that was already finished for it is found
by the order's id in its manifest instead of being trained again.
"""

from __future__ import annotations

import json
import queue
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog

from pipelines import training_work
from pipelines.train_process import Job
from pipelines.training_child import Spare, TrainingChild
from schemas import manifest, usecase
from schemas.control import Brake, BrakeKind, Candidate, DataAccess, RetrainingOrder
from schemas.control_log import ControlLog
from schemas.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from features.settings import StoreSettings
    from pipelines.settings import PipelineSettings
    from schemas.control_log import Entry
    from schemas.settings import KafkaSettings
    from schemas.worker import WorkerContext

TOPICS = ("control.retraining", "control.candidates", "control.brake")
POLL_S = 0.5
# Quoted in a candidate's `error`: enough to see what broke.
ERROR_CHARS_MAX = 500

Reading = Callable[[Mapping[str, int]], None]

log = structlog.get_logger()


class OpenOrders:
    """The orders that no candidate has answered and nobody has refused, oldest first (pure)."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, RetrainingOrder] = OrderedDict()
        self._answered: set[str] = set()
        self._approved: set[str] = set()
        self._refused: set[str] = set()

    def fold(self, entries: Sequence[Entry]) -> None:
        """Take note of events, in any order and as often as they come."""
        for entry in entries:
            if isinstance(entry.event, Candidate):
                self._answered.add(entry.event.order_id)
                self._open.pop(entry.event.order_id, None)
            elif isinstance(entry.event, RetrainingOrder):
                order = entry.event
                if order.event_id not in self._answered | self._refused:
                    self._open.setdefault(order.event_id, order)
            elif isinstance(entry.event, Brake) and entry.event.order_id:
                self._fold_brake(entry.event.kind, entry.event.order_id)

    def _fold_brake(self, kind: BrakeKind, order_id: str) -> None:
        if kind is BrakeKind.APPROVE:
            self._approved.add(order_id)
        elif kind in (BrakeKind.REFUSE, BrakeKind.LAPSE):
            self._refused.add(order_id)
            self._open.pop(order_id, None)

    def first(self) -> RetrainingOrder | None:
        """The order to work on; None when all are answered, or wait for approval."""
        due = (
            o
            for o in self._open.values()
            if o.approve_by_ms is None or o.event_id in self._approved
        )
        return next(due, None)

    def is_open(self, order: RetrainingOrder) -> bool:
        """Whether an order still wants an answer."""
        return order.event_id in self._open

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def answered(self) -> int:
        """How many have been answered, ever."""
        return len(self._answered)


def run(
    ctx: WorkerContext,
    kafka: KafkaSettings,
    stores: StoreSettings,
    pipelines: PipelineSettings,
    models_dir: str,
) -> None:
    """Answer orders until told to stop; a training under way is then given up and its order stays open.

    Raises:
        ControlLogUnavailable: Start again; nothing is lost.
    """
    orders = OpenOrders()
    with (
        ControlLog(kafka, ctx.case, TOPICS, f"{ctx.case}.trainer") as control,
        closing(Spare(pipelines.training_threads)) as spare,
    ):
        orders.fold(control.read_all())
        while not ctx.stop.is_set():
            order = orders.first()
            ctx.report({"open": orders.count, "answered": orders.answered, "training": ""})
            if order is None:
                spare.keep()
                orders.fold(control.poll(POLL_S))
                continue
            reading = _recorded(control, order)
            candidate = _candidate(ctx, order, stores, pipelines, Path(models_dir), reading, spare)
            if candidate is None:
                return
            orders.fold(control.poll(0))
            if not orders.is_open(order):
                log.warning("trainer.refused", order=order.event_id)  # while it was trained
                continue
            control.publish(candidate)
            orders.fold(control.poll(POLL_S))


def train(
    job: Job,
    pipelines: PipelineSettings,
    ctx: WorkerContext,
    reading: Reading = lambda _: None,
    child: TrainingChild | None = None,
) -> tuple[str | None, str | None]:
    """Run a training process to its end; `reading` is told of the snapshots that it reads, before it has their rows.

    Args:
        job: What to train.
        pipelines: How long it may take, and on how many threads.
        ctx: Progress is reported to it.
        reading: See above.
        child: A process that waits for its job; started here if none is given.

    Returns:
        The version, or None; and why there is none, or None. Both are None where `ctx.stop` ended it.
    """
    with child or TrainingChild(pipelines.training_threads) as process:
        try:
            process.give(job)
        except BrokenPipeError:
            return None, f"the training process ended with {process.wait()} before it had its job"
        return _follow(process, job, pipelines.training_timeout_s, ctx, reading)


def _follow(
    process: TrainingChild, job: Job, timeout_s: float, ctx: WorkerContext, reading: Reading
) -> tuple[str | None, str | None]:
    began = time.monotonic()
    said = "starting"
    while not ctx.stop.is_set():
        spent_s = time.monotonic() - began
        if spent_s > timeout_s:
            return None, f"not done after {timeout_s:.0f} s, at: {said}"
        ctx.report({"open": 1, "training": said, "training_s": round(spent_s, 1)})
        try:
            line = process.line(POLL_S)
        except queue.Empty:
            continue
        if line is None:
            return None, f"the training process ended with {process.wait()}, at: {said}"
        if line.kind == "read":
            reading(json.loads(line.text))
            continue
        said = line.text
        log.info("trainer.process", order=job.order_id, kind=line.kind, text=said)
        if line.kind == "built":
            return said, None
        if line.kind == "failed":
            return None, said
    return None, None


def _candidate(
    ctx: WorkerContext,
    order: RetrainingOrder,
    stores: StoreSettings,
    pipelines: PipelineSettings,
    models_dir: Path,
    reading: Reading,
    spare: Spare,
) -> Candidate | None:
    """The answer to an order; None where the worker was stopped before there was one."""
    model = str(usecase.load("schemas", ctx.case).MODEL)
    built = built_for(models_dir, model, order.event_id)
    if built is None:
        job = Job(
            case=ctx.case,
            stores=stores.model_copy(update={"redis_password": None}),
            models_dir=str(models_dir),
            since_ms=order.since_ms,
            until_ms=order.until_ms,
            order_id=order.event_id,
            champion=order.version,
        )
        version, error = train(job, pipelines, ctx, reading, spare.take())
        if version is None and error is None:
            return None
        training_work.forget(training_work.place(models_dir, ctx.case, order.event_id))
        if version is None:
            return _answer(order, model, error=error)
        built = Manifest.read(models_dir / model / version)
    return _answer(order, model, built=built, folder=models_dir / model / built.version)


def built_for(models_dir: Path, model: str, order_id: str) -> Manifest | None:
    """The version that was finished for an order before its candidate could be published."""
    for version in reversed(manifest.versions(models_dir, model)):
        found = Manifest.read(models_dir / model / version)
        if found.order_id == order_id:
            return found
    return None


def access(
    case: str,
    span_ms: tuple[int, int],
    snapshots: Mapping[str, int],
    *,
    by: str,
    purpose: str,
    order_id: str | None = None,
) -> DataAccess:
    """Who reads requests of `[since, until)`, what for, and which snapshots: an event for the record."""
    now_ms = time.time_ns() // 1_000_000
    return DataAccess(
        event_id=f"access-{case}-{uuid4().hex}",
        event_time_ms=min(span_ms[1], now_ms),
        case=case,
        decided_at_ms=now_ms,
        by=by,
        purpose=purpose,
        order_id=order_id,
        since_ms=span_ms[0],
        until_ms=span_ms[1],
        snapshots=dict(snapshots),
    )


def _recorded(control: ControlLog, order: RetrainingOrder) -> Reading:
    """Publishes each reading for an order; a training that is begun again reads again."""
    span_ms, of = (order.since_ms, order.until_ms), order.event_id
    purpose = f"retraining: {order.reason}"

    def reading(snapshots: Mapping[str, int]) -> None:
        control.publish(
            access(order.case, span_ms, snapshots, by="trainer", purpose=purpose, order_id=of)
        )

    return reading


def _answer(
    order: RetrainingOrder,
    model: str,
    *,
    built: Manifest | None = None,
    folder: Path | None = None,
    error: str | None = None,
) -> Candidate:
    return Candidate(
        event_id=f"candidate-{order.event_id}"[:128],
        event_time_ms=order.event_time_ms,
        case=order.case,
        decided_at_ms=time.time_ns() // 1_000_000,
        order_id=order.event_id,
        model=model,
        version=built.version if built else None,
        folder=str(folder) if folder else None,
        digest=manifest.folder_digest(folder) if folder else None,
        metrics=built.metrics if built else {},
        error=error[:ERROR_CHARS_MAX] if error else None,
    )
