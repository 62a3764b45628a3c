"""Flights' features: how late departures run by origin, destination, carrier and aircraft, and the weather."""

from __future__ import annotations

from datetime import timedelta

from feast import Entity, FeatureService, Field, KafkaSource, StreamFeatureView
from feast.aggregation import Aggregation
from feast.data_format import JsonFormat
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

from features.lake_source import LakeSource

HOUR = timedelta(hours=1)
HALF_HOUR = timedelta(minutes=30)
FIVE_MINUTES = timedelta(minutes=5)

origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
dest = Entity(name="dest", join_keys=["dest"], value_type=ValueType.STRING)
carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING)
aircraft = Entity(name="aircraft", join_keys=["tailnum"], value_type=ValueType.STRING)

departures = KafkaSource(
    name="departures",
    topic="flights.departures.valid",
    timestamp_field="event_time",
    message_format=JsonFormat(schema_json=""),
    batch_source=LakeSource("flights_departures"),
)
weather = KafkaSource(
    name="weather",
    topic="flights.weather.valid",
    timestamp_field="event_time",
    message_format=JsonFormat(schema_json=""),
    batch_source=LakeSource("flights_weather"),
)


def _delay(function: str, hours: int, slide: timedelta | None = None) -> Aggregation:
    return Aggregation(
        column="dep_delay",
        function=function,
        time_window=hours * HOUR,
        slide_interval=slide,
        name=f"{function}_delay_{hours}h",
    )


def _latest(column: str) -> Aggregation:
    return Aggregation(column=column, function="last", time_window=6 * HOUR, name=column)


def _view(
    name: str,
    source: KafkaSource,
    entity: Entity,
    aggregations: list[Aggregation],
    hop: timedelta,
) -> StreamFeatureView:
    features = [
        Field(name=a.name, dtype=Int64 if a.function == "count" else Float64) for a in aggregations
    ]
    return StreamFeatureView(
        name=name,
        entities=[entity],
        ttl=timedelta(days=2),
        mode="sql",
        source=source,
        timestamp_field="event_time",
        schema=[Field(name=entity.join_key, dtype=String), *features],
        aggregations=aggregations,
        enable_tiling=True,
        tiling_hop_size=hop,
    )


origin_departures = _view(
    "origin_departures",
    departures,
    origin,
    [
        _delay("count", 1),
        _delay("mean", 1),
        _delay("max", 1),
        _delay("count", 3),
        _delay("mean", 3),
        _delay("max", 3),
        _delay("mean", 24, HALF_HOUR),
        _delay("std", 24, HALF_HOUR),
    ],
    FIVE_MINUTES,
)
dest_departures = _view(
    "dest_departures", departures, dest, [_delay("mean", 3), _delay("mean", 24)], HALF_HOUR
)
carrier_departures = _view(
    "carrier_departures",
    departures,
    carrier,
    [_delay(function, hours) for hours in (3, 24) for function in ("count", "mean", "std")],
    HALF_HOUR,
)
aircraft_departures = _view(
    "aircraft_departures",
    departures,
    aircraft,
    [_delay(function, 24) for function in ("last", "mean", "max", "count")],
    HALF_HOUR,
)
origin_weather = _view(
    "origin_weather",
    weather,
    origin,
    [_latest(c) for c in ("temp", "wind_speed", "precip", "visib", "pressure", "humid")],
    HOUR,
)

flights_v1 = FeatureService(
    name="flights_v1",
    features=[
        origin_departures,
        dest_departures,
        carrier_departures,
        aircraft_departures,
        origin_weather,
    ],
)
