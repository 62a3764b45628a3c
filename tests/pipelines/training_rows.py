"""Rows to train on, of two inputs: the label follows the first."""

from __future__ import annotations

import numpy as np

from pipelines.training_set import Rows, TrainingSet

INPUTS = ("scheduled_hour", "view__mean")


def rows(count: int, since_ms: int, seed: int) -> Rows:
    """Normal inputs."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(count, len(INPUTS))).astype(np.float32)
    labels = matrix[:, 0] + rng.normal(size=count) > 0
    ids = np.array([f"r-{since_ms}-{i}" for i in range(count)], dtype=object)
    return Rows(matrix, labels, since_ms + np.arange(count, dtype=np.int64), ids)


def training_set(seed: int = 1) -> TrainingSet:
    """Of flights."""
    return TrainingSet(
        case="flights",
        service="flights_v1",
        inputs=INPUTS,
        train=rows(6_000, 1_000, seed=seed),
        holdout=rows(1_000, 100_000, seed=seed + 1),
        since_ms=1_000,
        until_ms=200_000,
        definitions={"view": "0123456789abcdef"},
        snapshots={"flights_requests": 42},
    )
