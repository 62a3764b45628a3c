"""The trainer: every retraining order is answered by one candidate, whatever crashes in between.

The control log is its only memory. An order without a candidate is open; it is trained in a process of its own and answered
once. After a crash the order is still open, and a version that was already finished for it is found
by the order's id in its manifest instead of being trained again. What was made for an order that was refused meanwhile is removed.
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
from pipelines.lineage import TrainingRun
from pipelines.train_process import Job
from pipelines.training_child import Spare, TrainingChild
from schemas import manifest, usecase
from schemas.control import Brake, BrakeKind, Candidate, DataAccess, RetrainingOrder
from schemas.control_log import ControlLog, Entry

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from features.settings import StoreSettings
    from pipelines.settings import PipelineSettings
    from schemas.manifest import Manifest
    from schemas.settings import KafkaSettings
    from schemas.worker import WorkerContext

TOPICS = ("control.retraining", "control.candidates", "control.brake")
POLL_S = 0.5
# Quoted in a candidate's `error`: enough to see what broke.
ERROR_CHARS_MAX = 500

Reading = Callable[[Mapping[str, int]], None]
Wanted = Callable[[], bool]

log = structlog.get_logger()


class TrainingLost(Exception):
    """The training process has not come to an end of its own."""


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
    def dismissed(self) -> set[str]:
        """The ids of those that were refused, or lapsed, and will never have a candidate."""
        return self._refused - self._answered

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

    A training whose order is refused is given up as well, and nothing is left of it.

    Raises:
        ControlLogUnavailable: Start again; nothing is lost.
    """
    orders, models = OpenOrders(), Path(models_dir)
    with (
        ControlLog(kafka, ctx.case, TOPICS, f"{ctx.case}.trainer") as control,
        closing(Spare(ctx.case, pipelines.training_threads)) as spare,
    ):
        orders.fold(control.read_all())
        _discard(models, ctx.case, orders.dismissed)
        while not ctx.stop.is_set():
            order = orders.first()
            ctx.report({"open": orders.count, "answered": orders.answered, "training": ""})
            if order is None:
                spare.keep()
                orders.fold(control.poll(POLL_S))
                continue
            reading, wanted = _recorded(control, order), _wanted(control, orders, order)
            candidate = _candidate(ctx, order, stores, pipelines, models, reading, wanted, spare)
            if not wanted():
                log.warning("trainer.refused", order=order.event_id)
                _discard(models, ctx.case, {order.event_id} & orders.dismissed)
                continue
            if candidate is None:
                return
            control.publish(candidate)
            # Before a refusal that comes too late is read: the version is on record, and admission's.
            orders.fold([Entry(candidate, candidate.decided_at_ms)])


def train(
    job: Job,
    pipelines: PipelineSettings,
    ctx: WorkerContext,
    reading: Reading = lambda _: None,
    wanted: Wanted = lambda: True,
    child: TrainingChild | None = None,
) -> tuple[str | None, str | None]:
    """Run a training process to its end; `reading` is told of the snapshots that it reads, before it has their rows.

    Args:
        job: What to train.
        pipelines: How long it may take, and on how many threads.
        ctx: Progress is reported to it.
        reading: See above.
        wanted: Asked while it runs, about twice a second.
        child: A process that waits for its job; started here if none is given.

    Returns:
        The version, or None; and why there is none, or None. Both are None where `ctx.stop` ended it, or nobody wants it.
    """
    run = TrainingRun(job.stores, job.case, job.order_id, job.run_id)
    try:
        with child or TrainingChild(job.case, pipelines.training_threads) as process:
            ended = _follow(process, job, pipelines.training_timeout_s, ctx, reading, wanted)
    except TrainingLost as lost:
        if ctx.stop.is_set():
            return None, None  # whoever stopped this worker may have ended the process as well
        # It is dead by now, and says nothing more of itself.
        run.fail(str(lost))
        return None, str(lost)
    if ended == (None, None) and not ctx.stop.is_set():
        run.abort("nobody wants it any more")
    return ended


def _follow(
    process: TrainingChild,
    job: Job,
    timeout_s: float,
    ctx: WorkerContext,
    reading: Reading,
    wanted: Wanted,
) -> tuple[str | None, str | None]:
    try:
        process.give(job)
    except BrokenPipeError as error:
        raise TrainingLost(
            f"the training process ended with {process.wait()} before it had its job"
        ) from error
    began = time.monotonic()
    said = "starting"
    while not ctx.stop.is_set() and wanted():
        spent_s = time.monotonic() - began
        if spent_s > timeout_s:
            raise TrainingLost(f"not done after {timeout_s:.0f} s, at: {said}")
        ctx.report({"open": 1, "training": said, "training_s": round(spent_s, 1)})
        try:
            line = process.line(POLL_S)
        except queue.Empty:
            continue
        if line is None:
            raise TrainingLost(f"the training process ended with {process.wait()}, at: {said}")
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
    wanted: Wanted,
    spare: Spare,
) -> Candidate | None:
    """The answer to an order; None where the worker was stopped before there was one, or nobody wants one any more."""
    model = str(usecase.load("schemas", ctx.case).MODEL)
    built, error = built_for(models_dir, model, order.event_id), None
    if built is None:
        job = Job(
            case=ctx.case,
            stores=stores.model_copy(update={"redis_password": None}),
            models_dir=str(models_dir),
            since_ms=order.since_ms,
            until_ms=order.until_ms,
            order_id=order.event_id,
            champion=order.version,
            like=order.version,
        )
        version, error = train(job, pipelines, ctx, reading, wanted, spare.take())
        if version is None and error is None:
            return None
        # Also where it was ended: it may have finished before.
        built = built_for(models_dir, model, order.event_id)
        error = error or f"{version} cannot be read"
    training_work.forget(training_work.place(models_dir, ctx.case, order.event_id))
    if built is None:
        return _answer(order, model, error=error)
    return _answer(order, model, built=built, folder=models_dir / model / built.version)


def built_for(models_dir: Path, model: str, order_id: str) -> Manifest | None:
    """The version that was finished for an order before its candidate could be published."""
    said = manifest.manifests(models_dir, model)
    return next((one for one in said if one.order_id == order_id), None)


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


def _wanted(control: ControlLog, orders: OpenOrders, order: RetrainingOrder) -> Wanted:
    """Whether an order is open, by all that is on the log by now."""

    def wanted() -> bool:
        orders.fold(control.poll(0))
        return orders.is_open(order)

    return wanted


def _discard(models_dir: Path, case: str, order_ids: Collection[str]) -> None:
    if removed := training_work.discard(models_dir, case, order_ids):
        log.warning("trainer.discarded", versions=removed)


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
