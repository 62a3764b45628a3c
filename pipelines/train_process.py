"""One training in a process of its own: `python -m pipelines.train_process`, a `Job` on stdin, lines of JSON on stdout.

It runs at low priority on one core, so that scoring keeps its own. It holds its stdin open: when whoever asked
for the training dies, even by kill -9, the pipe closes and the process ends before it publishes a folder nobody waits for.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from features.settings import StoreSettings

NICENESS = 10
# What sklearn, numpy and DuckDB would take from the cores that score.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Job(BaseModel):
    """What to train: a version on requests of `[since_ms, until_ms)`, by the use case's `train` if not told otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    case: str
    stores: StoreSettings
    models_dir: str
    since_ms: int
    until_ms: int
    order_id: str | None = None
    estimator: str | None = None


class Line(BaseModel):
    """One line of output: progress, at last the version, or the reason why there is none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["progress", "built", "failed"]
    text: str


def main() -> int:
    """Do the job on stdin. Returns 1 where it was refused; anything unforeseen is a traceback on stderr."""
    os.nice(NICENESS)
    job = Job.model_validate(json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Heavy imports only now: the parent's death is already watched.
    from features.views import Plan  # noqa: PLC0415
    from pipelines import training  # noqa: PLC0415
    from schemas.errors import HeadraceError  # noqa: PLC0415

    try:
        _say("progress", "reading the lake and computing features as of each request")
        plan = Plan.load(job.stores.plan_path)
        made = training.training_set(job.case, plan, job.stores, job.since_ms, job.until_ms)
        built = training.build(
            made,
            Path(job.models_dir),
            estimator_name=job.estimator,
            order_id=job.order_id,
            progress=lambda text: _say("progress", text),
        )
    except HeadraceError as error:
        _say("failed", str(error))
        return 1
    _say("built", built.version)
    return 0


def _say(kind: Literal["progress", "built", "failed"], text: str) -> None:
    sys.stdout.write(Line(kind=kind, text=text).model_dump_json() + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    # The raw descriptor: a thread that waits inside sys.stdin would hold its lock when the interpreter ends.
    while os.read(0, 1024):
        continue
    os._exit(2)


if __name__ == "__main__":
    sys.exit(main())
