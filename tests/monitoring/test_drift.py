from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from monitoring.column_drift import ColumnDrift
from monitoring.drift import Thresholds, compare, holm
from monitoring.two_samples import Sample

Floats = NDArray[np.float64]
THRESHOLDS = Thresholds(alpha=0.01, effect_min=0.1)
values = hnp.arrays(
    np.float64, st.integers(0, 60), elements=st.one_of(st.floats(-5, 5), st.just(float("nan")))
)


def one(reference: Floats, window: Floats, *, categorical: bool = False) -> ColumnDrift:
    names = frozenset({"x"}) if categorical else frozenset()
    return compare({"x": reference}, {"x": window}, categorical=names, thresholds=THRESHOLDS)[0]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(values, values, st.booleans())
def test_any_data_gets_a_verdict(reference: Floats, window: Floats, categorical: bool) -> None:  # noqa: FBT001
    found = one(reference, window, categorical=categorical)
    assert 0 <= found.statistic <= 1
    assert 0 <= found.p_value <= 1


@given(values, st.booleans())
def test_a_sample_does_not_drift_from_itself(sample: Floats, categorical: bool) -> None:  # noqa: FBT001
    assert not one(sample, sample, categorical=categorical).drifted


@given(values, values, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(
    reference: Floats, window: Floats, random: object
) -> None:
    shuffled = rng(hash(random) % 2**32).permutation(window)
    assert one(reference, window).statistic == pytest.approx(one(reference, shuffled).statistic)


@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)))
def test_holm_is_between_the_raw_values_and_bonferroni(p_values: Floats) -> None:
    adjusted = holm(p_values)
    assert (adjusted >= p_values).all()
    assert (adjusted <= np.minimum(p_values * len(p_values), 1) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p_values, kind="stable")]) >= 0).all()


def test_a_large_shift_drifts_and_a_significant_ripple_does_not() -> None:
    reference = rng().normal(0, 1, 50_000)
    ripple = one(reference, rng(1).normal(0.08, 1, 50_000))
    assert ripple.p_value < 1e-6
    assert not ripple.drifted
    assert one(reference, rng(1).normal(0.5, 1, 5_000)).drifted


@pytest.mark.parametrize(
    ("reference", "window", "note", "drifted"),
    [
        (np.ones(500), np.ones(500), "constant", False),
        (np.ones(500), np.full(500, 2.0), "constant in the reference", True),
        (np.ones(500), np.array([]), "empty window", False),
        (np.array([]), np.ones(500), "empty reference", False),
        (np.full(500, np.nan), np.full(500, np.nan), "all null on both sides", False),
        (
            np.arange(500.0),
            np.full(500, np.nan),
            "all null in the window; nulls 0.0% → 100.0%",
            True,
        ),
        (
            np.full(500, np.nan),
            np.arange(500.0),
            "no values in the reference; nulls 100.0% → 0.0%",
            True,
        ),
    ],
)
def test_odd_columns(reference: Floats, window: Floats, note: str, drifted: bool) -> None:  # noqa: FBT001
    found = one(reference, window)
    assert (found.note, found.drifted) == (note, drifted)


def test_a_missing_column_counts_as_null() -> None:
    found = compare(
        {"x": rng().normal(size=500)},
        {"y": rng().normal(size=500)},
        categorical=frozenset(),
        thresholds=THRESHOLDS,
    )
    assert found[0].drifted


def test_categories_that_appear_and_move() -> None:
    reference = rng().choice([0.0, 1.0, 2.0], 2_000, p=[0.5, 0.3, 0.2])
    same = one(
        reference, rng(1).choice([0.0, 1.0, 2.0], 2_000, p=[0.5, 0.3, 0.2]), categorical=True
    )
    moved = one(
        reference, rng(1).choice([0.0, 1.0, 7.0], 2_000, p=[0.5, 0.3, 0.2]), categorical=True
    )
    assert not same.drifted
    assert moved.drifted
    assert moved.note == "new categories: 7"
    assert moved.statistic == pytest.approx(0.2, abs=0.03)
    assert moved.broken


def test_what_looks_like_a_fault_of_the_source_is_told_apart() -> None:
    reference = rng().normal(size=2_000)
    few = np.full(500, np.nan)
    few[:5] = 1.0
    assert one(reference, np.zeros(500)).broken
    assert one(reference, np.full(500, np.nan)).broken
    assert one(reference, few).broken
    assert one(np.array([0.0, 1.0, 2.0] * 500), np.ones(500), categorical=True).broken
    # A shift, an input that only now begins, a few of an unseen code among many that moved: there is something to learn.
    assert not one(reference, reference + 1).broken
    assert not one(np.full(500, np.nan), reference).broken
    assert not one(np.ones(500), reference).broken
    # Constant at its usual value: a week without rain.
    dry = np.where(rng().random(2_000) < 0.7, 0.0, np.abs(reference) + 1)
    for categorical in (False, True):
        found = one(dry.round(), np.zeros(500), categorical=categorical)
        assert (found.drifted, found.broken, found.note) == (True, False, "constant in the window")
    moved = np.array([0.0] * 100 + [1.0] * 400 + [7.0] * 5)
    assert one(np.array([0.0, 1.0] * 500), moved, categorical=True).drifted
    assert not one(np.array([0.0, 1.0] * 500), moved, categorical=True).broken


def test_samples_that_are_kept_give_the_same_verdicts() -> None:
    sides = [
        {"x": rng(s).normal(size=3_000), "c": rng(s).integers(0, 4, 3_000) / 1} for s in (1, 2)
    ]
    kept = {name: Sample(values) for name, values in sides[0].items()}
    asked = [
        compare(reference, sides[1], categorical=frozenset({"c"}), thresholds=THRESHOLDS)
        for reference in (sides[0], kept, kept)
    ]
    assert asked[0] == asked[1] == asked[2]


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_false_alarms_of_many_columns_stay_nominal(seed: int) -> None:
    generator = rng(seed)
    no_effect_needed = Thresholds(alpha=0.01, effect_min=0.0)
    alarms = 0
    for _ in range(40):
        sides = [{f"c{i}": generator.normal(size=200) for i in range(10)} for _ in range(2)]
        found = compare(*sides, categorical=frozenset(), thresholds=no_effect_needed)
        alarms += any(c.drifted for c in found)
    # Binomial(40, 0.01): more than 5 has a chance below 1e-5.
    assert alarms <= 5
