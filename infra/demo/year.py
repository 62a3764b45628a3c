"""What the loop was worth over a year: the same flights, answered by it, by the first champion for ever, and by a model a month.

The three see the same logged vectors. "Monthly" is trained on each first of the month as the loop trains, on the sixty days before, and
answers that month: nobody looks whether it is better, and nobody looks whether it is needed.

`python -m infra.demo.year SETTINGS`: JSON on standard output, progress on standard error. A process of its own, since it takes minutes of
one core, and so does the audit beside it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from features.views import Plan
from infra.demo.audit import Audit, vectors
from infra.settings import Settings
from schemas.errors import HeadraceError

if TYPE_CHECKING:
    from features.settings import StoreSettings

Json = dict[str, Any]
Progress = Callable[[str], object]

LOOK_BACK = timedelta(days=60)
# The last evening of December is January in UTC, and no month.
MONTH_ROWS_MIN = 500
WAYS = ("loop", "never", "monthly")


@contextlib.contextmanager
def asked_meanwhile(settings: Path) -> Iterator[Callable[[], Json]]:
    """Begin, and yield what waits for the answer; whoever leaves without it ends the process.

    Raises:
        HeadraceError: By what is yielded: the process failed; why is on standard error.
    """
    command = [sys.executable, "-m", "infra.demo.year", str(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:  # noqa: S603 - fixed

        def answer() -> Json:
            said, _ = child.communicate()
            if child.returncode:
                raise HeadraceError(
                    "what the year was worth",
                    wanted="a comparison",
                    came=f"its process ended with {child.returncode}",
                )
            found: Json = json.loads(said)
            return found

        try:
            yield answer
        finally:
            child.kill()


def worth(
    audit: Audit, case: str, plan: Plan, stores: StoreSettings, progress: Progress = lambda _: None
) -> Json:
    """AUC by month for each of `WAYS`, their means over the months, and what each has cost in trainings and seconds."""
    frame = audit.labelled()
    first = audit.releases()[0]["champion"]
    progress(f"{first} answers all {len(frame):,} flights")
    frame["loop"] = frame.score
    frame["never"] = audit.rescored(first, frame)
    frame["month"] = pd.to_datetime(frame.time_ms, unit="ms").dt.strftime("%Y-%m")
    frame = frame[frame.groupby("month").time_ms.transform("size") >= MONTH_ROWS_MIN].copy()
    trainings_s: list[float] = []
    scores = []
    for month, rows in frame.groupby("month", sort=True):
        progress(f"a model for {month}")
        began_s = time.monotonic()
        scores.append(_of_the_month(case, plan, stores, str(month), rows))
        trainings_s.append(time.monotonic() - began_s)
    frame["monthly"] = pd.concat(scores)
    months = [_month(str(month), rows) for month, rows in frame.groupby("month", sort=True)]
    ordered = audit.trainings_s()
    return {
        "months": months,
        "mean_auc": {way: round(float(np.mean([m[way] for m in months])), 4) for way in WAYS},
        "trainings": {"loop": len(ordered), "never": 0, "monthly": len(trainings_s)},
        "training_s": {
            "loop": round(sum(ordered), 1),
            "never": 0.0,
            "monthly": round(sum(trainings_s), 1),
        },
    }


def _of_the_month(
    case: str, plan: Plan, stores: StoreSettings, month: str, rows: pd.DataFrame
) -> pd.Series[float]:
    from pipelines import estimators  # noqa: PLC0415 - scikit-learn and the lake
    from pipelines.training_set import training_set  # noqa: PLC0415

    until = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    since = until - LOOK_BACK
    made = training_set(case, plan, stores, _ms(since), _ms(until))
    _, fit = estimators.estimator(case, None)
    estimator = fit(made.train.matrix, made.train.labels)
    scored = estimator.predict_proba(vectors(rows, made.inputs))[:, 1]
    return pd.Series(scored, index=rows.index)


def _month(month: str, rows: pd.DataFrame) -> Json:
    aucs = {way: round(float(roc_auc_score(rows.late, rows[way])), 4) for way in WAYS}
    return {"month": month, "flights": len(rows), "late": round(float(rows.late.mean()), 4), **aucs}


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def main() -> None:
    """The command."""
    settings = Settings.read(Path(sys.argv[1]))
    audit = Audit(settings.kafka, settings.case, settings.serving.models_dir)
    plan = Plan.load(settings.stores.plan_path)
    found = worth(
        audit, settings.case, plan, settings.stores, lambda line: sys.stderr.write(f"  {line}\n")
    )
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
