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
from math import exp, inf, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

# exp() of more than this overflows; the answer is certain long before.
_EXPONENT_MAX = 700.0


class Moments:
    """Mean of rows that come one by one, and its variance where rows of one entity hang together.

    The variance is that of a ratio of sums over entities (the cluster-robust one, Liang and Zeger 1986): what an entity's rows
    have in common counts once, however many they are. With one row an entity it is the usual one.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.total = 0.0
        # Entity → its rows and their sum; and over all entities the sums of squares and products of the two.
        self._of: dict[str, tuple[int, float]] = {}
        self._totals2 = 0.0
        self._products = 0.0
        self._rows2 = 0

    def add(self, value: float, entity: str) -> None:
        """Take a row in."""
        n, total = self._of.get(entity, (0, 0.0))
        m, after = n + 1, total + value
        self._totals2 += after * after - total * total
        self._products += m * after - n * total
        self._rows2 += m * m - n * n
        self.rows += 1
        self.total += value
        self._of[entity] = m, after

    @property
    def mean(self) -> float:
        """0 without rows."""
        return self.total / self.rows if self.rows else 0.0

    @property
    def variance_of_mean(self) -> float:
        """Infinite below two entities: one alone tells nothing of others."""
        entities = len(self._of)
        if entities < 2 or not self.rows:  # noqa: PLR2004 - a variance needs two
            return inf
        mean = self.mean
        spread = self._totals2 - 2 * mean * self._products + mean * mean * self._rows2
        return max(spread, 0.0) / self.rows**2 * entities / (entities - 1)


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
    def of_means(cls, treated: Moments, control: Moments) -> Difference:
        """From the moments of both arms; no information below two entities in either."""
        variance = treated.variance_of_mean + control.variance_of_mean
        return cls(treated.mean - control.mean, variance)

    @classmethod
    def of_marks(cls, treated: Moments, control: Moments) -> Difference:
        """From the moments of rows marked 1 or 0: never more certain than independent rows would make it."""
        sides = [(round(one.total), one.rows) for one in (treated, control)]
        rates = cls.of_rates(*sides)
        together = cls.of_means(treated, control)
        return cls(rates.value, max(rates.variance, together.variance))

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
