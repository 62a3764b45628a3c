"""Has a window moved away from its reference? The kernel: arrays in, verdicts out.

Each column gets a test and an effect size, because on thousands of rows a p-value alone calls every ripple a flood:

- numbers: the two-sample Kolmogorov-Smirnov test; the effect is its statistic D, in [0, 1].
- category codes: Pearson's chi-squared on the 2 × k table; the effect is the total variation distance, in [0, 1].
- nulls: a share that moved is drift too, tested as a two-category column; the greater effect of both counts.

A column has drifted when its p-value, corrected for the number of columns by Holm's step-down procedure (Holm 1979,
which holds under any dependence between columns), is at most `alpha`, and its effect at least `effect_min`.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

# Below this many values in either sample neither test says anything worth acting on.
VALUES_MIN = 20


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
class ColumnDrift:
    """One column's verdict.

    Attributes:
        column: Its name.
        test: "ks", "chi2", or "none" where there was nothing to compare.
        statistic: KS D, or the total variation distance: the effect as well.
        p_value: Corrected for the number of columns.
        drifted: Both significant and large enough.
        note: What a reader should know: constant, empty, too few values, a new category, moved nulls.
    """

    column: str
    test: str
    statistic: float
    p_value: float
    drifted: bool
    note: str = ""


@dataclass(frozen=True)
class _Comparison:
    test: str
    effect: float
    p_value: float
    note: str


def compare(
    reference: Mapping[str, Floats],
    window: Mapping[str, Floats],
    *,
    categorical: AbstractSet[str],
    thresholds: Thresholds,
) -> tuple[ColumnDrift, ...]:
    """Judge every column of the reference.

    Args:
        reference: Column → values, NaN for null; lengths may differ between the two sides.
        window: As `reference`; a column that is missing counts as all null.
        categorical: Columns that hold codes.
        thresholds: When a difference counts.

    Returns:
        One verdict a column, in the reference's order; never an exception for odd data.
    """
    empty = np.array([np.nan] * max((len(v) for v in window.values()), default=0))
    found = [
        _compare_column(
            np.asarray(values, dtype=np.float64),
            np.asarray(window.get(name, empty), dtype=np.float64),
            categorical=name in categorical,
        )
        for name, values in reference.items()
    ]
    corrected = holm(np.array([c.p_value for c in found], dtype=np.float64))
    return tuple(
        ColumnDrift(
            column=name,
            test=c.test,
            statistic=c.effect,
            p_value=float(p),
            drifted=bool(p <= thresholds.alpha and c.effect >= thresholds.effect_min),
            note=c.note,
        )
        for name, c, p in zip(reference, found, corrected, strict=True)
    )


def holm(p_values: Floats) -> Floats:
    """Holm's adjusted p-values, in the order given; each is at least the raw one and at most 1."""
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(count, 0, -1))
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _compare_column(reference: Floats, window: Floats, *, categorical: bool) -> _Comparison:
    if len(reference) == 0 or len(window) == 0:
        return _Comparison("none", 0.0, 1.0, "empty reference" if len(window) else "empty window")
    nulls = _compare_nulls(reference, window)
    ours, theirs = reference[~np.isnan(reference)], window[~np.isnan(window)]
    if min(len(ours), len(theirs)) < VALUES_MIN:
        values = _Comparison("none", 0.0, 1.0, _scarcity(ours, theirs))
    elif categorical:
        values = _chi_squared(ours, theirs)
    else:
        values = _kolmogorov_smirnov(ours, theirs)
    if nulls.effect > values.effect:
        note = "; ".join(filter(None, (values.note, nulls.note)))
        return _Comparison(nulls.test, nulls.effect, min(nulls.p_value * 2, 1.0), note)
    # Two tests were made of this column; Bonferroni within it keeps Holm's count of columns honest.
    return _Comparison(values.test, values.effect, min(values.p_value * 2, 1.0), values.note)


def _scarcity(reference: Floats, window: Floats) -> str:
    if len(reference) == 0:
        return "no values in the reference" if len(window) else "all null on both sides"
    return f"{len(window)} values" if len(window) else "all null in the window"


def _compare_nulls(reference: Floats, window: Floats) -> _Comparison:
    ours, theirs = np.isnan(reference).astype(float), np.isnan(window).astype(float)
    found = _chi_squared(ours, theirs)
    return _Comparison(
        "chi2", found.effect, found.p_value, f"nulls {ours.mean():.1%} → {theirs.mean():.1%}"
    )


def _kolmogorov_smirnov(reference: Floats, window: Floats) -> _Comparison:
    note = ""
    if np.ptp(reference) == 0:
        note = "constant in the reference"
        if np.ptp(window) == 0 and window[0] == reference[0]:
            return _Comparison("ks", 0.0, 1.0, "constant")
    # The exact distribution is slow beyond a few thousand rows and the same in all digits that matter.
    found = stats.ks_2samp(reference, window, method="asymp")
    return _Comparison("ks", float(found.statistic), float(found.pvalue), note)


def _chi_squared(reference: Floats, window: Floats) -> _Comparison:
    codes, inverse = np.unique(np.concatenate([reference, window]), return_inverse=True)
    if len(codes) == 1:
        return _Comparison("chi2", 0.0, 1.0, "constant")
    ours = np.bincount(inverse[: len(reference)], minlength=len(codes))
    theirs = np.bincount(inverse[len(reference) :], minlength=len(codes))
    distance = 0.5 * float(np.abs(ours / ours.sum() - theirs / theirs.sum()).sum())
    _, p_value, _, _ = stats.chi2_contingency(
        _merge_rare(np.stack([ours, theirs])), correction=False
    )
    new = codes[(ours == 0) & (theirs > 0)]
    note = f"new categories: {', '.join(f'{c:g}' for c in new[:5])}" if len(new) else ""
    return _Comparison("chi2", distance, float(p_value), note)


def _merge_rare(table: NDArray[np.int64]) -> NDArray[np.int64]:
    """Categories expected fewer than five times a side go together: below that chi-squared is no longer chi-squared."""
    expected = table.sum(axis=0) * (table.sum(axis=1).min() / table.sum())
    rare = expected < 5  # noqa: PLR2004 - the customary bound (Cochran 1954)
    if rare.all() or rare.sum() == 1:
        return table
    return np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)]) if rare.any() else table
