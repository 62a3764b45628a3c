"""Two samples of one column: their statistics and p-values, as scipy has them and in a fraction of its time. Pure.

A column is sorted, or its codes are counted, once, and the reference of a champion serves every window. What follows costs
little beside that:

- Kolmogorov-Smirnov's D is looked for at every k-th value only; between two of them both distribution functions are
  bounded by their ends, so few places are left to look closer.
- Its p-value is `monitoring.ks_distribution`'s.
- Chi-squared works on counts.
"""

from __future__ import annotations

from functools import cached_property
from math import isqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

BLOCK_MIN = 8
# Fewer of a category than that are expected in a sample: no longer chi-squared (the customary bound, Cochran 1954).
EXPECTED_MIN = 5
# Codes from zero up to here are counted in place; others (negative, fractional, huge) are sorted.
CODES_MAX = 65_536


class Category(NamedTuple):
    """Codes in ascending order, and how often each occurs."""

    codes: Floats
    counts: Counts


class Sample:
    """One column's values, NaN for null. What is asked of it is worked out once and kept."""

    def __init__(self, values: Floats) -> None:
        self._values = np.asarray(values, dtype=np.float64)
        self.rows = len(self._values)

    @cached_property
    def ordered(self) -> Floats:
        """The values in ascending order, without nulls."""
        ordered = np.sort(self._values)
        # NaN sorts last.
        return ordered[: np.searchsorted(ordered, np.nan)]

    @cached_property
    def category(self) -> Category:
        """The values as codes."""
        return counted(self._values)


def counted(values: Floats) -> Category:
    """How often each value occurs; NaN does not count."""
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    same = whole == values
    if not same.all():
        values = values[~np.isnan(values)]
        whole = whole[same]
    small = len(whole) == len(values) and len(whole) > 0
    if small and whole.min() >= 0 and whole.max() < CODES_MAX:
        counts = np.bincount(whole)
        codes = np.flatnonzero(counts)
        return Category(codes.astype(np.float64), counts[codes])
    return Category(*np.unique(values, return_counts=True))


def ks_statistic(one: Floats, two: Floats) -> float:
    """Kolmogorov-Smirnov's D: the greatest distance of two distribution functions.

    Both in ascending order, without NaN, and not empty.
    """
    last = len(one) - 1
    # A block's mass is then an eighth of what D comes to by chance, whatever the size.
    block = max(BLOCK_MIN, isqrt(len(one)) // 8)
    cuts = np.append(np.arange(0, last, block), last)
    ours = _own_steps(one, cuts)[1] / len(one)
    theirs = np.searchsorted(two, one[cuts], side="right") / len(two)
    # Below the first value of `one` its function is 0, above the last it is 1.
    first = float(np.searchsorted(two, one[0], side="left")) / len(two)
    found = max(first, float(np.abs(ours - theirs).max()))
    # Both functions only rise: so far apart can they be at most from one cut to the next.
    reach = np.maximum(ours[1:] - theirs[:-1], theirs[1:] - ours[:-1])
    closer = cuts[np.flatnonzero(reach > found)]
    if len(closer):
        places = np.minimum(closer[:, None] + np.arange(1, block + 1), last).ravel()
        for own, other in zip(_own_steps(one, places), _steps(two, one[places]), strict=True):
            found = max(found, float(np.abs(own / len(one) - other / len(two)).max()))
    return found


def _steps(ordered: Floats, values: Floats) -> tuple[Counts, Counts]:
    """How many of `ordered` are below each value, and how many up to it."""
    upto = np.searchsorted(ordered, values, side="right")
    below = upto.copy()
    tied = ordered[np.maximum(upto - 1, 0)] == values
    below[tied] = np.searchsorted(ordered, values[tied], side="left")
    return below, upto


def _own_steps(ordered: Floats, places: Counts) -> tuple[Counts, Counts]:
    """The same for values of `ordered` itself, by their places: only ties must be searched."""
    values, last = ordered[places], len(ordered) - 1
    tied = (ordered[np.minimum(places + 1, last)] == values) & (places < last)
    tied |= (ordered[np.maximum(places - 1, 0)] == values) & (places > 0)
    below, upto = places.copy(), places + 1
    below[tied] = np.searchsorted(ordered, values[tied], side="left")
    upto[tied] = np.searchsorted(ordered, values[tied], side="right")
    return below, upto


def table_of(one: Category, two: Category) -> tuple[Floats, Counts]:
    """All codes in ascending order, and the 2 × k table of their counts."""
    codes = np.union1d(one.codes, two.codes)
    table = np.zeros((2, len(codes)), dtype=np.int64)
    for row, side in zip(table, (one, two), strict=True):
        row[np.searchsorted(codes, side.codes)] = side.counts
    return codes, table


def total_variation(table: Counts) -> float:
    """The distance of two distributions over codes: the mass that would have to move, in [0, 1]."""
    one, two = table / table.sum(axis=1, keepdims=True)
    return float(np.abs(one - two).sum() / 2)


def pooled(table: Counts) -> Counts:
    """With rare categories put together until each group is expected often enough for chi-squared.

    They are taken from the most frequent down, by the counts of both samples together, so that how the two differ has no say.
    """
    totals = table.sum(axis=0)
    falling = np.argsort(-totals, kind="stable")
    # Into the smaller sample, which has the least of each.
    expected = totals[falling] * (table.sum(axis=1).min() / table.sum())
    groups, group, filled = [], 0, 0.0
    for size in expected.tolist():
        groups.append(group)
        filled += size
        if filled >= EXPECTED_MIN:
            group, filled = group + 1, 0.0
    # What was left at the end joins the group before.
    place = np.minimum(groups, max(group - 1, 0))
    sums = np.zeros((2, place[-1] + 1), dtype=np.int64)
    for total, side in zip(sums, table, strict=True):
        np.add.at(total, place, side[falling])
    return sums


def homogeneity_p(table: Counts) -> float:
    """Pearson's test that both rows come from one distribution: `chi2_contingency(table, correction=False)`.

    Every column must have a count; one column alone cannot differ.
    """
    expected = table.sum(axis=1, keepdims=True) * (table.sum(axis=0) / table.sum())
    statistic = float(((table - expected) ** 2 / expected).sum())
    freedom = table.shape[1] - 1
    return float(special.chdtrc(freedom, statistic)) if freedom else 1.0


def fit_p(table: Counts) -> float:
    """Pearson's test that the second row comes from the first one's very shares: Evidently's `chisquare`.

    It takes the reference for the truth, though that is a sample itself, so its p-values come out too small, and a code that the
    reference lacks makes them 0. No verdict hangs on it: it is here to be compared with.
    """
    expected = table[0] * (table[1].sum() / table[0].sum())
    if (expected == 0).any():
        return 0.0
    statistic = float(((table[1] - expected) ** 2 / expected).sum())
    return float(special.chdtrc(table.shape[1] - 1, statistic))
