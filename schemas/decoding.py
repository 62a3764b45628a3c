"""Bytes to an event, or to the reason why not. The only judge of what enters the platform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from schemas.events import AHEAD_OF_INGEST_MS_MAX, Event

E = TypeVar("E", bound=Event)

VALUE_BYTES_MAX = 64 * 1024
# Quoted in the dead letter's headers: enough to see the mistake, too little to carry a payload.
DETAIL_CHARS_MAX = 300


@dataclass(frozen=True)
class Refusal:
    """Why a record was not accepted.

    Attributes:
        reason: One of null_value, too_large, not_utf8, not_json, contract, absurd_time.
        rule: The field and the rule that failed, as `field: rule`.
        detail: What came, shortened; never the value of the whole record.
    """

    reason: str
    rule: str
    detail: str


def decode(
    contract: type[E], value: bytes | None, ingest_ms: int, bytes_max: int = VALUE_BYTES_MAX
) -> E | Refusal:
    """Judge one record's value.

    Args:
        contract: The topic's contract.
        value: The record's value as it came.
        ingest_ms: The broker's append time; the same at every replay, so the judgement is as well.
        bytes_max: A longer value is refused unread.
    """
    if value is None:
        return Refusal("null_value", "value: not null", "the record has no value")
    if len(value) > bytes_max:
        return Refusal("too_large", f"value: at most {bytes_max} bytes", f"{len(value)} bytes")
    try:
        event = contract.model_validate_json(value)
    except ValidationError as error:
        return _refusal(error)
    if event.event_time_ms > ingest_ms + AHEAD_OF_INGEST_MS_MAX:
        return Refusal(
            "absurd_time",
            f"event_time_ms: at most {AHEAD_OF_INGEST_MS_MAX} ms after it was received",
            f"{event.event_time_ms - ingest_ms} ms after",
        )
    return event


def _refusal(error: ValidationError) -> Refusal:
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "value"
    kind = first["type"]
    if kind == "json_invalid":
        return Refusal("not_json", "value: JSON in UTF-8", _short(first["msg"]))
    reason = "absurd_time" if field == "event_time_ms" and "than" in kind else "contract"
    more = error.error_count() - 1
    tail = f" (and {more} more)" if more else ""
    return Refusal(reason, f"{field}: {kind}", _short(first["msg"] + tail))


def _short(text: str) -> str:
    return text if len(text) <= DETAIL_CHARS_MAX else text[: DETAIL_CHARS_MAX - 1] + "…"
