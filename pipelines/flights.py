"""Flights: how its model is fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sklearn.ensemble import HistGradientBoostingClassifier

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipelines.onnx_model import Matrix

SEED = 2013
# A flight is called late when that is likelier than not.
THRESHOLD = 0.5


def train(matrix: Matrix, labels: NDArray[np.bool_]) -> HistGradientBoostingClassifier:
    """Fit on float32 rows; categories are codes, which trees split like numbers. Same rows, same model.

    Early stopping is off: it would hold out rows at random, and so judge by flights of hours it was fitted on.
    """
    estimator = HistGradientBoostingClassifier(
        learning_rate=0.05,
        max_iter=200,
        max_leaf_nodes=15,
        min_samples_leaf=50,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=SEED,
    )
    return estimator.fit(matrix, labels)
