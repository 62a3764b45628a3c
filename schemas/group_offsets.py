"""Offsets of a consumer group into a producer's transaction, within the time that is given for it.

`send_offsets_to_transaction` ignores its timeout where the coordinator's connection was lost, or is not there yet, and may
never return (librdkafka#5456). So it is called in a thread of its own. One that hangs is left behind with its producer; a new
producer of the same transactional id fences it, and the thread ends whenever its call does.
"""

from __future__ import annotations

from itertools import count

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from schemas.timed_calls import Overran, TimedCalls

log = structlog.get_logger()

# What a call that keeps its timeout may need on top of it.
OVERRUN_S = 1.0


class Hung(KafkaException):
    """The call does not return: throw the producer away."""


class GroupOffsets:
    """Sends offsets for one caller, one transaction at a time. Costs two changes of threads a call."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._calls: TimedCalls[None] = TimedCalls(timeout_s + OVERRUN_S)
        self._numbers = count()
        self.hung = 0

    def send(self, producer: Producer, offsets: list[TopicPartition], generation: object) -> None:
        """Add offsets, each the next one to read, to the producer's transaction.

        Raises:
            Hung: The call has not returned.
            KafkaException: What the call raised.
        """
        try:
            self._calls(
                # Whoever hangs keeps nobody else from sending.
                str(next(self._numbers)),
                lambda: producer.send_offsets_to_transaction(offsets, generation, self._timeout_s),
                lambda: None,
            )
        except Overran as overran:
            self.hung += 1
            why = f"send_offsets_to_transaction hangs: {overran}"
            raise Hung(KafkaError(KafkaError._TIMED_OUT, why)) from overran  # noqa: SLF001
