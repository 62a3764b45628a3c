from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score

from monitoring.accuracy import accuracy
from monitoring.scorecard import Answers, Score, calibration_error, scorecard


def answers(count: int = 4_000) -> Answers:
    """Of two versions by two routes; the second scores too high. A tenth has no outcome, some have no score."""
    dice = np.random.default_rng(3)
    truth = dice.random(count)
    outcomes = (dice.random(count) < truth).astype(float)
    outcomes[dice.random(count) < 0.1] = np.nan
    version = np.where(np.arange(count) % 2 == 0, "v0001", "v0002").astype(object)
    scores = np.where(version == "v0002", truth**0.3, truth)
    labels = (scores >= 0.5).astype(float)
    nobody = dice.random(count) < 0.05
    scores[nobody] = np.nan
    route = np.where(dice.random(count) < 0.5, "champion", "canary").astype(object)
    return Answers({"version": version, "route": route}, scores, labels, outcomes)


def test_groups_are_scored_as_scikit_learn_does() -> None:
    made = answers()
    found = scorecard(made)
    assert [tuple(s.group.values()) for s in found] == [
        (version, route) for version in ("v0001", "v0002") for route in ("canary", "champion")
    ]
    assert sum(s.answers for s in found) == 4_000
    for score in found:
        mine = np.ones(4_000, dtype=bool)
        for name, value in score.group.items():
            mine &= made.groups[name] == value
        known = mine & ~np.isnan(made.outcomes)
        assert score.unlabelled == int((mine & np.isnan(made.outcomes)).sum())
        happened, said = made.outcomes[known], made.labels[known]
        assert score.precision == pytest.approx(precision_score(happened, said))
        assert score.recall == pytest.approx(recall_score(happened, said))
        scored = known & ~np.isnan(made.scores)
        judged = accuracy(made.scores[scored], made.outcomes[scored])
        assert (score.auc, score.log_loss) == (judged.auc, judged.log_loss)


def test_a_version_that_scores_too_high_is_out_of_calibration() -> None:
    by_version = Answers({"version": answers().groups["version"]}, *_numbers(answers()))
    first, second = scorecard(by_version)
    assert first.calibration_error is not None
    assert second.calibration_error is not None
    assert first.calibration_error < 0.05
    assert second.calibration_error > 0.2
    assert first.mean_score == pytest.approx(first.rate, abs=0.03)


def test_where_nothing_is_known_nothing_is_claimed() -> None:
    nothing = np.full(3, np.nan)
    groups = {"version": np.array(["v0001"] * 3, dtype=object)}
    assert scorecard(Answers(groups, nothing, nothing, nothing)) == (
        Score({"version": "v0001"}, 3, 3, None, None, None, None, None, None, None),
    )


def test_calibration_of_few_rows_is_of_as_many_bins() -> None:
    assert calibration_error(np.array([0.25]), np.array([1.0])) == pytest.approx(0.75)
    assert calibration_error(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0


def _numbers(made: Answers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return made.scores, made.labels, made.outcomes
