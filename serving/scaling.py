"""How many replicas a lag asks for: what Ray Serve's autoscaler is told (pure, but for the shape of what it hands over).

Serve calls the policy about once a second with what each replica reported (`record_autoscaling_stats`), waits until its
answer has stood for `upscale_delay_s` or `downscale_delay_s`, and keeps within its own bounds. This module is sent to Serve's
controller by value, so it imports nothing of headrace.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LAG = "lag"


@dataclass(frozen=True)
class Bounds:
    """Within which replicas follow the lag.

    Attributes:
        low: Never fewer.
        high: Never more, and never more than there are partitions: one without a partition has nothing to do.
        lag_each: Requests behind that one replica is expected to bear.
        relief: With one replica fewer, each must bear less than this share of `lag_each`; else the next record would
            call it back.
        up: At most so many more at once.
        down: At most so many fewer at once.
    """

    low: int
    high: int
    lag_each: int
    relief: float = 0.5
    up: int = 2
    down: int = 1


def wanted(lag: float, now: int, bounds: Bounds) -> int:
    """Replicas for a lag, given how many there are to be now.

    More as soon as the lag needs them; fewer only where it would leave room with those that stay. Never beyond the bounds, never
    more than a step away from `now` within them, and never fewer for a greater lag.
    """
    needed = math.ceil(lag / bounds.lag_each)
    spare = math.ceil(lag / (bounds.lag_each * bounds.relief))
    there = max(needed, min(now, max(spare, 1)))
    stepped = min(max(there, now - bounds.down), now + bounds.up)
    return min(max(stepped, bounds.low), bounds.high)


class LagPolicy:
    """The class that Ray Serve makes once and calls; its arguments are `Bounds`."""

    def __init__(self, **bounds: Any) -> None:  # noqa: ANN401 - Serve hands over what JSON has
        self._bounds = Bounds(**bounds)

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 - ray.serve's
        """How many replicas there are to be; without a report, as many as there are."""
        now = context.target_num_replicas
        reported = (context.aggregated_metrics or {}).get(LAG, {})
        lag = lag_of(reported)
        return (now if lag is None else wanted(lag, now, self._bounds)), {}


def lag_of(reported: Mapping[Any, float]) -> float | None:
    """The lag of all partitions: each replica reports its own; None where none did."""
    return sum(reported.values()) if reported else None
