"""When a request must be answered (pure).

A request says how long its answer is worth having, in the header `headrace-timeout-ms`; else its use case may
(`DEADLINE_MS` in `serving.<case>`). Both count from the instant at which Kafka received it, so that no producer's clock
matters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.envelope import TIMEOUT_MS, header

if TYPE_CHECKING:
    from confluent_kafka import Message

# What is longer, or no number, is no deadline: a week is what a topic keeps.
TIMEOUT_MS_MAX = 7 * 86_400_000
_DIGITS_MAX = len(str(TIMEOUT_MS_MAX))


def due_ms(message: Message, default_ms: int | None) -> int | None:
    """The instant from which an answer is worth nothing, in epoch ms; None where there is none."""
    said = header(message, TIMEOUT_MS)
    timeout_ms = default_ms if said is None else _parsed(said)
    return None if timeout_ms is None else int(message.timestamp()[1]) + timeout_ms


def _parsed(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX):
        return None
    return int(text) if int(text) <= TIMEOUT_MS_MAX else None
