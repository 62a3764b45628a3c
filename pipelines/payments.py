"""Payments: how its models are fitted. Trees answer; a small network is there for machines with a GPU."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import Binarizer, StandardScaler

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.onnx_model import Matrix

SEED = 45
# A payment is held back when fraud is likelier than not.
THRESHOLD = 0.5
# Two hidden layers, and how often the rows are shown to them: more epochs fit bursts by heart.
HIDDEN = (64, 32)
EPOCHS = 15
# Below any amount and any count, and within float32: what a missing value is told apart by.
_ABSENT = -1e30
# A weight below it says nothing. Decay drives those of dead units towards 0, where float32 becomes subnormal: 170 of 6,800
# weights made a batch of 256 ten times as slow.
_NOTHING = 1e-20


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


def neural(matrix: Matrix, labels: NDArray[np.bool_]) -> Pipeline:
    """Fit a network on float32 rows. Same rows, same model, within what BLAS promises on one machine.

    A missing value is its column's median and, in a column beside, a 0 for "not known": a card that has not paid for a
    day is not an average card. scikit-learn's own indicator has no ONNX converter; an imputer and a binarizer have.
    A power transform would suit amounts better, but in float32 it differs from ONNX by more than `DIFFERENCE_MAX`.
    """
    filled = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler()
    )
    known = make_pipeline(
        SimpleImputer(strategy="constant", fill_value=_ABSENT), Binarizer(threshold=_ABSENT / 10)
    )
    network = MLPClassifier(HIDDEN, alpha=0.01, max_iter=EPOCHS, random_state=SEED)
    estimator = Pipeline(
        [("inputs", FeatureUnion([("values", filled), ("known", known)])), ("network", network)]
    )
    with warnings.catch_warnings():
        # It is stopped on purpose. Early stopping would hold out rows at random, as it would for the trees.
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(matrix, labels)
    for weights in network.coefs_:
        weights[np.abs(weights) < _NOTHING] = 0.0
    return estimator


# By name, for `headrace models train --estimator`; a retraining fits what the champion was fitted with.
ESTIMATORS = {"trees": train, "neural": neural}
