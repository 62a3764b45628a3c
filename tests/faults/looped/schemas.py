"""What travels in the use case that the loop's cases play with: a station asks whether the water will be high."""

from __future__ import annotations

from typing import ClassVar

from schemas.events import Event, Id
from schemas.inputs import RequestInput
from schemas.topics import standard_topics


class Reading(Event):
    """A feature event; none is sent."""

    id_field: ClassVar[str] = "event_id"
    key_field: ClassVar[str] = "station"

    event_id: Id
    station: str
    level: float | None


class Asked(Event):
    """`level` decides what comes of it; before the world moved, `slope` did."""

    id_field: ClassVar[str] = "request_id"
    key_field: ClassVar[str] = "station"

    request_id: Id
    station: str
    level: float
    slope: float


class Known(Event):
    """What came of it."""

    id_field: ClassVar[str] = "request_id"
    key_field: ClassVar[str] = "request_id"

    request_id: Id
    late: bool


MODEL = __name__.rpartition(".")[2]
SERVICE = "everything"
REQUEST = Asked
INPUTS = (RequestInput("level"), RequestInput("slope"))
TOPICS = standard_topics(MODEL, request=Asked, outcome=Known, streams={"readings": (Reading, 2)})
