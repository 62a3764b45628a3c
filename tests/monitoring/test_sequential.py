from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitoring.sequential import Difference, Moments, always_valid_p, fixed_p


@given(st.floats(-2, 2), st.floats(1e-9, 10), st.floats(0.001, 1))
def test_p_values_are_p_values_and_sequential_is_stricter(d: float, v: float, sd: float) -> None:
    p = always_valid_p(Difference(d, v), sd)
    assert 0 <= p <= 1
    assert p >= fixed_p(Difference(d, v)) or d <= 0


def test_looking_after_every_row_keeps_the_nominal_error() -> None:
    generator = np.random.default_rng(7)
    alarms = 0
    for _ in range(300):
        treated, control = generator.exponential(1, 1_000), generator.exponential(1, 9_000)
        for rows in range(100, 1_000, 10):
            difference = Difference.of(treated[:rows], control[: rows * 9])
            if always_valid_p(difference, 0.1) <= 0.05:
                alarms += 1
                break
    # Binomial(300, 0.05): more than 25 has a chance below 1 %.
    assert alarms <= 25


def test_no_information_is_no_evidence() -> None:
    nothing = Difference.of(np.array([1.0]), np.array([0.0, 0.0]))
    assert always_valid_p(nothing, 0.1) == fixed_p(nothing) == 1.0
    assert always_valid_p(Difference(1.0, 0.0), 0.1) == 0.0
    assert Difference.of_rates((0, 0), (0, 0)).value == 0.0


rows = st.lists(st.tuples(st.floats(0, 10), st.sampled_from("abcde")), min_size=1, max_size=40)


@given(rows)
def test_moments_are_those_of_the_rows(kept: list[tuple[float, str]]) -> None:
    mine = Moments()
    for value, entity in kept:
        mine.add(value, entity)
    values = np.array([value for value, _ in kept])
    assert mine.rows == len(kept)
    assert abs(mine.mean - values.mean()) < 1e-9
    by = {e: [v - values.mean() for v, of in kept if of == e] for e in {of for _, of in kept}}
    if len(by) > 1:
        wanted = sum(sum(r) ** 2 for r in by.values()) / len(kept) ** 2 * len(by) / (len(by) - 1)
        assert abs(mine.variance_of_mean - wanted) < 1e-9
    else:
        assert mine.variance_of_mean == float("inf")


def test_with_one_row_an_entity_the_variance_is_the_usual_one() -> None:
    values = np.random.default_rng(3).exponential(1, 50)
    moments = Moments()
    for index, value in enumerate(values):
        moments.add(float(value), str(index))
    assert abs(moments.variance_of_mean - values.var(ddof=1) / len(values)) < 1e-12


def test_rows_of_one_entity_make_nobody_sure() -> None:
    sides = []
    for rate in (0.5, 0.0):
        moments = Moments()
        for index in range(1_000):
            moments.add(float(index < 1_000 * rate), "one" if index < 500 else str(index))
        sides.append(moments)
    assert Difference.of_marks(*sides).variance > 0.05
    assert always_valid_p(Difference.of_marks(*sides), 0.05) > 0.3
    independent = Difference.of_rates((500, 1_000), (0, 1_000))
    assert always_valid_p(independent, 0.05) < 1e-9
