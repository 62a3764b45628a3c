"""Has a window moved away from its reference? The verdicts: columns in, one verdict each out. Pure.

Each column gets a test and an effect size, because on thousands of rows a p-value alone calls every ripple a flood:

- numbers: the two-sample Kolmogorov-Smirnov test; the effect is its statistic D, in [0, 1].
- category codes: Pearson's chi-squared on the 2 × k table; the effect is the total variation distance, in [0, 1].
- nulls: a share that moved is drift too, tested as a two-category column; the greater effect of both counts.

A column has drifted when its p-value, corrected for the number of columns by Holm's step-down procedure (Holm 1979,
which holds under any dependence between columns), is at most `alpha`, and its effect at least `effect_min`. A column whose
window looks like a fault of its source has drifted as well, and is told apart as broken: nothing is to be learnt from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from monitoring.column_drift import ColumnDrift
from monitoring.ks_distribution import ks_p_values
from monitoring.two_samples import (
    Sample,
    homogeneity_p,
    ks_statistic,
    pooled,
    table_of,
    total_variation,
)

Floats = NDArray[np.float64]

# Below this many values in either sample neither test says anything worth acting on.
VALUES_MIN = 20
CATEGORIES_TOLD = 5
# A window may well be constant at the value that so much of the reference has: no rain for a week, all the sky to see.
USUAL_SHARE = 0.5
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


@dataclass(frozen=True)
class Thresholds:
    """When a difference counts.

    Attributes:
        alpha: The family-wise error of one window's columns.
        effect_min: The least effect (KS D, total variation) worth an alert.
    """

    alpha: float
    effect_min: float


@dataclass(frozen=True)
class _Comparison:
    """What was found of a column; a p-value of KS is worked out later, for all columns at once."""

    test: str
    effect: float
    p_value: float
    note: str = ""
    strange: float = 0.0
    sizes: tuple[int, int] | None = None


def compare(
    reference: Mapping[str, Floats | Sample],
    window: Mapping[str, Floats | Sample],
    *,
    categorical: AbstractSet[str],
    thresholds: Thresholds,
) -> tuple[ColumnDrift, ...]:
    """Judge every column of the reference.

    Args:
        reference: Column → values, NaN for null; lengths may differ between the two sides. Given as samples that are kept,
            it is sorted once for all windows.
        window: As `reference`; a column that is missing counts as all null.
        categorical: Columns that hold codes.
        thresholds: When a difference counts.

    Returns:
        One verdict a column, in the reference's order; never an exception for odd data.
    """
    ours, theirs = (_samples(side) for side in (reference, window))
    empty = Sample(np.full(max((s.rows for s in theirs.values()), default=0), np.nan))
    pairs = [(name, sample, theirs.get(name, empty)) for name, sample in ours.items()]
    values = _valued(
        [_compare_values(a, b, categorical=name in categorical) for name, a, b in pairs]
    )
    nulls = [_compare_nulls(a, b, categorical=name in categorical) for name, a, b in pairs]
    found = [_worse(v, n) for v, n in zip(values, nulls, strict=True)]
    corrected = holm(np.array([c.p_value for c in found], dtype=np.float64))
    verdicts = []
    for name, one, p_value in zip(ours, found, corrected.tolist(), strict=True):
        drifted = p_value <= thresholds.alpha and one.effect >= thresholds.effect_min
        broken = drifted and one.strange >= thresholds.effect_min
        verdicts.append(ColumnDrift(name, one.test, one.effect, p_value, drifted, one.note, broken))
    return tuple(verdicts)


def _samples(side: Mapping[str, Floats | Sample]) -> dict[str, Sample]:
    return {n: v if isinstance(v, Sample) else Sample(v) for n, v in side.items()}


def holm(p_values: Floats) -> Floats:
    """Holm's adjusted p-values, in the order given; each is at least the raw one and at most 1."""
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(count, 0, -1))
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _valued(found: list[_Comparison]) -> list[_Comparison]:
    """With the p-values of all Kolmogorov-Smirnov tests."""
    places = [i for i, one in enumerate(found) if one.sizes is not None]
    sizes = np.array([found[i].sizes for i in places], dtype=np.int64).reshape(-1, 2)
    effects = np.array([found[i].effect for i in places], dtype=np.float64)
    for i, p_value in zip(places, ks_p_values(effects, *sizes.T).tolist(), strict=True):
        found[i] = replace(found[i], p_value=p_value)
    return found


def _worse(values: _Comparison, nulls: _Comparison) -> _Comparison:
    """The greater effect of the two. Two tests were made: Bonferroni within a column keeps Holm's count of columns honest."""
    note = "; ".join(filter(None, (values.note, nulls.note)))
    one = replace(nulls, note=note) if nulls.effect > values.effect else values
    strange = max(values.strange, nulls.strange)
    return replace(one, p_value=min(one.p_value * 2, 1.0), strange=strange)


def _present(sample: Sample, *, categorical: bool) -> int:
    return int(sample.category.counts.sum()) if categorical else len(sample.ordered)


def _compare_values(reference: Sample, window: Sample, *, categorical: bool) -> _Comparison:
    if reference.rows == 0 or window.rows == 0:
        return _Comparison("none", 0.0, 1.0, "empty reference" if window.rows else "empty window")
    ours, theirs = (_present(side, categorical=categorical) for side in (reference, window))
    if min(ours, theirs) < VALUES_MIN:
        strange = float(theirs < VALUES_MIN <= ours)
        return _Comparison("none", 0.0, 1.0, _scarcity(ours, theirs), strange)
    return (_chi_squared if categorical else _kolmogorov_smirnov)(reference, window)


def _scarcity(reference: int, window: int) -> str:
    if reference == 0:
        return "no values in the reference" if window else "all null on both sides"
    return f"{window} values" if window else "all null in the window"


def _compare_nulls(reference: Sample, window: Sample, *, categorical: bool) -> _Comparison:
    if reference.rows == 0 or window.rows == 0:
        return _Comparison("none", 0.0, 1.0)
    there = [_present(side, categorical=categorical) for side in (reference, window)]
    rows = [reference.rows, window.rows]
    table = np.array([[n, all_ - n] for n, all_ in zip(there, rows, strict=True)], dtype=np.int64)
    effect = total_variation(table)
    if not effect:
        return _Comparison("chi2", 0.0, 1.0)
    ours, theirs = table[:, 1] / rows
    return _Comparison("chi2", effect, homogeneity_p(table), f"nulls {ours:.1%} → {theirs:.1%}")


def _kolmogorov_smirnov(reference: Sample, window: Sample) -> _Comparison:
    ours, theirs = reference.ordered, window.ordered
    flat = [bool(side[0] == side[-1]) for side in (ours, theirs)]
    note = ""
    if flat[0]:
        if flat[1] and ours[0] == theirs[0]:
            return _Comparison("ks", 0.0, 1.0, "constant")
        note = "constant in the reference"
    elif flat[1]:
        note = "constant in the window"
    effect = ks_statistic(ours, theirs)
    first, last = (np.searchsorted(ours, theirs[0], side=side) for side in _SIDES)
    usual = (last - first) / len(ours) >= USUAL_SHARE
    strange = float(flat[1] and not flat[0] and not usual)
    return _Comparison("ks", effect, 1.0, note, strange, (len(ours), len(theirs)))


def _chi_squared(reference: Sample, window: Sample) -> _Comparison:
    codes, table = table_of(reference.category, window.category)
    if len(codes) == 1:
        return _Comparison("chi2", 0.0, 1.0, "constant")
    new = (table[0] == 0) & (table[1] > 0)
    strange = float(table[1][new].sum() / table[1].sum())
    notes = []
    if new.any():
        told = ", ".join(f"{code:g}" for code in codes[new][:CATEGORIES_TOLD])
        notes.append(f"new categories: {told}")
    if np.count_nonzero(table[1]) == 1 < np.count_nonzero(table[0]):
        notes.append("constant in the window")
        usual = table[0][table[1] > 0][0] / table[0].sum() >= USUAL_SHARE
        strange = float(not usual)
    p_value = homogeneity_p(pooled(table))
    return _Comparison("chi2", total_variation(table), p_value, "; ".join(notes), strange)
