from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitoring.sequential import Difference, always_valid_p, fixed_p


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
