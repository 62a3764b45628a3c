from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.asking import TIMEOUT, Asking
from serving.breaker import BreakerPolicy, Circuit
from serving.output_contract import Matrix, ModelFailed, Monotone, Output, OutputContract

POLICY = BreakerPolicy(rows_min=20, open_s=5.0)


@dataclass
class Told:
    """A version that says what a function says, at what times a clock says."""

    says: Callable[[Matrix], Output]
    version: str = "v1"
    threshold: float = 0.5
    asked: list[int] = field(default_factory=list)
    now_s: float = 100.0
    takes_s: float = 0.0

    def outputs(self, matrix: Matrix) -> Output:
        self.asked.append(len(matrix))
        self.now_s += self.takes_s
        return self.says(matrix)

    def asking(self, **given: float) -> Asking:
        return Asking(policy=POLICY, clock_s=lambda: self.now_s, **given)  # type: ignore[arg-type]


def rows(count: int, *poisonous: int) -> Matrix:
    out = np.arange(count * 2, dtype=np.float32).reshape(count, 2) / 1_000
    out[list(poisonous), 0] = -1
    return out.astype(np.float32)


def picky(matrix: Matrix) -> Output:
    if (matrix[:, 0] < 0).any():
        raise ModelFailed("model_error", "poison")
    return matrix[:, 0].astype(np.float64)


def short(matrix: Matrix) -> Output:
    """Another length for a batch with a poisonous row in it."""
    out: Output = matrix[(matrix[:, 0] >= 0), 0]
    return out


@given(st.integers(1, 80), st.sets(st.integers(0, 79), max_size=6), st.sampled_from([picky, short]))
def test_every_poisonous_row_fails_alone_and_the_others_have_their_score(
    count: int, poisonous: set[int], says: Callable[[Matrix], Output]
) -> None:
    mine = sorted(row for row in poisonous if row < count)
    asked = Told(says).asking().ask(Told(says), rows(count, *mine))
    assert sorted(asked.failed) == mine
    left = [row for row in range(count) if row not in mine]
    assert asked.scores[left].tolist() == rows(count)[left, 0].astype(np.float64).tolist()
    assert np.isnan(asked.scores[mine]).all()


def test_what_is_wrong_with_a_row_only_costs_no_further_call() -> None:
    model = Told(lambda m: np.where(m[:, 0] < 0, np.nan, 0.5))
    asking = model.asking()
    asked = asking.ask(model, rows(64, 3, 9))
    assert sorted(asked.failed) == [3, 9]
    assert model.asked == [64]
    assert not asking.counts


def test_halving_is_counted_and_ends_with_the_time() -> None:
    model = Told(picky, takes_s=0.4)
    asking = model.asking(predict_ms_max=1_000)
    asked = asking.ask(model, rows(64, 0))
    assert asking.counts["batch_halved"] == 2
    assert len(model.asked) == 3
    assert sorted(asked.failed) == list(range(64))
    assert {str(why) for why in asked.failed.values()} == {"model_error: poison"}


def test_a_batch_that_ran_out_of_time_is_not_asked_for_in_parts() -> None:
    def late(_: Matrix) -> Output:
        raise ModelFailed(TIMEOUT, "more than 1000 ms")

    model = Told(late, takes_s=1.1)
    asking = model.asking(retry=True)
    for call in range(1, 4):
        assert len(asking.ask(model, rows(2)).failed) == 2
        assert len(model.asked) == min(call, POLICY.timeouts_max)
    assert asking.circuits() == {"v1": Circuit.OPEN}


def test_rows_that_failed_by_an_error_are_asked_about_once_more() -> None:
    calls = []

    def once(matrix: Matrix) -> Output:
        calls.append(len(matrix))
        # A fault that passes: whatever came before the fourth call failed.
        if len(calls) <= 3:
            raise ModelFailed("model_error", "passing")
        return np.full(len(matrix), 0.25)

    model = Told(once)
    asked = model.asking(retry=True).ask(model, rows(2))
    assert calls == [2, 1, 1, 2]
    assert asked.scores.tolist() == [0.25, 0.25]
    assert not asked.failed
    assert {row: str(why) for row, why in asked.retried.items()} == {
        0: "model_error: passing",
        1: "model_error: passing",
    }


def fail(asking: Asking, model: Told) -> None:
    """As many rows in as many batches as open a circuit."""
    for _ in range(POLICY.batches_min):
        asking.ask(model, rows(10, *range(10)))


def test_an_open_circuit_skips_the_model_and_says_since_when() -> None:
    model = Told(picky)
    asking = model.asking()
    fail(asking, model)
    assert asking.circuits() == {"v1": Circuit.OPEN}
    before = len(model.asked)
    model.now_s += 3.0
    shut = asking.ask(model, rows(30))
    assert len(model.asked) == before
    assert {str(why) for why in shut.failed.values()} == {"circuit_open: v1, since 3 s"}
    assert asking.counts["circuit_open"] == 30


def test_a_version_that_has_come_back_is_probed_with_a_few_rows_and_closes() -> None:
    model = Told(picky)
    asking = model.asking()
    fail(asking, model)
    model.now_s += POLICY.open_s
    for _ in range(POLICY.probes):
        asked = asking.ask(model, rows(30))
        assert sorted(asked.failed) == list(range(POLICY.probe_rows, 30))
    assert not asking.ask(model, rows(30)).failed
    assert (asking.counts["circuit_opened"], asking.counts["circuit_closed"]) == (1, 1)


def test_circuits_are_of_versions() -> None:
    bad, good = Told(picky), Told(picky, version="v2")
    asking = bad.asking()
    fail(asking, bad)
    assert not asking.ask(good, rows(20)).failed


def test_a_monotone_rule_asks_once_more_and_fails_its_rows_alone() -> None:
    contract = OutputContract(("x", "y"), monotone=(Monotone("x", 0.1),))
    model = Told(lambda m: np.where(m[:, 1] > 0.01, 1 - m[:, 0], m[:, 0]))
    asked = Asking(contract, POLICY, clock_s=lambda: 0.0).ask(model, rows(8))
    assert model.asked == [8, 8]
    assert sorted(asked.failed) == [5, 6, 7]
    assert {why.reason for why in asked.failed.values()} == {"output_not_monotone"}


def test_of_an_empty_batch_nobody_is_asked() -> None:
    model = Told(picky)
    assert not model.asking().ask(model, rows(0)).failed
    assert model.asked == []


def test_a_wrong_type_is_not_asked_for_in_parts() -> None:
    model = Told(lambda m: np.zeros(len(m), dtype=np.int64))
    asked = model.asking().ask(model, rows(16))
    assert model.asked == [16]
    assert {why.reason for why in asked.failed.values()} == {"output_type"}
    with pytest.raises(ModelFailed):
        raise asked.failed[0]
