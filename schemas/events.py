"""The base of every contract."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field


def _ms(year: int) -> int:
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000)


# An event dated before 2000 is a clock at zero or a unit mistaken, never a flight or a payment.
EVENT_TIME_MS_MIN = _ms(2000)
# An event dated later than the broker received it, by more than any clock skew or time zone, is a mistake as well.
# Measured against the broker's append time, so the judgement is the same at every replay.
AHEAD_OF_INGEST_MS_MAX = 86_400_000

# Ids travel as Kafka headers and as parts of keys: printable ASCII without blanks, and bounded.
Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[!-~]+$")]
EventTimeMs = Annotated[int, Field(ge=EVENT_TIME_MS_MIN, lt=_ms(2100))]


class Event(BaseModel):
    """A record's value: JSON, strict, and closed to unknown fields.

    `event_time_ms` is when it happened in the world, in milliseconds since the epoch, UTC; when it was received is the
    Kafka record's own timestamp (LogAppendTime), called `ingest_ms` wherever it is read.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, ser_json_inf_nan="null"
    )

    id_field: ClassVar[str] = "event_id"
    key_field: ClassVar[str] = "event_id"

    event_time_ms: EventTimeMs

    @property
    def id(self) -> str:
        """The identity that travels as `ce_id`; unique per source."""
        return str(getattr(self, self.id_field))

    @property
    def key(self) -> str:
        """The entity that orders the stream: the Kafka key."""
        return str(getattr(self, self.key_field))

    def encode(self) -> bytes:
        """The record's value."""
        return self.model_dump_json().encode()
