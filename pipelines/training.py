"""From a training set to a version: the fit, ONNX, the proof that both say the same, the manifest."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from pipelines import estimators, sbom, training_work
from pipelines.model_card import card
from pipelines.onnx_model import Classifier, Matrix, convert, verify
from pipelines.training_set import Labels, Rows, TrainingRefused, TrainingSet, training_set
from schemas import manifest, usecase
from schemas.manifest import (
    CARD_FILE,
    HOLDOUT_FILE,
    MODEL_FILE,
    REFERENCE_FILE,
    Manifest,
    Trained,
    file_digest,
)

__all__ = ["Rows", "TrainingRefused", "TrainingSet", "build", "measure", "training_set"]

REFERENCE_ROWS_MAX = 5_000
PROJECT = Path(__file__).parents[1]

Progress = Callable[[str], None]


class Origin(NamedTuple):
    """What trains: the revision of the code, and the digest of the lock of its environment."""

    code: str
    lock: str

    @classmethod
    def now(cls) -> Origin:
        """As they lie on disk."""
        return cls(_revision(), file_digest(sbom.LOCK) if sbom.LOCK.exists() else sbom.UNKNOWN)


def build(
    training: TrainingSet,
    models_dir: Path,
    *,
    estimator_name: str | None = None,
    order_id: str | None = None,
    chosen: str = "",
    origin: Origin | None = None,
    progress: Progress = lambda _: None,
) -> Manifest:
    """Fit, convert, prove the conversion, measure on the held-out rows, and put the version in its place.

    The folder appears whole, by renaming, under the next free version.

    Args:
        training: The rows.
        models_dir: Where versions lie.
        estimator_name: One of the use case's `ESTIMATORS`; its `train` for None.
        order_id: The order that this answers.
        chosen: Why this estimator, for the card.
        origin: What trains; that of now if not given.
        progress: Told what is being done.

    Raises:
        UnknownEstimator: The use case has no such estimator.
        TrainingRefused: An input has no value in any row.
        ConversionRefused: The ONNX model says something else than the estimator.
        NoFreeVersion: Others are building as well, and took every name.
    """
    use_case = usecase.load("pipelines", training.case)
    name, fit = estimators.estimator(training.case, estimator_name)
    _refuse_valueless(training)
    progress(f"fitting {name} on {len(training.train):,} rows of {len(training.inputs)} inputs")
    estimator = fit(training.train.matrix, training.train.labels)
    progress("converting to ONNX and comparing")
    model = convert(estimator, len(training.inputs))
    difference = verify(model, estimator, training.holdout.matrix)
    scores = estimator.predict_proba(training.holdout.matrix)[:, 1]
    metrics = measure(training.holdout.labels, scores)
    progress(f"held-out AUC {metrics['auc']:.4f}, ONNX differs by {difference:.1g} at most")
    home = models_dir / usecase.load("schemas", training.case).MODEL
    folder = training_work.building(home, order_id)
    try:
        (folder / MODEL_FILE).write_bytes(model.SerializeToString())
        pq.write_table(_reference(training, estimator, use_case.SEED), folder / REFERENCE_FILE)
        pq.write_table(_holdout(training, scores), folder / HOLDOUT_FILE)
        draft = _manifest(
            training, use_case, name, estimator, metrics, order_id, origin or Origin.now()
        )
        reliance = _reliance(training, estimator, metrics["auc"], use_case.SEED)
        (folder / CARD_FILE).write_text(card(draft, reliance, chosen), encoding="utf-8")
        files = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
        if sbom.LOCK.exists():
            sbom.ensure(sbom.LOCK, models_dir)
        return manifest.place(draft.model_copy(update={"files": files}), folder, models_dir)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_valueless(training: TrainingSet) -> None:
    """Trees cannot cut a column without a value: sklearn stops at it, and says nothing of which."""
    columns = zip(training.inputs, training.train.matrix.T, strict=True)
    names = [name for name, values in columns if np.isnan(values).all()]
    if names:
        raise TrainingRefused(
            f"training set of {training.case}",
            wanted="at least one value of every input",
            came=f"there is none of {', '.join(names)}",
            mend="Is its source in the lake? Else take the feature out of the service.",
        )


def measure(labels: Labels, scores: NDArray[np.float64]) -> dict[str, float]:
    """`auc`, `log_loss`, `brier` and `rows`; both classes must be present."""
    return {
        "auc": float(roc_auc_score(labels, scores)),
        "log_loss": float(log_loss(labels, scores)),
        "brier": float(brier_score_loss(labels, scores)),
        "rows": float(len(labels)),
    }


def _reliance(
    training: TrainingSet, estimator: Classifier, auc: float, seed: int
) -> dict[str, float]:
    """Input → held-out AUC lost where its values are shuffled among the rows (Breiman: Random Forests, 2001)."""
    generator = np.random.default_rng(seed)
    rows = training.holdout
    lost = {}
    for index, name in enumerate(training.inputs):
        shuffled = rows.matrix.copy()
        shuffled[:, index] = generator.permutation(shuffled[:, index])
        lost[name] = auc - float(
            roc_auc_score(rows.labels, estimator.predict_proba(shuffled)[:, 1])
        )
    return lost


def _reference(training: TrainingSet, estimator: Classifier, seed: int) -> pa.Table:
    count = min(REFERENCE_ROWS_MAX, len(training.train))
    drawn = np.random.default_rng(seed).choice(len(training.train), count, replace=False)
    drawn.sort()
    chosen = training.train.matrix[drawn]
    return pa.table(
        {
            **_columns(training, chosen),
            "score": estimator.predict_proba(chosen)[:, 1],
            "label": training.train.labels[drawn],
        }
    )


def _holdout(training: TrainingSet, scores: NDArray[np.float64]) -> pa.Table:
    rows = training.holdout
    return pa.table(
        {
            **_columns(training, rows.matrix),
            "label": rows.labels,
            "request_id": pa.array(rows.request_ids, pa.string()),
            "event_time_ms": rows.event_time_ms,
            "score": scores,
        }
    )


def _columns(training: TrainingSet, values: Matrix) -> dict[str, Matrix]:
    return {name: values[:, index] for index, name in enumerate(training.inputs)}


def _manifest(
    training: TrainingSet,
    use_case: ModuleType,
    name: str,
    estimator: Classifier,
    metrics: dict[str, float],
    order_id: str | None,
    origin: Origin,
) -> Manifest:
    """All but the version, which is known only when the folder has its name, and the files, which are not all there yet."""
    parameters = {k: v for k, v in estimator.get_params().items() if _plain(v)}
    return Manifest(
        model=usecase.load("schemas", training.case).MODEL,
        version="",
        case=training.case,
        service=training.service,
        inputs=training.inputs,
        definitions=dict(training.definitions),
        contract=manifest.contract_digest(training.case),
        threshold=use_case.THRESHOLD,
        trained=Trained(
            since_ms=training.since_ms,
            until_ms=training.until_ms,
            rows=len(training.train),
            label_rate=training.train.label_rate,
            covered_ms=training.train.covered_ms,
        ),
        snapshots=dict(training.snapshots),
        metrics=metrics,
        parameters=parameters,
        seed=use_case.SEED,
        code=origin.code,
        lock=origin.lock,
        created_ms=time.time_ns() // 1_000_000,
        order_id=order_id,
        estimator=name,
        files={},
    )


def _plain(value: Any) -> bool:  # noqa: ANN401 - an estimator's parameters may be anything
    if isinstance(value, float) and not isfinite(value):
        return False  # JSON has no NaN, which is what an imputer takes for missing
    return value is None or isinstance(value, str | int | float | bool)


def _revision() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    asked = subprocess.run(  # noqa: S603 - a fixed command line
        [git, "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"
