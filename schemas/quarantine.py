"""A refused record becomes a dead letter: whole, with reason, rule and origin in its headers.

One that is larger than a dead letter may be, which only a compressed record can be, becomes a pointer: without its value, and
with `headrace_bytes`, how many it had. The record itself is where its origin says, as long as its topic keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.decoding import Refusal
from schemas.envelope import Headers, header, headers_of
from schemas.topics import DEAD_LETTER_BYTES_MAX, DLQ_SUFFIX

if TYPE_CHECKING:
    from confluent_kafka import Message
from schemas.unreadable import UNREADABLE

PREFIX = "headrace_"
# What says why and where from takes up to a kilobyte; Kafka's own framing some bytes more.
WHOLE_BYTES_MAX = DEAD_LETTER_BYTES_MAX - 16 * 1024
# Of a pointer's key and headers: those that name and trace a record are shorter.
POINTER_BYTES_MAX = 1_024
# What a pointer keeps of the record's own headers.
NAMES = ("ce_id", "ce_source", "ce_type", "ce_time", "traceparent")


@dataclass(frozen=True)
class DeadLetter:
    """What to produce to the `.dlq` topic; key, value and the original headers as they came, or a pointer."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


def dead_letter(message: Message, refusal: Refusal) -> DeadLetter:
    """The dead letter of a refused record; `headrace_partition` and `headrace_offset` find the original again."""
    unreadable = header(message, UNREADABLE)
    said_of = refusal if unreadable is None else Refusal("unreadable", "value: unfolds", unreadable)
    origin = {
        "reason": said_of.reason,
        "rule": said_of.rule,
        "detail": said_of.detail,
        "topic": str(message.topic()),
        "partition": str(message.partition()),
        "offset": str(message.offset()),
        "ingest_ms": str(message.timestamp()[1]),
    }
    came = [pair for pair in headers_of(message) if not pair[0].startswith(PREFIX)]
    topic = f"{message.topic()}{DLQ_SUFFIX}"
    key, value = message.key(), message.value()
    size = len(key or b"") + len(value or b"") + sum(map(_size, came))
    if size > WHOLE_BYTES_MAX:
        origin["bytes"] = str(size)
        key, value = (key if len(key or b"") <= POINTER_BYTES_MAX else None), None
        came = [pair for pair in came if pair[0] in NAMES and _size(pair) <= POINTER_BYTES_MAX]
    said: Headers = [(PREFIX + name, text.encode()) for name, text in origin.items()]
    return DeadLetter(topic, key, value, came + said)


def _size(pair: tuple[str, str | bytes | None]) -> int:
    return len(pair[0]) + len(pair[1] or b"")
