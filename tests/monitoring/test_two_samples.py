"""The kernel against scipy and against Evidently's own tests, like with like: raw statistics and raw p-values."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import stats

from monitoring.ks_distribution import ks_p_values
from monitoring.two_samples import (
    EXPECTED_MIN,
    Sample,
    counted,
    fit_p,
    homogeneity_p,
    ks_statistic,
    pooled,
    table_of,
    total_variation,
)

Floats = NDArray[np.float64]
Evidently = Callable[[Floats, Floats], float]

NEAR = 1e-9
# Up to so many rows scipy (and by it Evidently) takes the exact null distribution; our p-value is the asymptotic one at any size.
EXACT_ROWS_MAX = 10_000

ELEMENTS = st.one_of(
    st.floats(-5, 5),
    st.integers(-3, 3).map(float),
    st.sampled_from([0.0, -0.0, float("inf"), float("-inf"), 1e300, 5e-324]),
)
samples = hnp.arrays(np.float64, st.integers(1, 80), elements=ELEMENTS)
codes = hnp.arrays(
    np.float64,
    st.integers(1, 80),
    elements=st.one_of(st.integers(0, 6).map(float), st.sampled_from([-1.0, 2.5, 1e9, 70_000.0])),
)


def large(seed: int, kind: str) -> tuple[Floats, Floats]:
    """Two samples of thousands, as different as real ones: ties, constants, shifts, infinities."""
    dice = np.random.default_rng(seed)
    rows = dice.integers(1_500, 40_000, 2)
    shift = float(dice.choice([0.0, 0.01, 0.05, 0.3, 3.0]))
    one, two = (dice.normal(s, 1, n) for s, n in zip((0.0, shift), rows, strict=True))
    if kind == "ties":
        return np.round(one), np.round(two)
    if kind == "half tied":
        return np.maximum(one, 0), np.maximum(two, 0)
    if kind == "infinite":
        one[::7], two[::5] = np.inf, -np.inf
    if kind == "constant":
        two[:] = one[0]
    return one, two


def ks(one: Floats, two: Floats) -> tuple[float, float]:
    statistic = ks_statistic(Sample(one).ordered, Sample(two).ordered)
    rows = (np.array([len(side)]) for side in (one, two))
    return statistic, float(ks_p_values(np.array([statistic]), *rows)[0])


def same_as_scipy(one: Floats, two: Floats) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = stats.ks_2samp(one, two, method="asymp")
    ours = ks(one, two)
    assert ours[0] == pytest.approx(theirs.statistic, abs=NEAR)
    assert ours[1] == pytest.approx(theirs.pvalue, abs=NEAR, nan_ok=True)


@given(samples, samples)
def test_ks_is_scipys(one: Floats, two: Floats) -> None:
    same_as_scipy(one, two)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 10**6),
    st.sampled_from(["smooth", "ties", "half tied", "infinite", "constant"]),
)
def test_ks_of_thousands_is_scipys(seed: int, kind: str) -> None:
    same_as_scipy(*large(seed, kind))


@given(codes, codes)
def test_chi_squared_is_scipys(one: Floats, two: Floats) -> None:
    found, table = table_of(counted(one), counted(two))
    assert found.tolist() == np.unique(np.concatenate([one, two])).tolist()
    assert [row.sum() for row in table] == [len(one), len(two)]
    theirs = stats.chi2_contingency(table, correction=False)
    assert homogeneity_p(table) == pytest.approx(theirs.pvalue, abs=NEAR)
    assert 0 <= total_variation(table) <= 1


@given(hnp.arrays(np.float64, st.integers(0, 60), elements=st.one_of(ELEMENTS, st.just(np.nan))))
def test_what_is_counted_is_what_is_there(values: Floats) -> None:
    codes, counts = counted(values)
    unique, expected = np.unique(values[~np.isnan(values)], return_counts=True)
    assert codes.tolist() == unique.tolist()
    assert counts.tolist() == expected.tolist()
    assert Sample(values).ordered.tolist() == np.sort(values[~np.isnan(values)]).tolist()


@given(codes, codes)
def test_pooling_keeps_the_rows_and_leaves_no_rare_group(one: Floats, two: Floats) -> None:
    _, table = table_of(counted(one), counted(two))
    found = pooled(table)
    assert found.sum(axis=1).tolist() == table.sum(axis=1).tolist()
    expected = found.sum(axis=0) * (min(len(one), len(two)) / (len(one) + len(two)))
    assert found.shape[1] == 1 or (expected >= EXPECTED_MIN).all()
    shuffled = pooled(table[:, ::-1])
    assert sorted(shuffled.sum(axis=0)) == sorted(found.sum(axis=0))


@pytest.fixture(scope="module")
def evidently() -> dict[str, Evidently]:
    """Its two tests, by their names there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pandas as pd  # noqa: PLC0415
        from evidently.legacy.calculations.stattests import (  # noqa: PLC0415
            chi_stat_test,
            ks_stat_test,
        )
        from evidently.legacy.calculations.stattests.registry import (  # noqa: PLC0415
            get_registered_stattest,
        )
        from evidently.legacy.core import ColumnType  # noqa: PLC0415

    def ask(test: Any, kind: Any) -> Evidently:
        registered = get_registered_stattest(test, kind)

        def p_value(reference: Floats, window: Floats) -> float:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                found = registered(pd.Series(reference), pd.Series(window), kind, 0.05)
            return float(found.drift_score)

        return p_value

    return {
        "ks": ask(ks_stat_test, ColumnType.Numerical),
        "chisquare": ask(chi_stat_test, ColumnType.Categorical),
    }


@pytest.mark.parametrize("kind", ["smooth", "ties", "half tied", "constant"])
@pytest.mark.parametrize("seed", range(4))
def test_ks_is_evidentlys(evidently: dict[str, Evidently], seed: int, kind: str) -> None:
    one, two = large(seed, kind)
    one = np.concatenate([one, one[: max(0, EXACT_ROWS_MAX + 1 - len(one))]])
    one = np.resize(one, max(len(one), EXACT_ROWS_MAX + 1))
    assert ks(one, two)[1] == pytest.approx(evidently["ks"](one, two), abs=NEAR)


@pytest.mark.parametrize("seed", range(12))
def test_goodness_of_fit_is_evidentlys(evidently: dict[str, Evidently], seed: int) -> None:
    dice = np.random.default_rng(seed)
    shares = dice.dirichlet(np.full(6, 5.0))
    one = dice.choice(6, 3_000, p=shares).astype(float)
    two = dice.choice(6 + seed % 2, 1_000, p=[*shares, *([0.0] * (seed % 2))]).astype(float)
    if seed % 3 == 0:
        two[:9] = 17.0  # unseen in the reference
    _, table = table_of(counted(one), counted(two))
    assert fit_p(table) == pytest.approx(evidently["chisquare"](one, two), abs=NEAR)
    # Ours knows that the reference is a sample too, so it is never more certain.
    assert homogeneity_p(table) >= fit_p(table) - NEAR
