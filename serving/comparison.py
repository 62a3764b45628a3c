"""A variant beside the version that it was made of: what it saves, and what that costs, on the same held-out rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from serving.runtime import Matrix, Model, Scores
from serving.trial import measure

# One request alone, and what a batch holds at most by default.
BATCHES = (1, 256)
# A median of so many holds still: within 3 % of itself, run after run.
TURNS = 200
WARM_UP_TURNS = 20


@dataclass(frozen=True)
class Measured:
    """One version on the held-out rows.

    Attributes:
        bytes: Of its ONNX file.
        us_per_row: Rows in a batch → median microseconds a row, on the CPU, one thread.
        metrics: `auc`, `log_loss`, `brier`.
        company: How far a row's score moves with the batch it comes in, at most. Dynamic quantisation scales by the
            batch, so that an INT8 score depends on who else is asked about.
    """

    version: str
    precision: str
    bytes: int
    us_per_row: dict[int, float]
    metrics: dict[str, float]
    company: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """A variant against its origin.

    Attributes:
        rows: How many held-out rows were scored.
        greatest: The greatest difference of two scores of one row.
        flipped: Rows whose label is another at the version's threshold.
        loss: Metric → by how much the variant is worse; below 0 where it is better.
    """

    variant: Measured
    rows: int
    greatest: float
    flipped: int
    loss: dict[str, float] = field(default_factory=dict)


def compare(
    origin: Measured, variant: Measured, scores: tuple[Scores, Scores], threshold: float
) -> Comparison:
    """What became of the scores (pure); `scores` are the origin's and the variant's of the same rows."""
    before, after = scores
    worse = {name: origin.metrics[name] - variant.metrics[name] for name in origin.metrics}
    return Comparison(
        variant=variant,
        rows=len(before),
        greatest=float(np.abs(before - after).max(initial=0.0)),
        flipped=int(((before >= threshold) != (after >= threshold)).sum()),
        # Of the area more is better, of the losses less.
        loss={name: by if name == "auc" else -by for name, by in worse.items()},
    )


def measured(
    models: Sequence[Model], sizes: Sequence[int], rows: Matrix, labels: np.ndarray
) -> tuple[list[Measured], list[Scores]]:
    """Score the rows with every model, and time them by turns, so that what slows the machine slows all of them.

    Raises:
        ModelFailed: A model answers what is no score.
    """
    scores = [scored(model, rows) for model in models]
    us = {batch: _us_per_row(models, _batch(rows, batch)) for batch in BATCHES}
    found = [
        Measured(
            version=model.version,
            precision=model.manifest.precision,
            bytes=size,
            us_per_row={batch: us[batch][at] for batch in BATCHES},
            metrics=measure(labels, scores[at]),
            company=_company(model, rows[: BATCHES[-1]]),
        )
        for at, (model, size) in enumerate(zip(models, sizes, strict=True))
    ]
    return found, scores


def scored(model: Model, rows: Matrix) -> Scores:
    """The scores of many rows, asked for in batches as large as a scorer's, because in INT8 they depend on it.

    Raises:
        ModelFailed: The model answers what is no score.
    """
    batches = range(0, len(rows), BATCHES[-1])
    return np.concatenate([model.predict(rows[at : at + BATCHES[-1]]) for at in batches])


def _company(model: Model, rows: Matrix) -> float:
    alone = np.concatenate([model.predict(rows[at : at + 1]) for at in range(len(rows))])
    return float(np.abs(alone - model.predict(rows)).max(initial=0.0))


def _batch(rows: Matrix, count: int) -> Matrix:
    return np.ascontiguousarray(np.resize(rows, (count, rows.shape[1])))


def _us_per_row(models: Sequence[Model], batch: Matrix) -> list[float]:
    took_ns: list[list[int]] = [[] for _ in models]
    for turn in range(WARM_UP_TURNS + TURNS):
        for at, model in enumerate(models):
            began_ns = time.perf_counter_ns()
            model.outputs(batch)
            if turn >= WARM_UP_TURNS:
                took_ns[at].append(time.perf_counter_ns() - began_ns)
    return [median(took) / 1000 / len(batch) for took in took_ns]
