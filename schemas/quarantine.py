"""A refused record becomes a dead letter: whole, with reason, rule and origin in its headers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.envelope import Headers, headers_of
from schemas.topics import DLQ_SUFFIX

if TYPE_CHECKING:
    from confluent_kafka import Message

    from schemas.decoding import Refusal

PREFIX = "headrace_"


@dataclass(frozen=True)
class DeadLetter:
    """What to produce to the `.dlq` topic; key, value and the original headers as they came."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


def dead_letter(message: Message, refusal: Refusal) -> DeadLetter:
    """The dead letter of a refused record; `headrace_partition` and `headrace_offset` find the original again."""
    origin = {
        "reason": refusal.reason,
        "rule": refusal.rule,
        "detail": refusal.detail,
        "topic": str(message.topic()),
        "partition": str(message.partition()),
        "offset": str(message.offset()),
        "ingest_ms": str(message.timestamp()[1]),
    }
    came = [pair for pair in headers_of(message) if not pair[0].startswith(PREFIX)]
    said: Headers = [(PREFIX + name, value.encode()) for name, value in origin.items()]
    return DeadLetter(f"{message.topic()}{DLQ_SUFFIX}", message.key(), message.value(), came + said)
