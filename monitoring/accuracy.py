"""What scores are worth once outcomes are known: AUC and log-loss, in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, log1p

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
