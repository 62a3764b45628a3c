"""How its model is fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sklearn.ensemble import HistGradientBoostingClassifier

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipelines.onnx_model import Matrix

SEED = 38
THRESHOLD = 0.5


def train(matrix: Matrix, labels: NDArray[np.bool_]) -> HistGradientBoostingClassifier:
    """Thirty trees: a second."""
    estimator = HistGradientBoostingClassifier(
        max_iter=30, max_leaf_nodes=15, early_stopping=False, random_state=SEED
    )
    return estimator.fit(matrix, labels)
