from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from monitoring.ks_distribution import ks_p_values


@pytest.mark.parametrize("rows", [1_000, 1_279, 2_999, 40_000, 100_000])
def test_smirnovs_distribution_from_a_part_of_its_terms(rows: int) -> None:
    squares = np.array([2.2, 2.21, 3, 5, 9, 20, 100, 240])
    statistics = np.sqrt(squares / rows)
    statistics = statistics[statistics < 0.6]
    twice = np.full(len(statistics), 2 * rows, dtype=np.int64)
    found = ks_p_values(statistics, twice, twice)
    assert found == pytest.approx(stats.kstwo.sf(statistics, rows), rel=1e-7, abs=0)


def test_p_values_fall_as_the_distance_grows() -> None:
    statistics = np.linspace(0, 0.2, 4_001)
    rows = np.full(len(statistics), 9_000)
    p_values = ks_p_values(statistics, rows, rows)
    # One p-value of Pelz and Good beside one of Smirnov's differ by their error.
    assert (np.diff(p_values) <= 1e-6).all()
    assert len(ks_p_values(statistics[:0], rows[:0], rows[:0])) == 0


@pytest.mark.parametrize("rows", [5, 999, 1_000, 2_500, 4_999, 5_000, 30_000])
def test_it_is_scipys_wherever_d_lies(rows: int) -> None:
    statistics = np.sqrt(np.linspace(0, 8, 30) / rows)
    statistics = statistics[statistics <= 1]
    twice = np.full(len(statistics), 2 * rows, dtype=np.int64)
    found = ks_p_values(statistics, twice, twice)
    assert found == pytest.approx(stats.kstwo.sf(statistics, rows), abs=1e-9)


def test_columns_of_any_size_go_together() -> None:
    ones, twos = np.array([1, 3, 40, 2_000, 10**6]), np.array([1, 9, 3_000, 9_000, 10**6])
    statistics = np.array([0.0, 0.4, 0.2, 0.02, 0.001])
    alone = [
        ks_p_values(*(part[i : i + 1] for part in (statistics, ones, twos)))[0] for i in range(5)
    ]
    assert np.array_equal(ks_p_values(statistics, ones, twos), alone, equal_nan=True)
    assert np.isnan(alone[0])
