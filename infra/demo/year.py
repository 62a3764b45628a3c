"""What the loop was worth over a year: the same flights, answered by it, by the first champion for ever, and by a model a month.

The three see the same logged vectors. "Monthly" is trained on each first of the month as the loop trains, on the sixty days before, and
answers that month: nobody looks whether it is better, and nobody looks whether it is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from infra.demo.audit import vectors

if TYPE_CHECKING:
    from features.settings import StoreSettings
    from features.views import Plan
    from infra.demo.audit import Audit

Json = dict[str, Any]
Progress = Callable[[str], None]

LOOK_BACK = timedelta(days=60)
# The last evening of December is January in UTC, and no month.
MONTH_ROWS_MIN = 500
WAYS = ("loop", "never", "monthly")


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
