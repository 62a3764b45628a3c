from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from serving.resamples import RESAMPLES, differences, interval


def rows(seed: int, count: int, digits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and the scores of two models; few digits make ties."""
    dice = np.random.default_rng(seed)
    labels = dice.random(count) < 0.4
    labels[:2] = True, False
    truth = labels + dice.normal(size=count)
    models = (1 / (1 + np.exp(-(truth + dice.normal(scale=s, size=count)))) for s in (2.0, 0.5))
    worse, better = (np.round(scores, digits) for scores in models)
    return labels, worse, better


@given(st.integers(0, 1_000), st.integers(30, 200), st.integers(1, 6))
@settings(max_examples=15, deadline=None)
def test_each_resample_is_what_scikit_learn_says_of_its_rows(
    seed: int, count: int, digits: int
) -> None:
    labels, worse, better = rows(seed, count, digits)
    found = differences(labels, worse, better, seed=seed)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    for number in (0, RESAMPLES - 1):
        weights = drawn[number]
        if not 0 < labels @ weights < weights.sum():
            continue
        for name, metric in (
            ("auc", roc_auc_score),
            ("log_loss", log_loss),
            ("brier", brier_score_loss),
        ):
            old, new = (metric(labels, s, sample_weight=weights) for s in (worse, better))
            assert found[name][number] == pytest.approx(new - old, abs=1e-9), name


def test_the_interval_holds_the_truth_and_shrinks_with_rows() -> None:
    widths = []
    for count in (200, 5_000):
        labels, worse, better = rows(3, count, 6)
        low, high = interval(differences(labels, worse, better, seed=1)["auc"])
        assert low <= roc_auc_score(labels, better) - roc_auc_score(labels, worse) <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


def test_many_rows_are_drawn_in_pieces_and_the_same_seed_gives_the_same() -> None:
    labels, worse, better = rows(5, 30_000, 6)
    one, two = (differences(labels, worse, better, seed=9) for _ in range(2))
    assert all(len(drawn) == RESAMPLES for drawn in one.values())
    assert all((one[name] == two[name]).all() for name in one)
    assert interval(one["auc"]).low > 0


def test_a_model_is_never_surely_better_than_itself() -> None:
    labels, worse, _ = rows(7, 500, 6)
    assert all((drawn == 0).all() for drawn in differences(labels, worse, worse, seed=1).values())
