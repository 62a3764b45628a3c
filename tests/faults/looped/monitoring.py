"""What it tolerates: 600 results a day, windows of a day; one retraining, for the cool-down is longer than a case."""

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
    window=WindowPolicy(length_ms=DAY_MS, grace_ms=6 * HOUR_MS, rows_min=150),
    drift=DriftPolicy(
        inputs=Thresholds(alpha=0.001, effect_min=0.2),
        columns_min=1,
        score=Thresholds(alpha=0.001, effect_min=0.2),
        auc_drop_min=0.1,
        log_loss_rise_min=0.1,
        alpha=0.01,
    ),
    loop=LoopPolicy(
        cool_down_ms=300 * DAY_MS,
        orders_max=1,
        orders_per_ms=300 * DAY_MS,
        look_back_ms=20 * DAY_MS,
    ),
    guard=GuardPolicy(
        rows_min=50, rows_decide=400, duration_max_ms=300 * DAY_MS, score_distance_max=0.7
    ),
)
