from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neighbors import KNeighborsClassifier

from pipelines.onnx_model import ConversionRefused, Matrix, convert, verify

RNG = np.random.default_rng(7)


def rows(count: int = 2_000) -> tuple[Matrix, np.ndarray]:
    matrix = RNG.normal(size=(count, 4)).astype(np.float32)
    matrix[RNG.random(matrix.shape) < 0.1] = np.nan
    labels = np.nan_to_num(matrix[:, 0]) + RNG.normal(size=count) > 0.5
    return matrix, labels


def fitted(matrix: np.ndarray, labels: np.ndarray) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(max_iter=20, random_state=1).fit(matrix, labels)


def test_an_estimator_says_the_same_as_onnx_with_missing_values() -> None:
    matrix, labels = rows()
    estimator = fitted(matrix, labels)
    assert verify(convert(estimator, 4), estimator, matrix) < 1e-6


def test_a_model_of_other_trees_is_refused() -> None:
    matrix, labels = rows()
    model = convert(fitted(matrix, labels), 4)
    with pytest.raises(ConversionRefused, match="differ by"):
        verify(model, fitted(matrix, ~labels), matrix)


def test_categorical_features_are_refused_because_the_conversion_is_wrong() -> None:
    """skl2onnx converts them without a word and is wrong by up to 0.96: the trap the check is for."""
    codes = RNG.integers(0, 12, size=(3_000, 1)).astype(np.float32)
    labels = np.isin(codes[:, 0], [1, 4, 9]) ^ (RNG.random(3_000) < 0.05)
    estimator = HistGradientBoostingClassifier(
        max_iter=20, categorical_features=[0], random_state=1
    ).fit(codes, labels)
    with pytest.raises(ConversionRefused):
        verify(convert(estimator, 1), estimator, codes)


def test_an_estimator_that_cannot_be_converted_is_refused_in_a_sentence() -> None:
    class Unknown(KNeighborsClassifier):
        pass

    matrix, labels = rows(50)
    with pytest.raises(ConversionRefused) as caught:
        convert(Unknown().fit(np.nan_to_num(matrix), labels), 4)
    assert len(str(caught.value)) < 500


def test_the_patch_of_onnx_is_taken_back() -> None:
    original = helper.make_attribute
    matrix, labels = rows(200)
    convert(fitted(matrix, labels), 4)
    assert helper.make_attribute is original
