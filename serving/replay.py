"""Logged vectors scored again, and what differs from what was answered then (pure).

Equal means equal to the bit. On the CPU the same version gives the same bits whatever the batch: measured on 57,668 logged
decisions of three gradient-boosted versions, in batches of 1, 2, 3, 5, 7, 16, 32, 64, 100, 256 and 1,024 rows. A model
made of matrix products need not keep that, so what differs is counted, never rounded away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np

from features.inputs import matrix
from features.tiles import Floats
from serving.runtime import Matrix, ModelFailed, Scores

BINS = 10
# What a running hash begins with.
NOTHING = hashlib.sha256().hexdigest()


class Predictor(Protocol):
    """What a replay asks of a loaded version."""

    threshold: float

    def predict(self, matrix: Matrix) -> Scores:
        """Scores in [0, 1], one a row; raises `ModelFailed`."""


class Logged(NamedTuple):
    """One result as the lake keeps it; `score` is None where no model answered, and then nothing is compared."""

    request_id: str
    entity: str
    event_time_ms: int
    model: str
    version: str
    score: float | None
    label: bool | None
    features: Mapping[str, float | None]


class Pair(NamedTuple):
    """A decision beside itself; `score` is None where the version fails on its vector."""

    logged: Logged
    version: str
    score: float | None
    label: bool | None


def rescored(
    model: Predictor, inputs: Sequence[str], version: str, rows: Sequence[Logged]
) -> list[Pair]:
    """Score vectors again, in the order of `rows`.

    Args:
        model: The version.
        inputs: Its manifest's inputs, in order; a vector that lacks one of them has no score.
        version: Its name.
        rows: With vectors.
    """
    whole = [row for row in rows if all(name in row.features for name in inputs)]
    values = np.array([[_number(row.features[name]) for name in inputs] for row in whole])
    # The scorer's own way from float64 to float32: what was logged is what it read, not rounded.
    scores = _scores(model, matrix((), {}, values.reshape(len(whole), len(inputs))))
    of_row = dict(zip(map(id, whole), scores, strict=True))
    found = [of_row.get(id(row)) for row in rows]
    return [
        Pair(row, version, score, None if score is None else score >= model.threshold)
        for row, score in zip(rows, found, strict=True)
    ]


@dataclass(frozen=True)
class Difference:
    """What a replay has come to so far; `plus` goes on. All counts are of decisions.

    Attributes:
        replayed: All of them.
        equal: The same bits.
        differing: Other ones; `greatest` is the greatest difference, of the request `worst`.
        flips: Of those that differ, with another label.
        uncompared: No model had answered then: a fallback or an expired one.
        failed: The version gives no score for the vector, or lacks an input.
        logged_hash: Over the scores of that time, those compared, in order; `hash` over those of now.
        logged_bins: Scores of that time by tenths; `bins` those of now.
    """

    replayed: int = 0
    equal: int = 0
    differing: int = 0
    flips: int = 0
    greatest: float = 0.0
    worst: str | None = None
    uncompared: int = 0
    failed: int = 0
    logged_hash: str = NOTHING
    hash: str = NOTHING
    logged_bins: tuple[int, ...] = field(default=(0,) * BINS)
    bins: tuple[int, ...] = field(default=(0,) * BINS)

    def plus(self, pairs: Sequence[Pair]) -> Difference:
        """With these as well. The order matters to the hashes, the division into batches does not."""
        both = [p for p in pairs if p.score is not None and p.logged.score is not None]
        then = np.array([p.logged.score for p in both], dtype=np.float64)
        now = np.array([p.score for p in both], dtype=np.float64)
        apart = np.abs(now - then)
        # By their bits: 0.0 and −0.0 are two.
        unequal = then.view(np.int64) != now.view(np.int64)
        at = int(apart.argmax()) if both else -1
        further = bool(both) and float(apart[at]) > self.greatest
        return replace(
            self,
            replayed=self.replayed + len(pairs),
            equal=self.equal + int((~unequal).sum()),
            differing=self.differing + int(unequal.sum()),
            flips=self.flips + sum(p.label != p.logged.label for p in both),
            greatest=float(apart[at]) if further else self.greatest,
            worst=both[at].logged.request_id if further else self.worst,
            uncompared=self.uncompared + sum(p.logged.score is None for p in pairs),
            failed=self.failed + sum(p.score is None for p in pairs),
            logged_hash=_hashed(self.logged_hash, then),
            hash=_hashed(self.hash, now),
            logged_bins=_binned(self.logged_bins, then),
            bins=_binned(self.bins, now),
        )


def _scores(model: Predictor, rows: Matrix) -> list[float | None]:
    """As the scorer does it: what fails is halved until the row that does it stands alone."""
    if not len(rows):
        return []
    try:
        return list(model.predict(rows).tolist())
    except ModelFailed:
        if len(rows) == 1:
            return [None]
    half = len(rows) // 2
    return _scores(model, rows[:half]) + _scores(model, rows[half:])


def _hashed(before: str, scores: Floats) -> str:
    """A chain over single scores, so that it does not know of batches."""
    for score in scores:
        before = hashlib.sha256(bytes.fromhex(before) + score.tobytes()).hexdigest()
    return before


def _binned(before: tuple[int, ...], scores: Floats) -> tuple[int, ...]:
    added = np.histogram(scores, bins=BINS, range=(0.0, 1.0))[0]
    return tuple(int(old + new) for old, new in zip(before, added, strict=True))


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
