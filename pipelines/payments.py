"""Payments: how its model is fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sklearn.ensemble import HistGradientBoostingClassifier

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipelines.onnx_model import Matrix

SEED = 45
# A payment is held back when fraud is likelier than not.
THRESHOLD = 0.5


def train(matrix: Matrix, labels: NDArray[np.bool_]) -> HistGradientBoostingClassifier:
    """Fit on float32 rows; categories are codes, which trees split like numbers. Same rows, same model.

    Early stopping is off: it would hold out rows at random, and so judge by payments of bursts it was fitted on.
    """
    estimator = HistGradientBoostingClassifier(
        learning_rate=0.08,
        max_iter=150,
        max_leaf_nodes=15,
        min_samples_leaf=20,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=SEED,
    )
    return estimator.fit(matrix, labels)
