"""Consume → transform → produce, each batch in one Kafka transaction.

```
   poll ──► transform ──► begin, produce, send offsets, commit ──► poll …
              (may take      │ refused, or the group rebalanced: abort
               its time)     │ doubtful (time-out) or fatal: throw the producer away, a new one of the same id fences it
                             └──► go back to the committed offsets ──► poll …
```
What is produced and how far was read become visible together or not at all, to readers of `read_committed`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from threading import Event

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
)

from pipelines.pace import PROMPT, Pace
from pipelines.polling import (
    START_TIMEOUT_S,
    consumer_config,
    next_offsets,
    poll,
    taken,
    unavailable,
)
from schemas.envelope import Headers
from schemas.group_offsets import GroupOffsets
from schemas.settings import KafkaSettings
from schemas.topics import DEAD_LETTER_BYTES_MAX
from schemas.unreadable import Unreadable

# A stuck transaction holds up every read_committed reader for this long.
TRANSACTION_TIMEOUT_MS = 8_000
# Longer than the broker keeps a transaction open: an answer that has not come by then will not come.
CALL_TIMEOUT_S = 10.0
RETRY_PAUSE_S = 0.2

log = structlog.get_logger()


@dataclass(frozen=True)
class Outgoing:
    """One record to produce; partition −1 lets the key decide."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int = -1


Transform = Callable[[Sequence[Message]], Sequence[Outgoing]]


@dataclass(frozen=True)
class Slot:
    """A place that one process at a time holds, whoever it is; its successor fences it.

    Attributes:
        group: The consumer group.
        name: Transactional id and static group membership; stable over restarts, unique among the replicas.
        topics: What it consumes.
    """

    group: str
    name: str
    topics: tuple[str, ...]


class TransactionalPipe:
    """One slot's consumer and transactional producer. Not safe to share between threads.

    The constructor takes the slot over: an open transaction of a predecessor is aborted.

    Args:
        kafka: The cluster.
        slot: The place to take.
        pace: How often it may ask.
    """

    def __init__(self, kafka: KafkaSettings, slot: Slot, pace: Pace = PROMPT) -> None:
        self._kafka = kafka
        self._slot = slot
        self.pace = pace
        self._where = f"Kafka at {kafka.bootstrap_servers}"
        self._offsets = GroupOffsets(CALL_TIMEOUT_S)
        self._producer = self._new_producer()
        self._consumer = Consumer(
            consumer_config(
                kafka,
                slot.group,
                slot=slot.name,
                topics=slot.topics,
                fetch_bytes=pace.fetch_bytes,
            )
        )
        self._unreadable = Unreadable()
        self._consumer.subscribe(list(slot.topics), on_assign=lambda *_: self._unreadable.forget())
        self.aborted = 0

    def close(self) -> None:
        """Leave. What was not committed will be read again by the next holder of the slot."""
        self._consumer.close()

    def poll(self, timeout_s: float) -> list[Message]:
        """The next batch, empty after `timeout_s` without a record."""
        return poll(self._consumer, timeout_s, unreadable=self._unreadable)

    def commit(self, consumed: Sequence[Message], produced: Iterable[Outgoing]) -> bool:
        """Produce and move the group's offsets past `consumed`, in one transaction.

        Returns:
            False where nothing happened: the same records will come again from `poll`.

        Raises:
            SlotTaken: This process must end.
            KafkaUnavailable: No new producer could be had in time.
        """
        offsets = next_offsets(consumed)
        try:
            self._producer.begin_transaction()
            for record in produced:
                self._producer.produce(
                    record.topic,
                    record.value,
                    record.key,
                    partition=record.partition,
                    headers=record.headers,
                )
            # Taken fresh each time: a rebalance changes the generation, and an old one must be refused.
            group = self._consumer.consumer_group_metadata()
            self._offsets.send(self._producer, offsets, group)
            self._producer.commit_transaction(CALL_TIMEOUT_S)
        except (KafkaException, BufferError) as error:
            self._undo(error)
            return False
        return True

    def _undo(self, error: KafkaException | BufferError) -> None:
        cause = _kafka_error(error)
        self.aborted += 1
        log.warning("transaction undone", slot=self._slot.name, cause=str(error))
        if cause is not None and cause.code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED):  # noqa: SLF001
            raise taken(self._slot.name, error) from error
        # Without a Kafka error (a full queue), or where Kafka says so, the transaction is open and can be aborted. All
        # else is fatal or in doubt: it may even have been committed.
        if not ((cause is None or cause.txn_requires_abort()) and self._abort()):
            self._producer = self._new_producer()
        self._rewind()

    def _abort(self) -> bool:
        try:
            self._producer.abort_transaction(CALL_TIMEOUT_S)
        except KafkaException as error:
            log.warning("abort in doubt", slot=self._slot.name, cause=str(error))
            return False
        return True

    def _new_producer(self) -> Producer:
        """A new producer of the slot's id; waits for, or aborts, whatever the last one left open."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            producer = Producer(_producer_config(self._kafka, self._slot))
            try:
                producer.init_transactions(CALL_TIMEOUT_S)
            except KafkaException as error:
                if time.monotonic() > deadline or error.args[0].fatal():
                    raise unavailable(self._where, error) from error
                time.sleep(RETRY_PAUSE_S)
            else:
                return producer

    def _rewind(self) -> None:
        """Go back to what the group has committed; only after the last transaction's fate is settled."""
        self._unreadable.forget()
        deadline = time.monotonic() + START_TIMEOUT_S
        while assignment := self._consumer.assignment():
            try:
                for committed in self._consumer.committed(assignment, CALL_TIMEOUT_S):
                    if committed.offset < 0:
                        committed.offset = OFFSET_BEGINNING
                    self._consumer.seek(committed)
            except KafkaException as error:
                # A rebalance may take a partition away meanwhile; look at the assignment again.
                if time.monotonic() > deadline:
                    raise unavailable(self._where, error) from error
                time.sleep(RETRY_PAUSE_S)
            else:
                return


def run(
    pipe: TransactionalPipe,
    transform: Transform,
    committed: Callable[[], None],
    stop: Event,
) -> None:
    """Move batches at the pipe's pace until `stop` is set.

    `committed` is called after each transaction and after each idle poll. `transform` must not fail on any record: what it cannot accept is a dead letter, not an exception.
    """
    began_s = 0.0
    while not stop.is_set():
        stop.wait(max(0.0, began_s + pipe.pace.transaction_s - time.monotonic()))
        batch = pipe.poll(0.2)
        began_s = time.monotonic()
        if batch:
            # Before begin: nothing that may take long happens inside an open transaction.
            produced = transform(batch)
            if not pipe.commit(batch, produced):
                continue
        committed()


def _producer_config(kafka: KafkaSettings, slot: Slot) -> dict[str, object]:
    return {
        **kafka.client_config(linger_ms=0, compression_type="lz4"),
        "transactional.id": slot.name,
        "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
        "message.max.bytes": DEAD_LETTER_BYTES_MAX,
        # The default of 100 ms is waited whenever the last transaction is still being completed.
        "retry.backoff.ms": 1,
    }


def _kafka_error(error: KafkaException | BufferError) -> KafkaError | None:
    first = error.args[0] if error.args else None
    return first if isinstance(first, KafkaError) else None
