"""How sure a difference between two models is: paired bootstrap over the rows that both have scored (pure).

Rows are drawn with replacement, the same for both models, so that what makes rows hard for either cancels out (Efron and
Tibshirani: An Introduction to the Bootstrap, 1993, chapters 13 and 16). Rows of one entity hang together, which makes the
intervals somewhat too narrow: the guard looks again, at keys.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES = 400
# Resamples are weights of rows; so many of both at a time, for memory's sake.
_WEIGHTS_MAX = 4_000_000
# Probabilities are kept from 0 and 1 where a logarithm is taken, as scikit-learn does for float64.
_EPSILON = np.finfo(np.float64).eps


class Interval(NamedTuple):
    """Where nineteen of twenty resamples lie."""

    low: float
    high: float


def interval(differences: Floats) -> Interval:
    """The percentile interval of 95 %."""
    low, high = np.nanquantile(differences, [0.025, 0.975])
    return Interval(float(low), float(high))


def differences(
    labels: NDArray[np.bool_], champion: Floats, candidate: Floats, *, seed: int
) -> dict[str, Floats]:
    """Candidate minus champion on `RESAMPLES` resamples, by metric: `auc`, `log_loss`, `brier`.

    Args:
        labels: `[rows]`, of both classes.
        champion: Its scores, `[rows]`.
        candidate: As `champion`.
        seed: Of the draws: the same rows give the same numbers.
    """
    rows = len(labels)
    generator = np.random.default_rng(seed)
    sides = [_Scored(labels, np.asarray(s, dtype=np.float64)) for s in (champion, candidate)]
    drawn: list[dict[str, Floats]] = []
    left = RESAMPLES
    while left:
        count = min(left, max(1, _WEIGHTS_MAX // rows))
        left -= count
        weights = generator.multinomial(rows, np.full(rows, 1 / rows), size=count)
        old, new = (side.metrics(weights.astype(np.float64)) for side in sides)
        drawn.append({name: new[name] - old[name] for name in new})
    return {name: np.concatenate([chunk[name] for chunk in drawn]) for name in drawn[0]}


class _Scored:
    """One model's scores, with what does not depend on the weights worked out once."""

    def __init__(self, labels: NDArray[np.bool_], scores: Floats) -> None:
        clipped = np.clip(scores, _EPSILON, 1 - _EPSILON)
        self._losses = -np.log(np.where(labels, clipped, 1 - clipped))
        self._squares = (scores - labels) ** 2
        self._order = np.argsort(scores, kind="stable")
        self._positive = labels[self._order]
        ranked = scores[self._order]
        # Where each run of equal scores begins: a pair of equal scores counts half.
        self._runs = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))

    def metrics(self, weights: Floats) -> dict[str, Floats]:
        """Each metric for each row of `weights`, `[resamples, rows]`."""
        total = weights.sum(axis=1)
        return {
            "auc": self._auc(weights[:, self._order]),
            "log_loss": weights @ self._losses / total,
            "brier": weights @ self._squares / total,
        }

    def _auc(self, ranked: Floats) -> Floats:
        positive = np.add.reduceat(ranked * self._positive, self._runs, axis=1)
        negative = np.add.reduceat(ranked * ~self._positive, self._runs, axis=1)
        below = np.cumsum(negative, axis=1) - negative
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        won = (positive * (below + 0.5 * negative)).sum(axis=1)
        found: Floats = np.full(len(pairs), np.nan)
        # A resample of one class only says nothing.
        np.divide(won, pairs, out=found, where=pairs > 0)
        return found
