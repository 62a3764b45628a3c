"""How long every stage takes, as histograms that add up over batches and over replicas.

A batch is counted at once (numpy), so that watching costs some microseconds a batch and not one call an event. Labels
are bounded: what a use case or a history of releases brings beyond the bound is counted together as `other`.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from serving.stopwatch import US_PER_MS, Took

# Upper bounds of the buckets. 45 ms is what a payment's decision may take; a commit takes 4 to 6, a prediction below 1.
BOUNDS_US = (
    *(100, 250, 500, 1_000, 2_500, 5_000, 10_000, 20_000, 30_000, 45_000, 60_000, 100_000),
    *(250_000, 500_000, 1_000_000, 2_500_000, 10_000_000),
)
Times = np.ndarray[tuple[int], np.dtype[np.int64]]
_BOUNDS = np.array(BOUNDS_US, dtype=np.int64)
# Distinct values of a label that one replica tells apart.
TENANTS_MAX = 20
VERSIONS_MAX = 12
OTHER = "other"
DEAD_LETTERED = "dead_lettered"


class Stage(StrEnum):
    """From the broker's stamp on a request to the commit of its answer."""

    QUEUE = "queue"
    READ = "read"
    PREDICT = "predict"
    COMMIT = "commit"
    END_TO_END = "end_to_end"


class Labels(NamedTuple):
    """What a stage or an answer is told by; empty where it does not apply."""

    version: str = ""
    route: str = ""
    tenant: str = ""
    lane: str = ""


class Row(NamedTuple):
    """One request that became a result or a dead letter."""

    status: str
    ingest_ms: int
    labels: Labels


class Histogram:
    """Counts by bucket, the last one unbounded, and their sum."""

    def __init__(self) -> None:
        self.counts = np.zeros(len(BOUNDS_US) + 1, dtype=np.int64)
        self.sum_us = 0

    def add(self, values_us: Times) -> None:
        """Count these; a value on a bound belongs below it, as Prometheus has it."""
        places = np.searchsorted(_BOUNDS, values_us, side="left")
        self.counts += np.bincount(places, minlength=len(self.counts))
        self.sum_us += int(values_us.sum())


class Stages:
    """Since a replica started. One thread observes, any may ask for a snapshot."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._histograms: dict[tuple[str, Labels], Histogram] = {}
        self._answers: Counter[tuple[str, Labels]] = Counter()
        self._seen: dict[str, set[str]] = defaultdict(set)

    def observe(self, took: Took, rows: Sequence[Row], committed_ms: int) -> None:
        """Count one committed batch.

        Args:
            took: Its stages.
            rows: Every request of it.
            committed_ms: Epoch ms at which its answers were there to be read.
        """
        groups: dict[tuple[str, Labels], list[int]] = defaultdict(list)
        for status, ingest_ms, told in rows:
            groups[status, told].append(ingest_ms)
        values: dict[tuple[str, Labels], Times] = {}
        counts: Counter[tuple[str, Labels]] = Counter()
        for (status, told), stamps in groups.items():
            labels, since_ms = self._bounded(told), np.array(stamps, dtype=np.int64)
            counts[status, labels] += len(stamps)
            waiting = Labels(tenant=labels.tenant, lane=labels.lane)
            _join(values, (Stage.QUEUE, waiting), _between_us(since_ms, took.taken_ms))
            if status != DEAD_LETTERED:
                _join(values, (Stage.END_TO_END, labels), _between_us(since_ms, committed_ms))
        for version, us in took.predict_us.items():
            _join(values, (Stage.PREDICT, self._bounded(Labels(version=version))), _one(us))
        for stage, took_us in ((Stage.READ, took.read_us), (Stage.COMMIT, took.commit_us)):
            if took_us is not None:
                values[stage, Labels()] = _one(took_us)
        with self._lock:
            self._answers.update(counts)
            for key, some in values.items():
                self._histograms.setdefault(key, Histogram()).add(some)

    def snapshot(self) -> dict[str, Any]:
        """As plain values: what `merged` takes."""
        with self._lock:
            return {
                "stages": [
                    [stage, *labels, one.counts.tolist(), one.sum_us]
                    for (stage, labels), one in self._histograms.items()
                ],
                "answers": [[status, *labels, n] for (status, labels), n in self._answers.items()],
            }

    def _bounded(self, labels: Labels) -> Labels:
        return labels._replace(
            version=self._known("version", labels.version, VERSIONS_MAX),
            tenant=self._known("tenant", labels.tenant, TENANTS_MAX),
        )

    def _known(self, label: str, value: str, most: int) -> str:
        seen = self._seen[label]
        if value in seen or not value:
            return value
        if len(seen) >= most:
            return OTHER
        seen.add(value)
        return value


def _between_us(ingest_ms: Times, until_ms: int) -> Times:
    """Never below 0, clocks being two."""
    between: Times = np.maximum(until_ms - ingest_ms, 0) * US_PER_MS
    return between


def _one(us: int) -> Times:
    return np.array([us], dtype=np.int64)


def _join(values: dict[tuple[str, Labels], Times], key: tuple[str, Labels], more: Times) -> None:
    values[key] = np.concatenate([values[key], more]) if key in values else more


def merged(snapshots: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of snapshots, in the same form."""
    stages: dict[tuple[str, ...], tuple[list[int], int]] = {}
    answers: Counter[tuple[str, ...]] = Counter()
    for one in snapshots:
        for *labels, counts, sum_us in one.get("stages", ()):
            before, so_far = stages.get(tuple(labels), ([0] * len(counts), 0))
            total = [a + b for a, b in zip(before, counts, strict=True)]
            stages[tuple(labels)] = total, so_far + sum_us
        for *labels, count in one.get("answers", ()):
            answers[tuple(labels)] += count
    return {
        "stages": [[*labels, counts, sum_us] for labels, (counts, sum_us) in stages.items()],
        "answers": [[*labels, count] for labels, count in answers.items()],
    }
