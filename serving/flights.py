"""Flights: the rule that answers where no model can, and how a candidate is tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.declared import Fallback
from serving.gate import Requirement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from schemas.flights import FlightRequest

# One key in ten answers to a candidate: with some 950 flights a day the guard sees enough outcomes within days.
CANARY_SHARE = 0.10

# What a candidate owes before it may take traffic, measured with the champion on the candidate's own held-out
# rows, the latest there are. An AUC below 0.7 would not pay for itself over the rule, whatever the champion does.
GATE = (
    Requirement("auc", better="higher", bound=0.70),
    Requirement("log_loss", better="lower"),
    Requirement("brier", better="lower"),
    # With every number a little wrong, and with the input that it needs most missing: about as good as the champion.
    Requirement("auc_jittered", better="higher", margin=-0.01),
    Requirement("auc_without_one", better="higher", margin=-0.05),
)

# Who answers for a model that cannot.
FALLBACKS = (Fallback.RETRY, Fallback.OTHER_MODEL, Fallback.RULE)

# The rule's label; a model brings its own threshold.
FALLBACK_THRESHOLD = 0.5

# The share of flights of 2013 that arrived more than 15 minutes late grows with the scheduled hour: 0.10 at five,
# 0.20 at noon, 0.37 at nine in the evening.
_LATE_SHARE_MORNING = 0.10
_LATE_SHARE_PER_HOUR = 0.017
_FIRST_HOUR = 5
# A late aircraft is the best single sign of a late flight: after a last delay of 30 to 45 minutes half arrive late,
# beyond an hour three in four, and more delay says no more.
_LAST_DELAY_FULL_MINUTES = 60.0


def fallback(request: FlightRequest, features: Mapping[str, float | None]) -> float:
    """A score in [0, 1] without a model: the hour of the day, and the aircraft's last delay where it is known."""
    hours = max(request.scheduled_hour - _FIRST_HOUR, 0)
    base = _LATE_SHARE_MORNING + _LATE_SHARE_PER_HOUR * hours
    last = features.get("aircraft_departures__last_delay_24h")
    if last is None or last <= 0:
        return base
    return min(base + 0.5 * min(last / _LAST_DELAY_FULL_MINUTES, 1.0), 0.95)
