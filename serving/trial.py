"""A candidate tried: verified, and measured on the same held-out rows as the champion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog
from numpy.typing import NDArray

from features.views import Plan
from schemas import usecase
from schemas.control import Candidate, Release
from schemas.manifest import HOLDOUT_FILE, REFERENCE_FILE
from serving.manifest import ModelRefused
from serving.registry import Registry, UnknownVersion
from serving.resamples import Floats, differences
from serving.robustness import robustness
from serving.runtime import Expected, Matrix, Model, ModelFailed, Scores, load

if TYPE_CHECKING:
    from features.settings import StoreSettings

# The runtime that serves, against the estimator that was fitted, on the reference rows: float32 sums of leaves differ by
# 5e-7, a wrong conversion by 0.09.
DIFFERENCE_MAX = 1e-5
# The same candidate on the same rows is judged alike, whenever it is tried again.
SEED = 20_130_101

Labels = NDArray[np.bool_]

log = structlog.get_logger()


@dataclass(frozen=True)
class Trial:
    """What champion and candidate are worth on the same held-out rows.

    Attributes:
        champion: Metric → value; empty where it could not be measured.
        candidate: As `champion`.
        rows: How many there were.
        differences: Metric → candidate minus champion on resamples of the rows; empty where one was not measured.
    """

    champion: dict[str, float] = field(default_factory=dict)
    candidate: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    differences: dict[str, Floats] = field(default_factory=dict)


class _Measured(NamedTuple):
    scores: Scores
    metrics: dict[str, float]


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
    labels = rows["label"].to_numpy().astype(bool)
    tried = _measured(model, rows, labels)
    try:
        reigning = load(registry.path(release.model, release.champion))
        champion = _measured(reigning, rows, labels)
    except (ModelRefused, UnknownVersion, ModelFailed) as error:
        log.warning("admission.champion_unmeasured", version=release.champion, reason=str(error))
        return Trial(candidate=tried.metrics, rows=rows.num_rows)
    varied = (
        differences(labels, champion.scores, tried.scores, seed=SEED)
        if _both_classes(labels)
        else {}
    )
    return Trial(champion.metrics, tried.metrics, rows.num_rows, varied)


def _measured(model: Model, rows: pa.Table, labels: Labels) -> _Measured:
    """What a model scores, what that is worth, and what is left of it when the inputs are not as they should be."""
    matrix = matrix_of(model, rows)
    scores = model.predict(matrix)
    metrics = measure(labels, scores)
    if _both_classes(labels):
        categories = {
            i.name
            for i in usecase.load("schemas", model.manifest.case).INPUTS
            if i.categories is not None
        }
        numbers = [n for n, name in enumerate(model.manifest.inputs) if name not in categories]
        metrics |= robustness(model.predict, matrix, labels, numbers, seed=SEED)
    return _Measured(scores, metrics)


def _both_classes(labels: Labels) -> bool:
    return bool(labels.any() and not labels.all())


def measure(labels: Labels, scores: Scores) -> dict[str, float]:
    """`auc`, `log_loss` and `brier`; NaN where the labels are of one class only."""
    # Takes a second to import, which a worker without a candidate need not pay.
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score  # noqa: PLC0415

    if not _both_classes(labels):
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
