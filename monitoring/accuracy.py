"""What scores are worth once outcomes are known: AUC and log-loss, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log, log1p

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

# A score of exactly 0 or 1 that was wrong would cost infinity.
SCORE_MARGIN = 1e-6


@dataclass(frozen=True)
class Accuracy:
    """The metrics of one set of joined rows; None where they are not defined."""

    rows: int
    auc: float | None
    log_loss: float | None
    label_rate: float | None

    def metrics(self) -> dict[str, float | None]:
        """For an event."""
        return {"auc": self.auc, "log_loss": self.log_loss, "label_rate": self.label_rate}


def log_losses(scores: Floats, labels: Floats) -> Floats:
    """Per row, in nats; bounded by -log(SCORE_MARGIN)."""
    clipped = np.clip(scores, SCORE_MARGIN, 1 - SCORE_MARGIN)
    losses: Floats = -np.where(labels > 0, np.log(clipped), np.log1p(-clipped))
    return losses


def log_loss(score: float, *, label: bool) -> float:
    """One row of `log_losses`."""
    clipped = min(max(score, SCORE_MARGIN), 1 - SCORE_MARGIN)
    return -log(clipped) if label else -log1p(-clipped)


def auc(scores: Floats, labels: Floats) -> float | None:
    """Area under the ROC curve by the rank sum, ties counted half; None with one class only."""
    positives = int((labels > 0).sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return None
    ranks = stats.rankdata(scores)
    rank_sum = float(ranks[labels > 0].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def auc_variance_by_entity(scores: Floats, labels: Floats, entities: Sequence[str]) -> float:
    """Variance of the AUC where rows of one entity hang together (Obuchowski 1997, Biometrics 53); infinite with one class.

    The AUC is a mean of placements: of each positive among the negatives, and of each negative among the positives.
    """
    area = auc(scores, labels)
    if area is None:
        return inf
    positive = labels > 0
    ranks, placed = stats.rankdata(scores), np.empty(len(scores))
    count = {True: int(positive.sum()), False: int((~positive).sum())}
    for mine in (True, False):
        rows = positive == mine
        below = (ranks[rows] - stats.rankdata(scores[rows])) / count[not mine]
        placed[rows] = ((below if mine else 1 - below) - area) / count[mine]
    _, of = np.unique(np.array(entities, dtype=object).astype(str), return_inverse=True)
    sums = np.bincount(of, weights=placed)
    if len(sums) < 2:  # noqa: PLR2004 - a variance needs two
        return inf
    return float((sums**2).sum() * len(sums) / (len(sums) - 1))


def accuracy(scores: Floats, labels: Floats) -> Accuracy:
    """Of rows with a score and an outcome; scores in [0, 1], labels 0 or 1."""
    if len(scores) == 0:
        return Accuracy(0, None, None, None)
    return Accuracy(
        rows=len(scores),
        auc=auc(scores, labels),
        log_loss=float(log_losses(scores, labels).mean()),
        label_rate=float(labels.mean()),
    )
