"""One training in a process of its own: `python -m pipelines.train_process CASE`, a `Job` on stdin, lines of JSON on stdout.

It runs at low priority on one core, so that scoring keeps its own. What it imports takes seconds; that is done before the job
comes, so that whoever starts it early has it ready. It holds its stdin open: when whoever asked
for the training dies, even by kill -9, the pipe closes and the process ends before it publishes a folder nobody waits for.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field

from features.settings import StoreSettings
from schemas import usecase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipelines.lineage import TrainingRun
    from pipelines.training_set import TrainingSet

NICENESS = 10
# What sklearn, numpy and DuckDB would take from the cores that score.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Job(BaseModel):
    """What to train: a version on requests of `[since_ms, until_ms)`, by the use case's `train` if not told otherwise.

    It is told by an `estimator`, or by a `champion`: the version that is to be fitted anew.
    Rows are compared with those of the version `like`, or of the newest. With `accept_data` they are not: a person has looked at
    them. `run_id` is what lineage calls a training without an order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    case: str
    stores: StoreSettings
    models_dir: str
    since_ms: int
    until_ms: int
    order_id: str | None = None
    estimator: str | None = None
    champion: str | None = None
    like: str | None = None
    accept_data: bool = False
    run_id: str = Field(default_factory=lambda: str(uuid4()))


Kind = Literal["progress", "read", "built", "failed"]


class Line(BaseModel):
    """One line of output: progress, what of the lake is read, at last the version, or the reason why there is none.

    The text of "read" is JSON: lake table → Iceberg snapshot.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    text: str


def main() -> int:
    """Do the job on stdin. Returns 1 where it failed; of anything unforeseen there is a traceback on stderr."""
    os.nice(NICENESS)
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    # Heavy imports only now: the parent's death is already watched.
    from pipelines import estimators, training  # noqa: PLC0415
    from pipelines.lineage import TrainingRun  # noqa: PLC0415
    from schemas.errors import HeadraceError  # noqa: PLC0415

    for layer in ("schemas", "pipelines"):
        usecase.load(layer, sys.argv[1])
    # Of what was imported, which may be of yesterday when the job comes.
    origin = training.Origin.now()
    job = Job.model_validate_json(jobs.get())
    models_dir = Path(job.models_dir)
    run = TrainingRun(job.stores, job.case, job.order_id, job.run_id)
    name, chosen = job.estimator, ""
    try:
        if name is None and job.champion is not None:
            name, chosen = estimators.as_champion(job.case, models_dir, job.champion)
            _say("progress", chosen)
        built = training.build(
            _rows(job, models_dir, run),
            models_dir,
            estimator_name=name,
            order_id=job.order_id,
            chosen=chosen,
            origin=origin,
            progress=lambda text: _say("progress", text),
        )
    except Exception as error:  # noqa: BLE001 - whatever it is, it ends this run, and somebody waits to hear of it
        why = str(error)
        if not isinstance(error, HeadraceError):
            traceback.print_exc()
            why = f"{type(error).__name__}: {why}"
        run.fail(why)
        _say("failed", why)
        return 1
    run.complete(built, models_dir)
    _say("built", built.version)
    return 0


def _rows(job: Job, models_dir: Path, run: TrainingRun) -> TrainingSet:
    """The rows, from the lake or as an attempt before this one has kept them; checked against the last good ones."""
    from features.views import Plan  # noqa: PLC0415
    from pipelines import training_checks, training_work  # noqa: PLC0415
    from pipelines.training_set import training_set  # noqa: PLC0415

    plan = Plan.load(job.stores.plan_path)
    folder = training_work.place(models_dir, job.case, job.order_id) if job.order_id else None
    rows = training_work.kept(folder, plan) if folder else None
    if rows is not None:
        run.begin(rows.snapshots)
        _say("progress", "going on with the rows of an earlier attempt")
    else:
        _say("progress", "reading the lake and computing features as of each request")

        def reading(snapshots: Mapping[str, int]) -> None:
            _say("read", json.dumps(dict(snapshots)))
            run.begin(snapshots)

        rows = training_set(job.case, plan, job.stores, job.since_ms, job.until_ms, reading=reading)
        if folder:
            training_work.keep(folder, rows)
    if not job.accept_data:
        model = str(usecase.load("schemas", job.case).MODEL)
        last = training_checks.LastGood.of(
            models_dir, model, job.like, lambda text: _say("progress", text)
        )
        training_checks.refuse_unlike(rows, last, training_checks.checks_of(job.case))
    return rows


def _say(kind: Kind, text: str) -> None:
    sys.stdout.write(Line(kind=kind, text=text).model_dump_json() + "\n")
    sys.stdout.flush()


def _listen(jobs: queue.SimpleQueue[bytes]) -> None:
    """Hand on the job, and end with the parent."""
    # The raw descriptor: a thread that waits inside sys.stdin holds its lock, and the interpreter cannot end.
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        if line := stdin.readline():
            jobs.put(line)
        while stdin.read(1024):
            continue
    os._exit(2)


if __name__ == "__main__":
    sys.exit(main())
