from __future__ import annotations

import numpy as np
import pytest

from serving.output_contract import Matrix, ModelFailed, Scores
from serving.robustness import extremes, robustness

COLUMNS = 4
FIRST = np.array([[1, 0, 0, 0]], dtype=np.float32)


def rows(count: int = 2_000) -> tuple[Matrix, np.ndarray]:
    """Three numbers that say a third of the label each, and a category."""
    dice = np.random.default_rng(1)
    matrix = dice.normal(size=(count, COLUMNS)).astype(np.float32)
    matrix[:, 3] = dice.integers(0, 5, count)
    labels = matrix[:, :3].sum(axis=1) + 0.5 * dice.normal(size=count) > 0
    return matrix, labels


def steady(matrix: Matrix) -> Scores:
    known = np.clip(np.nan_to_num(matrix[:, :3].astype(np.float64)), -50, 50)
    scores: Scores = 1 / (1 + np.exp(-known.sum(axis=1)))
    return scores


def test_a_steady_model_keeps_what_it_is_worth() -> None:
    matrix, labels = rows()
    found = robustness(steady, matrix, labels, range(3), seed=1)
    assert found["auc_jittered"] > 0.95
    assert 0.85 < found["auc_without_one"] < 0.95
    assert found == robustness(steady, matrix, labels, range(3), seed=1)


def test_a_model_that_has_learnt_the_last_digits_is_found_out() -> None:
    matrix, labels = rows()
    by_heart = dict(zip((matrix[:, 0] * 100).round(2), labels, strict=True))

    def memory(asked: Matrix) -> Scores:
        return np.array([float(by_heart.get(x, 0.5)) for x in (asked[:, 0] * 100).round(2)])

    found = robustness(memory, matrix, labels, range(3), seed=1)
    assert found["auc_jittered"] < 0.5


def test_a_model_of_one_column_is_worth_nothing_without_it() -> None:
    matrix, labels = rows()
    found = robustness(lambda m: steady(m * FIRST), matrix, labels, range(3), seed=1)
    assert found["auc_without_one"] == pytest.approx(0.5)


def test_categories_are_never_moved() -> None:
    matrix, labels = rows()

    def strict(asked: Matrix) -> Scores:
        codes = asked[:2_000, 3]
        codes = codes[~np.isnan(codes)]
        assert len(asked) < len(matrix) or (codes == codes.round()).all()
        return steady(asked)

    robustness(strict, matrix, labels, range(3), seed=1)


def test_a_model_that_fails_far_out_is_refused() -> None:
    matrix, labels = rows()

    def narrow(asked: Matrix) -> Scores:
        if np.nanmax(np.abs(asked[:, :3])) > 20:
            raise ModelFailed("output_not_finite", "nan")
        return steady(asked)

    with pytest.raises(ModelFailed):
        robustness(narrow, matrix, labels, range(3), seed=1)


def test_extremes_leave_what_was_seen_even_where_nothing_was() -> None:
    matrix, _ = rows(50)
    matrix[:, 1] = np.nan
    matrix[:, 2] = 7.0
    far = extremes(matrix)
    assert far.shape == (3 + 2 * COLUMNS, COLUMNS)
    assert np.isnan(far[0]).all()
    assert np.isfinite(far[1:]).all()
    assert (far[1] > np.nan_to_num(matrix).max(axis=0)).all()
