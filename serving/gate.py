"""Better or not: the gate between a candidate and traffic (pure).

A difference on held-out rows may be chance. Where resamples of them say how it varies (`serving.resamples`), the candidate
must be better in most. The bar of each requirement is low, because all must pass theirs, and because the guard looks again, on
traffic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import numpy as np

from serving.resamples import Floats, interval


@dataclass(frozen=True)
class Requirement:
    """What a candidate owes on one metric.

    Attributes:
        metric: Its name in both sets of metrics.
        better: In which direction it is better.
        margin: How much better than the champion it must be; 0 asks for strictly better. Negative allows it to be
            that much worse.
        bound: What it must reach, whatever the champion does.
        confidence: In what share of the resamples it must be better by the margin; looked at where there are any.
    """

    metric: str
    better: Literal["higher", "lower"]
    margin: float = 0.0
    bound: float | None = None
    confidence: float = 0.8

    def failure(
        self, champion: float | None, candidate: float, differences: Floats | None = None
    ) -> str | None:
        """Why the candidate fails, or None where it does not; without a `champion` only what it must reach counts."""
        alone = self._failure_alone(candidate)
        if alone or champion is None:
            return alone
        return self._failure_against(champion, candidate, differences)

    @property
    def _sign(self) -> float:
        return 1.0 if self.better == "higher" else -1.0

    def _failure_alone(self, candidate: float) -> str | None:
        if not isfinite(candidate):
            return f"{self.metric} is {candidate}"
        if self.bound is not None and self._sign * (candidate - self.bound) < 0:
            return f"{self.metric} {candidate:.4f} does not reach {self.bound:.4f}"
        return None

    def _failure_against(
        self, champion: float, candidate: float, differences: Floats | None
    ) -> str | None:
        sign = self._sign
        if not isfinite(champion):
            return f"the champion's {self.metric} could not be measured"
        if sign * (candidate - champion) <= self.margin:
            return (
                f"{self.metric} {candidate:.4f} against the champion's {champion:.4f}: "
                f"{self.better} by more than {self.margin:g} was wanted"
            )
        sure = 1.0 if differences is None else float(np.mean(sign * differences > self.margin))
        if sure < self.confidence:
            return (
                f"{self.metric} {candidate:.4f} against the champion's {champion:.4f}"
                f"{_spread(differences)} is better in {sure:.0%} of the resamples: {self.confidence:.0%} were wanted"
            )
        return None


def gate(
    champion: Mapping[str, float],
    candidate: Mapping[str, float],
    requirements: Sequence[Requirement],
    differences: Mapping[str, Floats] | None = None,
    *,
    suspended: bool = False,
) -> tuple[bool, str]:
    """Admit a candidate only if it meets every requirement on the same rows.

    Args:
        champion: Metric → its value.
        candidate: As `champion`.
        requirements: All of which must be met.
        differences: Metric → candidate minus champion on resamples of the rows, where they were taken.
        suspended: The champion is not asked: it is the rule that a candidate would replace, and the guard holds it to the floor.

    Returns:
        Whether it may take traffic, and a sentence with the numbers that decided it.
    """
    nan = float("nan")
    drawn = differences or {}
    failures = [
        failure
        for r in requirements
        if (
            failure := r.failure(
                None if suspended else champion.get(r.metric, nan),
                candidate.get(r.metric, nan),
                drawn.get(r.metric),
            )
        )
    ]
    if failures:
        return False, "; ".join(failures)
    passed = [
        f"{r.metric} {candidate[r.metric]:.4f} against {champion.get(r.metric, nan):.4f}"
        f"{_spread(drawn.get(r.metric))}"
        for r in requirements
    ]
    why = "the champion is suspended" if suspended else "meets every requirement"
    return True, f"{why}: " + ", ".join(passed)


def _spread(differences: Floats | None) -> str:
    if differences is None:
        return ""
    low, high = interval(differences)
    return f" ({low:+.4f} to {high:+.4f})"
