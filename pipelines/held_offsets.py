"""Offsets that wait until what they stand for is safe in Redis, which keeps its file in step once a second."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from pipelines.polling import next_offsets, unavailable

# What Redis may still lose must be read again: no offset is committed before what it stands for is this old.
COMMIT_LAG_S = 2.0


class HeldOffsets:
    """What one consumer has worked off and not yet committed."""

    def __init__(
        self, consumer: Consumer, name: str, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        """`name` says whose offsets they are, in an error."""
        self._consumer, self._name, self._clock_s = consumer, name, clock_s
        self._held: deque[tuple[float, list[TopicPartition]]] = deque()

    def hold(self, batch: Sequence[Message]) -> None:
        """These messages were written just now."""
        self._held.append((self._clock_s(), next_offsets(batch)))

    def commit(self) -> None:
        """Commit what is old enough, without waiting for the answer.

        Raises:
            KafkaUnavailable: The consumer cannot commit any more.
        """
        until_s = self._clock_s() - COMMIT_LAG_S
        ready: dict[tuple[str, int], TopicPartition] = {}
        while self._held and self._held[0][0] <= until_s:
            ready |= {(tp.topic, tp.partition): tp for tp in self._held.popleft()[1]}
        if not ready:
            return
        try:
            self._consumer.commit(offsets=list(ready.values()), asynchronous=True)
        except KafkaException as error:
            raise unavailable(f"offsets of {self._name}", error) from error
