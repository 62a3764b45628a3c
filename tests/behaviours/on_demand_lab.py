"""A use case with on-demand views: amounts of customers, and what a request says of itself."""

from __future__ import annotations

import math
from datetime import timedelta

import pandas as pd
from feast import (
    Entity,
    FeatureService,
    FeatureView,
    Field,
    KafkaSource,
    RequestSource,
    StreamFeatureView,
)
from feast.aggregation import Aggregation
from feast.data_format import JsonFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

from features.lake_source import LakeSource

HOUR = timedelta(hours=1)
LIMIT = 1_000.0

customer = Entity(name="customer", join_keys=["customer"], value_type=ValueType.STRING)
orders = KafkaSource(
    name="orders",
    topic="demanded.orders.valid",
    timestamp_field="event_time",
    message_format=JsonFormat(schema_json=""),
    batch_source=LakeSource("demanded_orders"),
)
customer_orders = StreamFeatureView(
    name="customer_orders",
    entities=[customer],
    mode="sql",
    source=orders,
    timestamp_field="event_time",
    schema=[
        Field(name="customer", dtype=String),
        Field(name="n", dtype=Int64),
        Field(name="usual", dtype=Float64),
    ],
    aggregations=[
        Aggregation(column="amount", function="count", time_window=HOUR, name="n"),
        Aggregation(column="amount", function="mean", time_window=HOUR, name="usual"),
    ],
)
ratings = FeatureView(
    name="ratings",
    entities=[customer],
    schema=[Field(name="customer", dtype=String), Field(name="stars", dtype=Int64)],
    source=LakeSource("demanded_ratings"),
)
asked = RequestSource(
    name="asked", schema=[Field(name="amount", dtype=Float64), Field(name="tier", dtype=String)]
)


def _capped(values: pd.Series[float]) -> pd.Series[float]:
    return values.clip(upper=LIMIT)


@on_demand_feature_view(
    sources=[asked, customer_orders],
    schema=[Field(name="times_usual", dtype=Float64), Field(name="is_gold", dtype=Float64)],
    mode="pandas",
)
def compared(frame: pd.DataFrame) -> pd.DataFrame:
    """The amount asked for, in what is usual."""
    out = pd.DataFrame()
    out["times_usual"] = _capped(frame["amount"] / frame["customer_orders__usual"]) * frame["n"]
    out["is_gold"] = (frame["tier"] == "gold").astype(float)
    return out


@on_demand_feature_view(
    sources=[ratings, asked], schema=[Field(name="root", dtype=Float64)], mode="python"
)
def weighed(columns: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
    pairs = zip(columns["stars"], columns["amount"], strict=True)
    return {
        "root": [
            None if stars is None or amount is None else math.sqrt(abs(amount)) * stars
            for stars, amount in pairs
        ]
    }


demanded_v1 = FeatureService(
    name="demanded_v1", features=[customer_orders, ratings, compared, weighed]
)
