"""Payments: is this card payment fraud?

A request is a feature event itself: what a card did a moment ago is the best sign of fraud, and the payment at hand is part of it.
The data come from a seeded generator (`pipelines.payments_generator`), which also says what the truth is.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from schemas.events import Event, Id
from schemas.inputs import RequestInput
from schemas.topics import Topic, standard_topics

EntityId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,47}$")]
# No card has a higher limit; in the currency's main unit.
Amount = Annotated[float, Field(gt=0, le=100_000)]
Category = Literal[
    "grocery", "fuel", "dining", "travel", "electronics", "fashion", "gaming", "gift"
]
RiskTier = Literal["low", "medium", "high"]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]


class PaymentRequest(Event):
    """One per payment, at the instant the card is presented; the decision is due within 45 ms."""

    id_field: ClassVar[str] = "request_id"
    key_field: ClassVar[str] = "card_id"

    request_id: Id
    card_id: EntityId
    merchant_id: EntityId
    # Unknown where the card itself was present.
    device_id: EntityId | None
    tenant: EntityId
    category: Category
    country: Country
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "EUR"
    risk_tier: RiskTier
    amount: Amount


class Chargeback(Event):
    """The ground truth of one payment, days later: `late` is whether it came back as fraud, the platform's name of a label."""

    id_field: ClassVar[str] = "request_id"
    key_field: ClassVar[str] = "request_id"

    request_id: Id
    late: bool


REQUEST = PaymentRequest
TOPICS: tuple[Topic, ...] = standard_topics(
    "payments", request=PaymentRequest, outcome=Chargeback, streams={}, request_events=True
)

CATEGORIES = ("grocery", "fuel", "dining", "travel", "electronics", "fashion", "gaming", "gift")
COUNTRIES = ("DE", "FR", "IT", "ES", "NL", "PL", "AT", "BE")
RISK_TIERS = ("low", "medium", "high")
# What a model may see of the request itself; the windowed features come from the feature service.
INPUTS = (
    RequestInput("amount"),
    RequestInput("category", categories=CATEGORIES),
    RequestInput("country", categories=COUNTRIES),
    RequestInput("risk_tier", categories=RISK_TIERS),
)
SERVICE = "payments_v1"
MODEL = "payments"
