"""The null distribution of Kolmogorov-Smirnov's D, for many columns at once. Pure.

`scipy.stats.ks_2samp(method="asymp")` takes Kolmogorov's one-sample distribution at n·m / (n + m) and works it out in
Python, column by column, by a sum of up to that many terms. This gives the same p-values to 1e-9: that sum from 128 of its
terms, Pelz and Good's series in arrays, and scipy itself where samples are small.
"""

from __future__ import annotations

from math import pi, sqrt, tau

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

# Below this size scipy is quick, and the two ways below are not exact enough.
SIZE_MIN = 1_000
# n·D² below which D is as small as it gets by chance, above which Smirnov's one-sided distribution says all, and beyond which
# scipy says 0. The bounds are scipy's own, but for the first.
TINY, NEAR, FAR = 0.002, 2.2, 370.0
# Where scipy takes an exact recursion instead of the series: n · D^1.5 up to this. From 5,000 on both agree to 1e-11.
RECURSION_MAX, SERIES_MIN = 1.4, 5_000
# A half of D and more: the terms of Smirnov's sum no longer vanish at both ends.
SHARE_MAX = 0.5
TERMS, SERIES = 128, 8


def ks_p_values(statistics: Floats, ones: Counts, twos: Counts) -> Floats:
    """Two-sided p-values of D, for samples of so many values.

    NaN where n·m / (n + m) rounds to 0, as in scipy: two samples of one value.
    """
    ones, twos = np.asarray(ones, dtype=np.float64), np.asarray(twos, dtype=np.float64)
    sizes = np.rint(ones * twos / (ones + twos))
    squares = sizes * statistics**2
    large = sizes >= SIZE_MIN
    certain = large & (squares < TINY)
    serial = large & (squares >= TINY) & (squares < NEAR)
    serial &= (sizes >= SERIES_MIN) | (sizes * statistics**1.5 > RECURSION_MAX)
    summed = large & (squares >= NEAR) & (squares < FAR) & (statistics < SHARE_MAX)
    p_values = np.full(len(statistics), np.nan)
    p_values[certain] = 1.0
    p_values[serial] = _pelz_good(sizes[serial], np.sqrt(squares[serial]))
    p_values[summed] = 2 * _smirnov(sizes[summed], statistics[summed])
    asked = ~(certain | serial | summed) & (sizes > 0)
    if asked.any():
        p_values[asked] = stats.kstwo.sf(statistics[asked], sizes[asked])
    clipped: Floats = np.clip(p_values, 0, 1)
    return clipped


def _smirnov(sizes: Floats, statistics: Floats) -> Floats:
    """`scipy.special.smirnov` from 128 of its up to `n` terms (the sum: Simard & L'Ecuyer 2011, JSS 39, section 2).

    As a function of their number the terms vanish with all their slopes at both ends, so any evenly spaced ones, each for
    those around it, have the same sum (Euler-Maclaurin). What is left is the rounding of the log-gammas, 1e-16 · n · log(n).
    """
    n, x = sizes[:, None], statistics[:, None]
    step = n / TERMS
    place = step * (np.arange(TERMS) + 0.5)
    left = 1 - x - place / n
    # Beyond the last term; the bell is flat long before.
    inside = left > 0
    logs = (
        special.gammaln(n + 1)
        - special.gammaln(place + 1)
        - special.gammaln(n - place + 1)
        + (place - 1) * np.log(x + place / n)
        + (n - place) * np.log(np.where(inside, left, 1.0))
    )
    terms: Floats = np.exp(np.where(inside, logs, -np.inf)) * step * x
    total: Floats = terms.sum(axis=1)
    return total


def _pelz_good(n: Floats, z: Floats) -> Floats:
    """One minus the series of Pelz & Good (1976, JRSS B 38) in 1/√n, at z = √n · D."""
    s = z**2
    odd = np.arange(1, 2 * SERIES, 2)[:, None] ** 2 * pi**2 / 4
    whole = np.arange(1, SERIES + 1)[:, None] ** 2 * pi**2
    at_odd, at_whole = np.exp(-odd / (2 * s)), np.exp(-whole / (2 * s))
    of_two = 6 * s**3 + 2 * s**2 + (2 * s**2 - 5 * s) * odd + (1 - 2 * s) * odd**2
    of_three = (
        (-30 * s**3 - 90 * s**4)
        + (135 * s**2 - 96 * s**3) * odd
        + (212 * s**2 - 60 * s) * odd**2
        + (5 - 30 * s) * odd**3
    )
    zero = at_odd.sum(axis=0) / z
    one = ((odd - s) * at_odd).sum(axis=0) / (6 * z**4)
    two = (of_two * at_odd).sum(axis=0) / (72 * z**7)
    two -= (whole * at_whole).sum(axis=0) / (36 * z**3)
    three = (of_three * at_odd).sum(axis=0) / (6_480 * z**10)
    three += ((3 * s - whole) * whole * at_whole).sum(axis=0) / (216 * z**6)
    below: Floats = sqrt(tau) * (zero + one / np.sqrt(n) + two / n + three / n**1.5)
    return 1 - below
