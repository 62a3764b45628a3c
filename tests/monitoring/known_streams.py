"""Streams whose drift is known: River's SEA and LEDDrift, and columns of our own making."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from river.datasets import synth

from monitoring.policy import Policy, WindowPolicy
from schemas.control import AlertKind
from tests.monitoring import rig

Floats = NDArray[np.float64]
# An array of inputs and one of labels, by seed and number of rows.
Source = Callable[[int, int], tuple[Floats, Floats]]

ROW_MS = 1_000
TRAINED, QUIET_WINDOWS = 3_000, 4


@dataclass(frozen=True)
class Known:
    """A stream before and after its drift.

    Attributes:
        before, after: Rows by seed; `after` is None for a stream that never drifts.
        expected: The kinds of drift that it has; none where there is nothing to find.
        rows: Of a window.
        codes: Whether the inputs are categories.
        trained: Rows of the reference.
        quiet: Windows before the drift.
    """

    name: str
    before: Source
    after: Source
    expected: frozenset[AlertKind]
    rows: int = 500
    codes: bool = False
    trained: int = TRAINED
    quiet: int = QUIET_WINDOWS

    def policy(self) -> Policy:
        """The test use case's, with windows of so many rows, and metrics that count as flights count them."""
        window = WindowPolicy(
            length_ms=self.rows * ROW_MS, grace_ms=10 * ROW_MS, rows_min=self.rows // 2
        )
        drift = replace(rig.POLICY.drift, columns_min=1, auc_drop_min=0.02, log_loss_rise_min=0.03)
        return replace(rig.POLICY, window=window, drift=drift)


def river(stream: Callable[[int], Iterator[tuple[Mapping[int, float], float]]]) -> Source:
    """A generator of River's; labels are made binary: a digit is low or high."""

    def rows(seed: int, count: int) -> tuple[Floats, Floats]:
        taken = list(islice(stream(seed), count))
        inputs = np.array([list(x.values()) for x, _ in taken], dtype=np.float64)
        labels = np.array(
            [y if isinstance(y, bool) else y >= 5 for _, y in taken], dtype=np.float64
        )
        return inputs, labels

    return rows


def sea(variant: int, moved: float = 0.0) -> Source:
    """SEA's concepts (Street & Kim 2001): a sum of two inputs above a threshold; the third means nothing, and may move."""
    plain = river(lambda seed: iter(synth.SEA(variant=variant, noise=0.1, seed=seed)))

    def rows(seed: int, count: int) -> tuple[Floats, Floats]:
        inputs, labels = plain(seed, count)
        inputs[:, 2] += moved
        return inputs, labels

    return rows


def led(moved: int) -> Source:
    """A seven-segment display among 17 lamps that mean nothing (Breiman 1984); `moved` segments change places with such."""
    return river(
        lambda seed: iter(
            synth.LEDDrift(
                seed=seed, noise_percentage=0.1, irrelevant_features=True, n_drift_features=moved
            )
        )
    )


def mixed(shift: float) -> Source:
    """Twelve columns: smooth, skewed, tied, half empty; the first two decide, the first moves by `shift` deviations."""

    def rows(seed: int, count: int) -> tuple[Floats, Floats]:
        dice = np.random.default_rng(seed)
        inputs = dice.normal(size=(count, 12))
        inputs[:, 3:5] = np.exp(inputs[:, 3:5])
        inputs[:, 5:8] = np.round(inputs[:, 5:8])
        inputs[:, 8:10][dice.random((count, 2)) < 0.4] = np.nan
        inputs[:, 10] = np.maximum(inputs[:, 10], 0)
        chance = 1 / (1 + np.exp(-inputs[:, 0] - inputs[:, 1]))
        inputs[:, 0] += shift
        return inputs, (dice.random(count) < chance).astype(np.float64)

    return rows


DATA, CONCEPT, SCORES = AlertKind.DATA_DRIFT, AlertKind.CONCEPT_DRIFT, AlertKind.PREDICTION_DRIFT
KNOWN = {
    known.name: known
    for known in (
        Known("SEA, threshold 7 to 9.5", sea(2), sea(3), frozenset({CONCEPT}), rows=1_000),
        Known("SEA, threshold 9 to 7", sea(1), sea(2), frozenset({CONCEPT}), rows=1_000),
        Known(
            "LEDDrift, 7 segments", led(0), led(7), frozenset({DATA, SCORES, CONCEPT}), codes=True
        ),
        Known(
            "one column, 0.5 deviations", mixed(0), mixed(0.5), frozenset({DATA, SCORES, CONCEPT})
        ),
        Known(
            "benign: effect 0.05",
            sea(0),
            sea(0, 0.5),
            frozenset(),
            rows=3_000,
            trained=6_000,
            quiet=1,
        ),
    )
}
