from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.output_contract import (
    OVERSHOOT,
    BadContract,
    Bools,
    Matrix,
    ModelFailed,
    Monotone,
    OutputContract,
    ScoreRule,
    Scores,
)

COLUMNS = ("amount", "burst")


def rows(*values: tuple[float, float]) -> Matrix:
    return np.array(values, dtype=np.float32).reshape(-1, 2)


def not_low_in_a_burst(scores: Scores, burst: Scores) -> Bools:
    return ~((burst > 5) & (scores < 0.2))


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (np.zeros((3, 3)), "output_shape"),
        (np.zeros(2), "output_shape"),
        (np.array(0.5), "output_shape"),
        (np.zeros(3, dtype=np.int64), "output_type"),
        (np.array(["a", "b", "c"]), "output_type"),
        (np.array([None, None, None]), "output_type"),
    ],
)
def test_shape_and_type_are_of_the_batch(output: Any, reason: str) -> None:
    with pytest.raises(ModelFailed) as failed:
        OutputContract().judge(output, rows((0, 0), (0, 0), (0, 0)))
    assert failed.value.reason == reason


@given(
    arrays.arrays(
        np.float32,
        st.integers(0, 40),
        elements=st.floats(width=32, min_value=-2, max_value=2) | st.just(nan),
    ),
    st.sampled_from([(0.0, 1.0), (0.25, 0.5)]),
    st.sampled_from(["flat", "column", "classes"]),
)
def test_a_row_has_a_score_in_range_or_a_reason(
    output: Scores, given_range: tuple[float, float], shape: str
) -> None:
    low, high = given_range
    shaped = {
        "flat": output,
        "column": output.reshape(-1, 1),
        "classes": np.column_stack([1 - output, output]),
    }[shape]
    judged = OutputContract(low=low, high=high).judge(
        shaped, np.zeros((len(output), 0), np.float32)
    )
    for row, score in enumerate(output.astype(np.float64).tolist()):
        if low - OVERSHOOT <= score <= high + OVERSHOOT:
            assert judged.scores[row] == min(max(score, low), high)
            assert row not in judged.failed
        else:
            assert np.isnan(judged.scores[row])
            wanted = "output_out_of_range" if score == score else "output_not_finite"  # noqa: PLR0124
            assert judged.failed[row].reason == wanted


def test_a_rule_of_the_business_fails_its_rows_alone() -> None:
    rule = ScoreRule("no pass in a burst", ("burst",), not_low_in_a_burst)
    judged = OutputContract(COLUMNS, rules=(rule,)).judge(
        np.array([0.1, 0.1, 0.9]), rows((1, 9), (1, 0), (1, 9))
    )
    assert list(judged.failed) == [0]
    assert str(judged.failed[0]) == "output_rule: 0.1: no pass in a burst"


def test_a_rule_that_raises_lets_nothing_through() -> None:
    calls = []

    def once(scores: Scores) -> Bools:
        calls.append(len(scores))
        if len(calls) > 1:
            raise ZeroDivisionError("nothing")
        return np.ones(len(scores), dtype=np.bool_)

    contract = OutputContract(COLUMNS, rules=(ScoreRule("odd", (), once),))
    with pytest.raises(ModelFailed, match="output_rule: odd: ZeroDivisionError: nothing"):
        contract.judge(np.zeros(1), rows((0, 0)))


@pytest.mark.parametrize("falls", [False, True])
def test_a_score_that_moves_against_an_input_fails_its_row(*, falls: bool) -> None:
    one = Monotone("amount", 10.0, falls=falls)
    contract = OutputContract(COLUMNS, monotone=(one,))
    asked = rows((1, 0), (2, 0), (nan, 0), (4, 0))
    moved = contract.moved(asked, one)
    assert moved[:, 0].tolist()[:2] == [11.0, 12.0]
    before = contract.judge(np.array([0.5, 0.5, 0.5, 0.5]), asked)
    after = contract.judge(np.array([0.6, 0.4, 0.4 if not falls else 0.6, 0.5]), moved)
    contract.against(one, asked, before, after)
    wrong = 0 if falls else 1
    assert list(before.failed) == [wrong]
    assert before.failed[wrong].reason == "output_not_monotone"
    assert np.isnan(before.scores[wrong])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"low": 0.5, "high": 0.5}, "range"),
        ({"high": 1.5}, "range"),
        ({"low": nan}, "range"),
        ({"rules": (ScoreRule("r", ("gone",), not_low_in_a_burst),)}, r"there is no \['gone'\]"),
        ({"rules": (ScoreRule("r", ("burst",), lambda s, _: s),)}, "as mask"),
        ({"rules": (ScoreRule("r", ("burst",), lambda s: s > 0),)}, "TypeError"),
        ({"monotone": (Monotone("amount", 0.0),)}, "a step above 0"),
        ({"monotone": (Monotone("gone", 1.0),)}, r"there is no \['gone'\]"),
    ],
)
def test_what_cannot_be_meant_is_refused_when_it_is_declared(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadContract, match=said):
        OutputContract(COLUMNS, **changes)
