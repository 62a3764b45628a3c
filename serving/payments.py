"""Payments: the rule that answers where no model can, and how a candidate is tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.control import CanaryRule, RoutingRule
from serving.declared import Fallback
from serving.gate import Requirement
from serving.tiers import Tier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from schemas.payments import PaymentRequest

# One card in twenty answers to a candidate: fraud is rare, but payments are many.
CANARY_SHARE = 0.05

# A wrong answer is dearest at cards of the highest tier, one in fifty: they wait for a version that has been promoted.
ROUTING = (RoutingRule(field="risk_tier", value="high", canary=CanaryRule.NEVER),)

# What a candidate owes before it may take traffic, measured with the champion on the candidate's own held-out rows.
GATE = (
    Requirement("auc", better="higher", bound=0.75),
    Requirement("log_loss", better="lower"),
    Requirement("brier", better="lower"),
    # With every number a little wrong, and with the input that it needs most missing: about as good as the champion.
    Requirement("auc_jittered", better="higher", margin=-0.01),
    Requirement("auc_without_one", better="higher", margin=-0.05),
)

# Who answers for a model that cannot. A second try would come out of the time in which a payment must be decided.
FALLBACKS = (Fallback.OTHER_MODEL, Fallback.RULE)
# The decision is worth little after 45 ms, and nothing after this. Less would take a stall of the machine for a fault of
# the model: a batch is a matter of 2 ms.
PREDICT_MS_MAX = 500

# Trees gain nothing from a GPU. The network is small: four replicas share one.
TIERS = {"trees": Tier("cpu"), "neural": Tier("gpu", share=0.25)}

# The rule's label; a model brings its own threshold.
FALLBACK_THRESHOLD = 0.5

# Tried cards show first as many payments within minutes, then as one large one: each alone is a hint, both a pattern.
_BASE = {"low": 0.01, "medium": 0.03, "high": 0.08}
_BURST_PAYMENTS = 5.0
_BURST_WEIGHT = 0.5
_LARGE_TIMES_MEAN = 8.0
_LARGE_WEIGHT = 0.4


def fallback(request: PaymentRequest, features: Mapping[str, float | None]) -> float:
    """A score in [0, 1] without a model: the tier, a burst of payments, an amount far beyond the card's usual."""
    score = _BASE[request.risk_tier]
    burst = features.get("card_payments__count_amount_10m") or 0.0
    score += _BURST_WEIGHT * min(burst / _BURST_PAYMENTS, 1.0) if burst > 1 else 0.0
    usual = features.get("card_payments__mean_amount_24h")
    if usual is not None and usual > 0:
        score += _LARGE_WEIGHT * min(request.amount / usual / _LARGE_TIMES_MEAN, 1.0)
    return min(score, 0.95)
