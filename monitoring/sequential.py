"""Is one mean greater than another, when one looks after every row? Tests that may be looked at any number of times.

The mixture sequential probability ratio test (Robbins 1970) for the difference of two means, in the form of Johari,
Koomen, Pekelis and Walsh, "Always Valid Inference: Continuous Monitoring of A/B Tests", Operations Research 70(3), 2022.
With an estimated difference d of variance V, and a normal mixture of standard deviation s over the true difference,

    L = sqrt(V / (V + s²)) · exp(s² d² / (2 V (V + s²)))

exceeds 1/a at any time with a chance of at most a under equality (Ville's inequality; asymptotically, as V is estimated:
hence a least number of rows before the first look). The mixture has two sides and harm has one, so by symmetry the
chance of L exceeding 1/(2a) with d > 0 is about a.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

# exp() of more than this overflows; the answer is certain long before.
_EXPONENT_MAX = 700.0


@dataclass
class Moments:
    """Count, sum and sum of squares: mean and variance of rows that come and are replaced one by one."""

    rows: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """Take a row in."""
        self.rows += 1
        self.total += value
        self.squares += value * value

    def remove(self, value: float) -> None:
        """Take back a row that was taken in."""
        self.rows -= 1
        self.total -= value
        self.squares -= value * value

    @property
    def mean(self) -> float:
        """0 without rows."""
        return self.total / self.rows if self.rows else 0.0

    @property
    def variance(self) -> float:
        """The sample's; 0 below two rows."""
        if self.rows < 2:  # noqa: PLR2004 - a variance needs two
            return 0.0
        return max(self.squares - self.total * self.mean, 0.0) / (self.rows - 1)


@dataclass(frozen=True)
class Difference:
    """An estimated difference of two means (treated minus control) and its variance."""

    value: float
    variance: float

    @classmethod
    def of(cls, treated: Floats, control: Floats) -> Difference:
        """From the rows of both arms; no information below two rows in either."""
        if min(len(treated), len(control)) < 2:  # noqa: PLR2004 - a variance needs two
            return cls(0.0, float("inf"))
        variance = treated.var(ddof=1) / len(treated) + control.var(ddof=1) / len(control)
        return cls(float(treated.mean() - control.mean()), float(variance))

    @classmethod
    def of_moments(cls, treated: Moments, control: Moments) -> Difference:
        """From the moments of both arms; no information below two rows in either."""
        if min(treated.rows, control.rows) < 2:  # noqa: PLR2004 - as above
            return cls(0.0, float("inf"))
        variance = treated.variance / treated.rows + control.variance / control.rows
        return cls(treated.mean - control.mean, variance)

    @classmethod
    def of_rates(cls, treated: tuple[int, int], control: tuple[int, int]) -> Difference:
        """From (hits, rows) of both arms, half a hit and a miss added so that no rate is certain (Agresti 1996)."""
        (a, m), (b, n) = ((hits + 0.5, rows + 1.0) for hits, rows in (treated, control))
        p, q = a / m, b / n
        return cls(p - q, p * (1 - p) / m + q * (1 - q) / n)


def always_valid_p(difference: Difference, mixture_sd: float) -> float:
    """One-sided: the bound on the chance of ever having seen so much harm (value > 0) without any."""
    d, v, s2 = difference.value, difference.variance, mixture_sd**2
    if d <= 0 or not np.isfinite(v):
        return 1.0
    if v == 0:
        return 0.0
    exponent = s2 * d * d / (2 * v * (v + s2))
    ratio = sqrt(v / (v + s2)) * exp(min(exponent, _EXPONENT_MAX))
    return min(1.0, 1 / (2 * ratio))


def fixed_p(difference: Difference) -> float:
    """One-sided z-test, for a look that is planned once."""
    if not np.isfinite(difference.variance):
        return 1.0
    if difference.variance == 0:
        return 0.0 if difference.value > 0 else 1.0
    return float(stats.norm.sf(difference.value / sqrt(difference.variance)))
