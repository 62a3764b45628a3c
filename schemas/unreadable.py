"""Records that the client cannot unfold, taken one by one, so that nobody waits behind them for ever.

librdkafka unfolds a batch of records when it comes. Where that fails (a compressed record that unfolds to more than
`receive.message.max.bytes`, or bytes that are not what they say), it reports an error and fetches the same batch again, and
again. Here such a record becomes one without a value, which every contract refuses, and reading goes on behind it; its
dead letter says what was wrong (`schemas.quarantine`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

log = structlog.get_logger()

UNREADABLE = "headrace_unreadable"
CALL_TIMEOUT_S = 5.0


class Unreadable:
    """What one consumer has stepped over. Not for sharing between threads."""

    def __init__(self) -> None:
        self._next: dict[tuple[str, int], int] = {}

    def forget(self, partitions: Collection[int] | None = None) -> None:
        """To be called whenever partitions are taken over, or set back; all of them where none is named."""
        kept = () if partitions is None else [at for at in self._next if at[1] not in partitions]
        self._next = {at: self._next[at] for at in kept}

    def stepped_over(self, consumer: Consumer, messages: Iterable[Message]) -> list[Message]:
        """The messages, each error of this kind replaced by the record it is about; other errors are left as they are."""
        here: set[tuple[str, int]] = set()
        taken = []
        for message in messages:
            error = message.error()
            if error is None or error.code() != KafkaError._BAD_COMPRESSION:  # noqa: SLF001 - its name
                taken.append(message)
                continue
            at = str(message.topic()), int(message.partition() or 0)
            # The same error may have come twice before reading went on.
            if at in here:
                continue
            here.add(at)
            try:
                taken.append(self._step(consumer, at, message, error))
            except KafkaException as trouble:
                # Reading has not gone on, so the error will be back.
                log.warning("unreadable", topic=at[0], cause=str(trouble.args[0]))
        return taken

    def _step(
        self, consumer: Consumer, at: tuple[str, int], message: Message, error: KafkaError
    ) -> Message:
        # The error names the first record of the batch; those before it may be answered already.
        [held] = consumer.committed([TopicPartition(*at)], CALL_TIMEOUT_S)
        offset = max(int(message.offset() or 0), held.offset, self._next.get(at, 0))
        self._next[at] = offset + 1
        consumer.seek(TopicPartition(*at, offset + 1))
        # Never handed to Kafka: it only holds the place.
        return Message(
            topic=at[0],
            partition=at[1],
            offset=offset,
            value=None,
            headers=[(UNREADABLE, error.str().encode())],
            timestamp=(0, -1),
        )
