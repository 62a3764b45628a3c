"""Better or not: the gate between a candidate and traffic (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal


@dataclass(frozen=True)
class Requirement:
    """What a candidate owes on one metric.

    Attributes:
        metric: Its name in both sets of metrics.
        better: In which direction it is better.
        margin: How much better than the champion it must be; 0 asks for strictly better. Negative allows it to be
            that much worse.
        bound: What it must reach, whatever the champion does.
    """

    metric: str
    better: Literal["higher", "lower"]
    margin: float = 0.0
    bound: float | None = None

    def failure(self, champion: float, candidate: float) -> str | None:
        """Why the candidate fails, or None where it does not."""
        sign = 1.0 if self.better == "higher" else -1.0
        if not isfinite(candidate):
            return f"{self.metric} is {candidate}"
        if self.bound is not None and sign * (candidate - self.bound) < 0:
            return f"{self.metric} {candidate:.4f} does not reach {self.bound:.4f}"
        if not isfinite(champion):
            return f"the champion's {self.metric} could not be measured"
        if sign * (candidate - champion) <= self.margin:
            return (
                f"{self.metric} {candidate:.4f} against the champion's {champion:.4f}: "
                f"{self.better} by more than {self.margin:g} was wanted"
            )
        return None


def gate(
    champion: Mapping[str, float],
    candidate: Mapping[str, float],
    requirements: Sequence[Requirement],
) -> tuple[bool, str]:
    """Admit a candidate only if it meets every requirement on the same rows.

    Returns:
        Whether it may take traffic, and a sentence with the numbers that decided it.
    """
    nan = float("nan")
    failures = [
        failure
        for r in requirements
        if (failure := r.failure(champion.get(r.metric, nan), candidate.get(r.metric, nan)))
    ]
    if failures:
        return False, "; ".join(failures)
    passed = [
        f"{r.metric} {candidate[r.metric]:.4f} against {champion.get(r.metric, nan):.4f}"
        for r in requirements
    ]
    return True, "better on every metric: " + ", ".join(passed)
