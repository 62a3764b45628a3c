"""What answers turned out to be worth, group by group: the accuracy of record, over rows of the lake. Pure.

A group is whatever the answers are told apart by: version, route, a field of the request, a stretch of time. Answers whose outcome
never came are counted and judged by nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monitoring.accuracy import Floats, accuracy

Objects = NDArray[np.object_]

# Calibration is told over so many bins of equally many rows.
BINS = 10


@dataclass(frozen=True)
class Answers:
    """All alike long; rows without an outcome have NaN in `outcomes`, those that nobody scored in `scores`.

    Attributes:
        groups: Name → value of each row, by which rows are told apart.
        scores: In [0, 1].
        labels: 1 where the answer was yes, 0 where no.
        outcomes: What happened: 1 or 0.
    """

    groups: Mapping[str, Objects]
    scores: Floats
    labels: Floats
    outcomes: Floats


@dataclass(frozen=True)
class Score:
    """One group's metrics; None where they are not defined.

    Attributes:
        group: Name → value.
        answers: All of the group.
        unlabelled: Those whose outcome is not known.
        auc, log_loss: Of the rows with score and outcome.
        precision, recall: Of the answers yes and no, at the threshold that each version brought along.
        calibration_error: The mean distance between score and rate of the outcome, over bins of equally many rows (the
            expected calibration error of Naeini et al. 2015).
        mean_score, rate: Of the same rows.
    """

    group: dict[str, str]
    answers: int
    unlabelled: int
    auc: float | None
    log_loss: float | None
    precision: float | None
    recall: float | None
    calibration_error: float | None
    mean_score: float | None
    rate: float | None


def scorecard(answers: Answers) -> tuple[Score, ...]:
    """A score for each group that there is, in the order of their names."""
    return tuple(_score(group, answers, rows) for group, rows in _groups(answers.groups))


def calibration_error(scores: Floats, outcomes: Floats) -> float:
    """See `Score`; scores and outcomes `[rows]`, at least one."""
    order = np.argsort(scores, kind="stable")
    bins = np.array_split(order, min(BINS, len(order)))
    apart = [abs(scores[rows].mean() - outcomes[rows].mean()) * len(rows) for rows in bins]
    return float(sum(apart) / len(scores))


def _groups(groups: Mapping[str, Objects]) -> Iterator[tuple[dict[str, str], NDArray[np.intp]]]:
    if not groups:
        raise ValueError("rows are told apart by something, if only by one name for all")
    keys = list(zip(*(values.tolist() for values in groups.values()), strict=True))
    named, of = np.unique(
        np.array(["\x1f".join(map(str, key)) for key in keys], dtype=object), return_inverse=True
    )
    order = np.argsort(of, kind="stable")
    ends = np.cumsum(np.bincount(of, minlength=len(named)))
    for name, rows in zip(named, np.split(order, ends[:-1]), strict=True):
        yield dict(zip(groups, str(name).split("\x1f"), strict=True)), rows


def _score(group: dict[str, str], answers: Answers, rows: NDArray[np.intp]) -> Score:
    scores, labels, outcomes = (
        values[rows] for values in (answers.scores, answers.labels, answers.outcomes)
    )
    known = ~np.isnan(outcomes)
    scored = known & ~np.isnan(scores)
    decided = known & ~np.isnan(labels)
    judged = accuracy(scores[scored], outcomes[scored])
    yes, right = labels[decided] > 0, outcomes[decided] > 0
    return Score(
        group=group,
        answers=len(rows),
        unlabelled=int((~known).sum()),
        auc=judged.auc,
        log_loss=judged.log_loss,
        precision=_share(right[yes]),
        recall=_share(yes[right]),
        calibration_error=(
            calibration_error(scores[scored], outcomes[scored]) if scored.any() else None
        ),
        mean_score=float(scores[scored].mean()) if scored.any() else None,
        rate=judged.label_rate,
    )


def _share(mask: Sequence[bool] | NDArray[np.bool_]) -> float | None:
    return float(np.mean(mask)) if len(mask) else None
