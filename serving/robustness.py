"""What is left of a model when its inputs are a little wrong, partly missing, or far from everything (pure).

What a model is worth on clean rows says nothing of that. Two numbers go through the gate as metrics beside the others:

- `auc_jittered`: every number moves by up to `JITTER` of its interquartile range. Of `DRAWS` tries each row keeps the one that
  moves its score furthest to the wrong side: a random search by an adversary who knows scores and labels, not the model.
- `auc_without_one`: the least AUC with one input missing everywhere, as when a view's rings are gone.

And beyond the range that the rows have seen, or with nothing known at all, it must still give a score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from serving.output_contract import Matrix, Scores

JITTER = 0.05
DRAWS = 8
# How far beyond the greatest and the least value seen, in ranges.
BEYOND = 10.0
# An input is taken away for so many rows at most: there are as many passes as inputs.
ROWS_MAX = 4_000

Predict = Callable[[Matrix], Scores]
Bools = NDArray[np.bool_]


def robustness(
    predict: Predict, matrix: Matrix, labels: Bools, numbers: Iterable[int], *, seed: int
) -> dict[str, float]:
    """The two metrics.

    Args:
        predict: The model; raises where it gives no usable score.
        matrix: Held-out rows, `[rows, inputs]`, float32.
        labels: `[rows]`, of both classes.
        numbers: The columns that are numbers; categories' codes are never moved.
        seed: Of the draws.

    Raises:
        ModelFailed: The model gives no score to rows that are extreme or empty.
    """
    generator = np.random.default_rng(seed)
    if len(labels) > ROWS_MAX:
        kept = np.sort(generator.choice(len(labels), ROWS_MAX, replace=False))
        matrix, labels = matrix[kept], labels[kept]
    predict(extremes(matrix))
    return {
        "auc_jittered": _auc(labels, _jittered(predict, matrix, labels, list(numbers), generator)),
        "auc_without_one": min(
            _auc(labels, predict(_without(matrix, column))) for column in range(matrix.shape[1])
        ),
    }


def extremes(matrix: Matrix) -> Matrix:
    """A row without any value, one all far above, one all far below, and each input alone far above and far below."""
    seen = np.where(np.isnan(matrix).all(axis=0), 0.0, matrix)
    low, middle, high = np.nanmin(seen, axis=0), np.nanmedian(seen, axis=0), np.nanmax(seen, axis=0)
    reach = BEYOND * np.maximum(high - low, 1.0)
    rows = [np.full(matrix.shape[1], np.nan), high + reach, low - reach]
    for column in range(matrix.shape[1]):
        for value in (high[column] + reach[column], low[column] - reach[column]):
            row = middle.copy()
            row[column] = value
            rows.append(row)
    return np.array(rows, dtype=np.float32)


def _jittered(
    predict: Predict,
    matrix: Matrix,
    labels: Bools,
    numbers: list[int],
    generator: np.random.Generator,
) -> Scores:
    spread = np.zeros(matrix.shape[1], dtype=np.float32)
    if numbers:
        upper, lower = np.nanpercentile(_known(matrix[:, numbers]), [75, 25], axis=0)
        spread[numbers] = JITTER * (upper - lower)
    worst = predict(matrix)
    for _ in range(DRAWS):
        moved = generator.uniform(-1, 1, matrix.shape).astype(np.float32) * spread
        tried = predict(matrix + moved)
        worst = np.where(labels, np.minimum(worst, tried), np.maximum(worst, tried))
    return worst


def _known(columns: Matrix) -> Matrix:
    """Columns without any value have no spread."""
    return np.where(np.isnan(columns).all(axis=0), np.float32(0), columns)


def _without(matrix: Matrix, column: int) -> Matrix:
    lacking = matrix.copy()
    lacking[:, column] = np.nan
    return lacking


def _auc(labels: Bools, scores: Scores) -> float:
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - takes a second

    return float(roc_auc_score(labels, scores))
