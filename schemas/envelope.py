"""CloudEvents 1.0 in Kafka's binary mode, with a W3C trace.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from confluent_kafka import Message

    from schemas.events import Event

# On an accepted copy of a request: where the request itself stands in its partition, decimal.
ORIGIN_OFFSET = "headrace-origin-offset"
# On a request: for how many milliseconds after Kafka received it an answer is worth having, decimal.
TIMEOUT_MS = "headrace-timeout-ms"
# On a result: which payload its request had, so that another under the same id is not taken for a repeat.
REQUEST_DIGEST = "headrace-request-digest"
Headers = list[tuple[str, str | bytes | None]]
TRACEPARENT = re.compile(r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")
# Where in it the span begins, and what follows it.
_SPAN, _FLAGS = 36, 52


def new_traceparent() -> str:
    """A new, sampled root."""
    made = os.urandom(24).hex()
    return f"00-{made[:32]}-{made[32:]}-01"


def child_traceparent(parent: str) -> str:
    """The same trace, another span; a new trace where the parent is not one."""
    if not TRACEPARENT.match(parent):
        return new_traceparent()
    return f"{parent[:_SPAN]}{os.urandom(8).hex()}{parent[_FLAGS:]}"


def headers(event: Event, *, source: str, traceparent: str | None = None) -> Headers:
    """The headers that travel with `event`; its type is `headrace.<contract>`."""
    return raw_headers(
        event_id=event.id,
        event_type=f"headrace.{type(event).__name__.lower()}",
        event_time_ms=event.event_time_ms,
        source=source,
        traceparent=traceparent,
    )


def raw_headers(
    *, event_id: str, event_type: str, event_time_ms: int, source: str, traceparent: str | None
) -> Headers:
    """As `headers`, for those who have encoded the value already."""
    time = datetime.fromtimestamp(event_time_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_source", source.encode()),
        ("ce_type", event_type.encode()),
        ("ce_time", time.replace("+00:00", "Z").encode()),
        ("content-type", b"application/json"),
        ("traceparent", (traceparent or new_traceparent()).encode()),
    ]


def headers_of(message: Message) -> Headers:
    """A consumed record's headers, as pairs; empty where there are none."""
    pairs = message.headers() or []
    return list(pairs.items()) if isinstance(pairs, dict) else pairs


def header(message: Message, name: str) -> str | None:
    """The last header of that name as text; None where it is missing or not UTF-8."""
    for key, value in reversed(headers_of(message)):
        if key == name and value is not None:
            try:
                return value.decode() if isinstance(value, bytes) else value
            except UnicodeDecodeError:
                return None
    return None
