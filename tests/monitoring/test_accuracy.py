from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score

from monitoring.accuracy import accuracy, auc, auc_variance_by_entity


@given(st.lists(st.tuples(st.floats(0.001, 0.999), st.booleans()), min_size=2, max_size=60))
def test_agrees_with_scikit_learn(rows: list[tuple[float, bool]]) -> None:
    scores = np.array([s for s, _ in rows])
    labels = np.array([float(y) for _, y in rows])
    found = accuracy(scores, labels)
    assert found.log_loss == pytest.approx(log_loss(labels, scores, labels=[0, 1]))
    if 0 < labels.sum() < len(labels):
        assert found.auc == pytest.approx(roc_auc_score(labels, scores))
    else:
        assert found.auc is None


def test_certain_and_wrong_is_finite_and_nothing_is_none() -> None:
    assert accuracy(np.array([1.0]), np.array([0.0])).log_loss == pytest.approx(13.8, abs=0.1)
    assert accuracy(np.array([]), np.array([])).auc is None


def test_the_variance_of_an_auc_is_what_redrawing_entities_gives() -> None:
    def drawn(seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
        dice = np.random.default_rng(seed)
        cards = np.repeat(np.arange(200), 5)
        hidden = dice.normal(0, 1.0, 200)[cards]
        scores = dice.random(1_000)
        labels = (dice.random(1_000) < 1 / (1 + np.exp(1 - scores - 2 * hidden))).astype(float)
        return scores, labels, [str(c) for c in cards]

    areas = [auc(*drawn(seed)[:2]) or 0.0 for seed in range(300)]
    said = np.mean([auc_variance_by_entity(*drawn(seed)) for seed in range(30)])
    assert said == pytest.approx(np.var(areas), rel=0.25)
    assert auc_variance_by_entity(np.ones(3), np.ones(3), ["a", "b", "c"]) == float("inf")
