"""What a champion was trained on, and how it scores: the reference of drift, read from its model folder.

Inputs are compared with training rows, because those are what it knows. Scores are compared with those of the rows that were held
out: of rows that it was fitted on a model is surer than of any others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from monitoring.two_samples import Sample
from schemas.errors import HeadraceError
from schemas.manifest import HOLDOUT_FILE, MANIFEST_FILE, REFERENCE_FILE


class MissingReference(HeadraceError):
    """A released model's folder lacks what drift compares with."""


@dataclass(frozen=True)
class Reference:
    """A version's training sample and held-out metrics.

    Attributes:
        version: Of the model.
        inputs: Column → values of up to 5,000 training rows, NaN for null.
        score: The model's own scores of as many held-out rows at most, evenly over their time; of the training rows in versions
            that did not keep those.
        auc, log_loss, rows, label_rate: Of its held-out rows.
    """

    version: str
    inputs: dict[str, NDArray[np.float64]]
    score: NDArray[np.float64]
    auc: float | None
    log_loss: float | None
    rows: int
    label_rate: float | None

    @cached_property
    def samples(self) -> dict[str, Sample]:
        """The inputs as the kernel takes them: sorted or counted once for all windows."""
        return {name: Sample(values) for name, values in self.inputs.items()}

    @cached_property
    def score_sample(self) -> Sample:
        """The scores, likewise."""
        return Sample(self.score)


def load(models_dir: Path, model: str, version: str) -> Reference:
    """Read `<models_dir>/<model>/<version>/`.

    Raises:
        MissingReference: The folder lacks `manifest.json` or `reference.parquet`, or they disagree; or `holdout.parquet` is none.
    """
    folder = models_dir / model / version
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        table = pq.read_table(folder / REFERENCE_FILE)
        columns = {name: _floats(table, name) for name in (*manifest["inputs"], "score")}
        score = _held_out(folder, table.num_rows)
    except (OSError, ValueError, KeyError) as error:
        raise MissingReference(
            f"the reference of {model} {version} in {folder}",
            wanted="manifest.json, and reference.parquet with every input and `score`",
            came=f"{type(error).__name__}: {error}",
            mend="Was the model folder moved or cleaned? Restore it, or release another version.",
        ) from error
    training = columns.pop("score")
    metrics = manifest.get("metrics", {})
    return Reference(
        version=version,
        score=training if score is None else score,
        inputs=columns,
        auc=metrics.get("auc"),
        log_loss=metrics.get("log_loss"),
        rows=int(metrics.get("rows", 0)),
        label_rate=manifest.get("trained", {}).get("label_rate"),
    )


def _held_out(folder: Path, rows_max: int) -> NDArray[np.float64] | None:
    path = folder / HOLDOUT_FILE
    if not path.exists() or "score" not in pq.read_schema(path).names:
        return None
    scores = _floats(pq.read_table(path, columns=["score"]), "score")
    return scores[np.linspace(0, len(scores) - 1, min(rows_max, len(scores))).astype(np.intp)]


def _floats(table: pq.Table, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = table.column(name).cast("float64").to_numpy()
    return values
