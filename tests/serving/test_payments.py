from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.payments import RISK_TIERS, PaymentRequest
from serving.declared import Fallback, declared
from serving.payments import fallback

BURST = "card_payments__count_amount_10m"
USUAL = "card_payments__mean_amount_24h"


def _payment(amount: float = 10.0, tier: str = "low") -> PaymentRequest:
    fields: dict[str, Any] = {
        "event_time_ms": 1_700_000_000_000,
        "request_id": "r",
        "card_id": "c1",
        "merchant_id": "m1",
        "device_id": None,
        "tenant": "bank0",
        "category": "fuel",
        "country": "DE",
        "risk_tier": tier,
        "amount": amount,
    }
    return PaymentRequest(**fields)


@given(
    st.floats(0.01, 100_000),
    st.sampled_from(RISK_TIERS),
    st.none() | st.floats(0, 1e6),
    st.none() | st.floats(0, 1e6),
)
def test_the_rule_always_gives_a_score(
    amount: float, tier: str, burst: float | None, usual: float | None
) -> None:
    assert 0 <= fallback(_payment(amount, tier), {BURST: burst, USUAL: usual}) <= 1


def test_bursts_and_unusual_amounts_score_higher() -> None:
    calm = fallback(_payment(), {BURST: 1.0, USUAL: 10.0})
    assert fallback(_payment(), {}) < calm < fallback(_payment(), {BURST: 9.0, USUAL: 10.0})
    assert calm < fallback(_payment(200.0), {BURST: 1.0, USUAL: 10.0})


def test_what_it_declares_can_be_meant() -> None:
    assert declared("payments", ()).fallbacks[0] is Fallback.OTHER_MODEL
