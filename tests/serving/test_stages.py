"""Histograms that add up, labels that are bounded, and what a result says of its stages."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import stages
from serving.stages import BOUNDS_US, DEAD_LETTERED, OTHER, Histogram, Labels, Row, Stages, merged
from serving.stopwatch import Took

TIMES = st.lists(st.integers(0, 20_000_000), max_size=20)


@given(TIMES)
def test_a_value_is_counted_under_the_first_bound_that_is_not_below_it(values: list[int]) -> None:
    histogram = Histogram()
    histogram.add(np.array(values, dtype=np.int64))
    cumulative = np.cumsum(histogram.counts)
    for bound, count in zip(BOUNDS_US, cumulative, strict=False):
        assert count == sum(value <= bound for value in values)
    assert (cumulative[-1], histogram.sum_us) == (len(values), sum(values))


ROWS = st.builds(
    Row,
    st.sampled_from(["scored", "fallback", DEAD_LETTERED]),
    st.integers(0, 900),
    st.builds(Labels, st.sampled_from(["v1", "v2"]), st.just("champion"), st.just("a")),
)


@given(st.lists(st.lists(ROWS, max_size=5), max_size=4), st.integers(1, 3))
def test_batches_and_replicas_add_up(batches: list[list[Row]], replicas: int) -> None:
    one, several = Stages(), [Stages() for _ in range(replicas)]
    for number, rows in enumerate(batches):
        took = Took(taken_ms=1_000, read_us=700, predict_us={"v1": 50}, commit_us=5_000)
        one.observe(took, rows, 1_010)
        several[number % replicas].observe(took, rows, 1_010)
    whole, parts = merged([one.snapshot()]), merged(s.snapshot() for s in several)
    assert sorted(map(str, whole["stages"])) == sorted(map(str, parts["stages"]))
    assert sorted(map(str, whole["answers"])) == sorted(map(str, parts["answers"]))
    asked = sum(map(len, batches))
    assert sum(entry[-1] for entry in whole["answers"]) == asked
    by_stage: Counter[str] = Counter()
    for stage, *_, counts, _sum in whole["stages"]:
        by_stage[stage] += sum(counts)
    assert by_stage["queue"] == asked
    assert by_stage["read"] == by_stage["predict"] == by_stage["commit"] == len(batches)
    assert by_stage["end_to_end"] == sum(
        row.status != DEAD_LETTERED for rows in batches for row in rows
    )


def test_tenants_beyond_the_bound_are_counted_together() -> None:
    found = Stages()
    rows = [Row("scored", 0, Labels("v1", "champion", f"t{n}", "interactive")) for n in range(500)]
    for row in rows:
        found.observe(Took(taken_ms=5), [row], 6)
    tenants = {entry[3]: entry[-1] for entry in found.snapshot()["answers"]}
    assert len(tenants) == stages.TENANTS_MAX + 1
    assert tenants[OTHER] == 500 - stages.TENANTS_MAX


def test_a_row_is_told_its_queue_the_read_and_its_own_versions_prediction() -> None:
    class Slow:
        threshold = 0.5

        def predict(self, rows: int) -> int:
            time.sleep(0.01)
            if rows < 0:
                raise ValueError(rows)
            return rows

    took = Took(taken_ms=1_000)
    took.queue_us = [took.waited_us(990), took.waited_us(1_001)]
    with took.reading():
        time.sleep(0.002)
    timed = took.timed({"v1": Slow(), "v2": Slow()})
    assert timed["v1"].threshold == 0.5
    assert timed["v1"].predict(3) == 3
    with pytest.raises(ValueError, match="-1"):
        timed["v1"].predict(-1)
    assert took.of(0, "v2").keys() == {"queue", "read"}
    told = took.of(1, "v1")
    assert told["queue"] == 0
    assert told["read"] >= 2_000
    assert told["predict"] >= 20_000
    assert took.of(0, "v1")["queue"] == 10_000
    assert Took().of(0, "v1") == {}


def test_counting_a_batch_costs_microseconds() -> None:
    found = Stages()
    rows = [
        Row("scored", n, Labels("v1", "champion", f"t{n % 5}", "interactive")) for n in range(256)
    ]
    took = Took(taken_ms=1_000, read_us=700, predict_us={"v1": 50}, commit_us=5_000)
    best_s = min(_timed(lambda: found.observe(took, rows, 1_010)) for _ in range(20))
    assert best_s < 0.005


def _timed(call: object) -> float:
    began_s = time.perf_counter()
    assert callable(call)
    call()
    return time.perf_counter() - began_s
