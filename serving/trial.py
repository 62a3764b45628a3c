"""A candidate tried: verified, and measured on the same held-out rows as the champion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from features.views import Plan
from schemas.control import Candidate, Release
from schemas.manifest import HOLDOUT_FILE, REFERENCE_FILE
from serving.manifest import ModelRefused
from serving.registry import Registry, UnknownVersion
from serving.runtime import Expected, Matrix, Model, ModelFailed, Scores, load

if TYPE_CHECKING:
    from features.settings import StoreSettings

# The runtime that serves, against the estimator that was fitted, on the reference rows: float32 sums of leaves differ by
# 5e-7, a wrong conversion by 0.09.
DIFFERENCE_MAX = 1e-5

log = structlog.get_logger()


@dataclass(frozen=True)
class Trial:
    """What champion and candidate scored on the same held-out rows."""

    champion: dict[str, float]
    candidate: dict[str, float]
    rows: int


def trial(
    candidate: Candidate, release: Release, registry: Registry, stores: StoreSettings
) -> Trial:
    """Verify a candidate, and score its held-out rows with it and with the champion.

    A champion that cannot be measured on them has no metrics.

    Raises:
        ModelRefused, UnknownVersion, ModelFailed: The candidate is not what it says, or does not work.
    """
    version = str(candidate.version)
    # An empty digest matches nothing: a candidate that does not say what it is cannot be verified.
    registry.verify(candidate.model, version, candidate.digest or "")
    folder = registry.path(candidate.model, version)
    model = load(folder, Expected.of(candidate.case, Plan.load(stores.plan_path)))
    _refuse_unlike_its_estimator(model, folder)
    rows = read_rows(folder / HOLDOUT_FILE, (*model.manifest.inputs, "label"))
    labels = rows["label"].to_numpy()
    champion: dict[str, float] = {}
    try:
        reigning = load(registry.path(release.model, release.champion))
        champion = measure(labels, reigning.predict(matrix_of(reigning, rows)))
    except (ModelRefused, UnknownVersion, ModelFailed) as error:
        log.warning("admission.champion_unmeasured", version=release.champion, reason=str(error))
    tried = measure(labels, model.predict(matrix_of(model, rows)))
    return Trial(champion, tried, rows.num_rows)


def measure(labels: np.ndarray, scores: Scores) -> dict[str, float]:
    """`auc`, `log_loss` and `brier`; NaN where the labels are of one class only."""
    # Takes a second to import, which a worker without a candidate need not pay.
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score  # noqa: PLC0415

    if len(np.unique(labels)) < 2:  # noqa: PLR2004 - two classes
        return {"auc": float("nan"), "log_loss": float("nan"), "brier": float("nan")}
    return {
        "auc": float(roc_auc_score(labels, scores)),
        "log_loss": float(log_loss(labels, scores)),
        "brier": float(brier_score_loss(labels, scores)),
    }


def matrix_of(model: Model, rows: pa.Table) -> Matrix:
    """The columns that this model reads, in its own order: the champion may have been trained on other ones.

    Raises:
        ModelRefused: The rows lack some.
    """
    inputs = model.manifest.inputs
    _refuse_missing(f"{model.manifest.model} {model.version} on held-out rows", rows, inputs)
    return np.column_stack([rows[name].to_numpy() for name in inputs]).astype(np.float32)


def _refuse_unlike_its_estimator(model: Model, folder: Path) -> None:
    rows = read_rows(folder / REFERENCE_FILE, (*model.manifest.inputs, "score"))
    scores = model.predict(matrix_of(model, rows))
    difference = float(np.abs(scores - rows["score"].to_numpy()).max(initial=0.0))
    if not difference <= DIFFERENCE_MAX:
        raise ModelRefused(
            str(folder),
            wanted=f"scores within {DIFFERENCE_MAX} of the estimator's on its reference rows",
            came=f"they differ by up to {difference:.2g}",
            mend="The conversion is wrong for this runtime: train again on float32 inputs.",
        )


def read_rows(path: Path, columns: Sequence[str]) -> pa.Table:
    """The rows that a version brought along.

    Raises:
        ModelRefused: There are none to be read, or not with these columns.
    """
    try:
        rows = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ModelRefused(
            str(path),
            wanted="a Parquet table",
            came=str(error).splitlines()[0],
            mend="Train the version again.",
        ) from error
    _refuse_missing(str(path), rows, columns)
    return rows


def _refuse_missing(where: str, rows: pa.Table, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in rows.column_names]
    if missing:
        raise ModelRefused(where, wanted=f"columns {list(columns)}", came=f"there is no {missing}")
