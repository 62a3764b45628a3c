"""What flights tolerate: some 950 results a day, outcomes within a day, seasons that move every input."""

from __future__ import annotations

from monitoring.drift import Thresholds
from monitoring.policy import (
    DAY_MS,
    HOUR_MS,
    DriftPolicy,
    GuardPolicy,
    LoopPolicy,
    Policy,
    WindowPolicy,
)

POLICY = Policy(
    # A week holds every weekday once, about 6,600 flights; the longest flight lands within 12 hours.
    window=WindowPolicy(length_ms=7 * DAY_MS, grace_ms=12 * HOUR_MS, rows_min=500),
    drift=DriftPolicy(
        # Weather moves a little every week: only a shift of 15 % of the mass counts, in three inputs at once.
        inputs=Thresholds(alpha=0.01, effect_min=0.15),
        columns_min=3,
        score=Thresholds(alpha=0.01, effect_min=0.10),
        auc_drop_min=0.02,
        log_loss_rise_min=0.03,
        alpha=0.01,
    ),
    loop=LoopPolicy(
        cool_down_ms=14 * DAY_MS,
        orders_max=3,
        orders_per_ms=60 * DAY_MS,
        look_back_ms=60 * DAY_MS,
    ),
    # A canary of 10 % sees about 95 flights a day, so the last look comes after about a week.
    guard=GuardPolicy(
        answers_min=100, rows_min=100, rows_decide=600, duration_max_ms=14 * DAY_MS, slow_ms=100.0
    ),
)
