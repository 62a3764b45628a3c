"""What payments tolerate: many results a minute, outcomes within days, fraud that changes its ways overnight."""

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
    # Chargebacks come within three days; a day holds every hour of shopping once.
    window=WindowPolicy(length_ms=DAY_MS, grace_ms=3 * DAY_MS, rows_min=2_000),
    drift=DriftPolicy(
        # A price shift moves every amount feature at once; single merchants come and go.
        inputs=Thresholds(alpha=0.01, effect_min=0.10),
        columns_min=3,
        score=Thresholds(alpha=0.01, effect_min=0.10),
        auc_drop_min=0.03,
        log_loss_rise_min=0.02,
        alpha=0.01,
    ),
    loop=LoopPolicy(
        cool_down_ms=3 * DAY_MS,
        orders_max=3,
        orders_per_ms=30 * DAY_MS,
        look_back_ms=14 * DAY_MS,
    ),
    # Canary and champion are told apart by errors, time and score at once, and by chargebacks after days. At 500 payments a
    # second a canary of 5 % gives 25 answers a second, so 200 take 8 s; a rate of 200 is known to 3.5 % at worst.
    # A decision may take 45 ms in all and a model takes under 2 ms of them.
    guard=GuardPolicy(
        answers_min=200,
        rows_min=500,
        rows_decide=5_000,
        duration_max_ms=5 * DAY_MS + HOUR_MS,
        slow_ms=20.0,
    ),
)
