"""Payments' features: what a card, a merchant, a device, and a card at a merchant did lately, this payment included.

Views keyed by the card are exact to the payment, because all payments of a card lie in one partition; those of a merchant
or a device come from many and are as fresh as the rings are.
"""

from __future__ import annotations

from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, Field, KafkaSource, RequestSource, StreamFeatureView
from feast.aggregation import Aggregation
from feast.data_format import JsonFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

from features.lake_source import LakeSource

MINUTE = timedelta(minutes=1)
TEN_MINUTES = timedelta(minutes=10)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
HALF_HOUR = timedelta(minutes=30)
FIVE_MINUTES = timedelta(minutes=5)
LABELS = {TEN_MINUTES: "10m", HOUR: "1h", DAY: "24h"}
# The tail of a window may be off by a tenth of it at most; a day's by half an hour.
HOPS = {TEN_MINUTES: MINUTE, HOUR: FIVE_MINUTES, DAY: HALF_HOUR}

card = Entity(name="card", join_keys=["card_id"], value_type=ValueType.STRING)
merchant = Entity(name="merchant", join_keys=["merchant_id"], value_type=ValueType.STRING)
device = Entity(name="device", join_keys=["device_id"], value_type=ValueType.STRING)

payments = KafkaSource(
    name="payments",
    topic="payments.requests.valid",
    timestamp_field="event_time",
    message_format=JsonFormat(schema_json=""),
    batch_source=LakeSource("payments_requests"),
)


def _amount(function: str, window: timedelta) -> Aggregation:
    return Aggregation(
        column="amount",
        function=function,
        time_window=window,
        slide_interval=HOPS[window],
        name=f"{function}_amount_{LABELS[window]}",
    )


def _merchants(window: timedelta) -> Aggregation:
    """At how many merchants: a tried card is shown to many."""
    return Aggregation(
        column="merchant_id",
        function="count_distinct",
        time_window=window,
        slide_interval=HOPS[window],
        name=f"merchants_{LABELS[window]}",
    )


def _view(name: str, entities: list[Entity], aggregations: list[Aggregation]) -> StreamFeatureView:
    features = [
        Field(name=a.name, dtype=Int64 if a.function.startswith("count") else Float64)
        for a in aggregations
    ]
    return StreamFeatureView(
        name=name,
        entities=entities,
        ttl=2 * DAY,
        mode="sql",
        source=payments,
        timestamp_field="event_time",
        schema=[*(Field(name=e.join_key, dtype=String) for e in entities), *features],
        aggregations=aggregations,
        enable_tiling=True,
        tiling_hop_size=FIVE_MINUTES,
    )


card_payments = _view(
    "card_payments",
    [card],
    [
        *(_amount(f, TEN_MINUTES) for f in ("count", "sum", "max")),
        *(_amount(f, HOUR) for f in ("count", "sum", "mean", "max", "last")),
        *(_amount(f, DAY) for f in ("count", "mean", "max", "std")),
        _merchants(HOUR),
    ],
)
merchant_payments = _view(
    "merchant_payments",
    [merchant],
    [
        *(_amount(f, TEN_MINUTES) for f in ("count", "mean", "min")),
        *(_amount(f, HOUR) for f in ("count", "mean")),
        *(_amount(f, DAY) for f in ("count", "mean", "std")),
    ],
)
device_payments = _view(
    "device_payments",
    [device],
    [
        *(_amount(f, HOUR) for f in ("count", "sum", "max")),
        *(_amount(f, DAY) for f in ("count", "mean")),
    ],
)
card_merchant_payments = _view(
    "card_merchant_payments",
    [card, merchant],
    [
        *(_amount(f, HOUR) for f in ("count", "sum")),
        *(_amount(f, DAY) for f in ("count", "mean", "max")),
    ],
)

payment = RequestSource(name="payment", schema=[Field(name="amount", dtype=Float64)])


@on_demand_feature_view(
    sources=[payment, card_payments[["mean_amount_24h"]], merchant_payments[["mean_amount_1h"]]],
    schema=[
        Field(name="times_card_mean", dtype=Float64),
        Field(name="times_merchant_mean", dtype=Float64),
    ],
)
def payment_size(frame: pd.DataFrame) -> pd.DataFrame:
    """This payment's amount, in what the card and the merchant are used to."""
    return pd.DataFrame(
        {
            "times_card_mean": frame["amount"] / frame["mean_amount_24h"],
            "times_merchant_mean": frame["amount"] / frame["mean_amount_1h"],
        }
    )


payments_v1 = FeatureService(
    name="payments_v1",
    features=[
        card_payments,
        merchant_payments,
        device_payments,
        card_merchant_payments,
        payment_size,
    ],
)
