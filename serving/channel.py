"""Requests in, results out, exactly once: a consumer and a transactional producer that move together.

A batch's results and the offsets behind it are one Kafka transaction (KIP-447: the group's generation fences a replica
that lost its partitions). When a transaction is aborted, or nobody can say whether it was committed, the partitions are
set back to what is committed and the batch comes again.

Partitions are assigned cooperatively (KIP-429): when a replica joins or leaves, those that do not move go on flowing,
and what is remembered about them (`serving.recent`) need not be read again.

What is consumed waits in `serving.batcher` for its batch, both lanes beside each other.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from schemas.settings import FETCH_WAIT_MS, KafkaSettings
from schemas.unreadable import Unreadable
from serving import deadlines
from serving.batcher import Batcher, Bounds, Lane
from serving.bulk_lane import BulkLane
from serving.settings import ServingSettings
from serving.slot_producer import CALL_TIMEOUT_S, ChannelBroken, Outgoing, SlotProducer, broken

log = structlog.get_logger()

# A batch that fails this often in a row will not get through by itself.
FAILURES_MAX = 20
FAILURE_PAUSE_S_MAX = 1.0


class Channel:
    """The Kafka side of one replica. Not for sharing between threads.

    Args:
        kafka: The cluster.
        serving: Bounds and timeouts.
        group: The consumer group that all replicas share.
        slot: A number that at most one live replica holds (`serving.slot_producer`).
        topic: What is consumed.
        bulk: What is consumed as the bulk lane, partitioned alike; None where there is none.
        produced: Every topic that `commit` may be given.
        deadline_ms: How long a request may take that does not say so itself; None for ever.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        serving: ServingSettings,
        *,
        group: str,
        slot: int,
        topic: str,
        bulk: str | None = None,
        produced: Sequence[str] = (),
        deadline_ms: int | None = None,
    ) -> None:
        self._kafka, self._serving = kafka, serving
        self._group, self._topic, self._deadline_ms = group, topic, deadline_ms
        self._batcher: Batcher[Message] = Batcher(_bounds(serving))
        self._bulk = BulkLane(kafka, group, (topic, bulk)) if bulk else None
        self._owned: set[int] = set()
        self._failures = 0
        self._unreadable = Unreadable()
        self.fresh: set[int] = set()
        self.counts: Counter[str] = Counter()
        self._consumer = self._new_consumer()
        self._producer = SlotProducer(
            kafka,
            serving.transaction_timeout_ms,
            group=group,
            slot=slot,
            topic=topic,
            produced=produced,
            counts=self.counts,
        )

    @property
    def owned(self) -> frozenset[int]:
        """The partitions this replica answers for now."""
        return frozenset(self._owned)

    def poll(self) -> list[Message]:
        """The next batch: waits for the first record, then takes what is there, within the bounds of the settings.

        What does not fit waits in memory, up to a bound; beyond that it stays in the log.

        Partitions that were assigned, or set back, since they were last taken out of `fresh` are added to it.

        Raises:
            ChannelBroken: The consumer is beyond repair.
        """
        # consume(n, timeout) waits out its timeout for n records: the first is awaited alone, so that a lone request
        # is answered at once and a crowd becomes a batch.
        first = self._consumer.consume(1, self._patience_s())
        room = self._batcher.room(Lane.INTERACTIVE) - 1
        more = self._consumer.consume(room, 0) if first and room > 0 else []
        came = self._unreadable.stepped_over(self._consumer, (*first, *more))
        self._offer(Lane.INTERACTIVE, came)
        if self._bulk is not None:
            self._bulk.follow(self._owned)
            self._offer(Lane.BULK, self._bulk.poll(self._batcher.room(Lane.BULK)))
        return self._batcher.take(_now_ms())

    def lag(self) -> int:
        """Requests of the owned partitions that were not taken from the log yet, as far as fetches have told."""
        return sum(
            max(0, self._consumer.get_watermark_offsets(at, cached=True)[1] - at.offset)
            for at in self._consumer.position(self._consumer.assignment())
            if at.offset >= 0
        )

    def due_ms(self, message: Message) -> int | None:
        """From when on a request need not be scored any more, in epoch ms; None if it may always be."""
        return deadlines.due_ms(message, self._deadline_ms)

    def commit(self, outgoing: Iterable[Outgoing], batch: Sequence[Message]) -> bool:
        """Produce `outgoing` and move past `batch`, both or neither.

        Nothing that can hang happens in here but Kafka itself, and that is bounded (`serving.slot_producer`). What hangs all
        the same is found by `Scorer.stuck_s`: whoever runs the loop ends a process where it is above `STUCK_S`, as Ray Serve
        does by `check_health`.

        Returns:
            Whether it is committed. If not, `batch` will come again from `poll`.

        Raises:
            ChannelBroken: The transactions fail one after another.
        """
        try:
            self._producer.transact(
                outgoing, _next_offsets(batch), self._consumer.consumer_group_metadata
            )
        except KafkaException as error:
            failed: KafkaError = error.args[0]
        else:
            self._failures = 0
            return True
        # Outside of `except`: the traceback holds on to the producer that is to be thrown away.
        self._give_up(failed)
        return False

    def move_to(self, slot: int) -> None:
        """Take another slot, between two batches; the old one's transactions are all ended."""
        self._producer.move_to(slot)

    def close(self) -> None:
        """Leave the group at once, so that the others take over without waiting for a timeout."""
        self._consumer.close()
        if self._bulk is not None:
            self._bulk.close()

    def _patience_s(self) -> float:
        wait_ms = self._batcher.wait_ms(_now_ms())
        patience_s = self._serving.poll_timeout_s
        return patience_s if wait_ms is None else min(patience_s, wait_ms / 1000)

    def _offer(self, lane: Lane, messages: Iterable[Message]) -> None:
        now_ms = _now_ms()
        for message in messages:
            if self._usable(message):
                self._batcher.offer(
                    lane,
                    int(message.partition() or 0),
                    message,
                    size=len(message.value() or b""),
                    came_ms=now_ms,
                    due_ms=self.due_ms(message),
                )

    def _usable(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            # Records taken from the queue before their partition was: the new owner answers them.
            return message.partition() in self._owned
        if error.fatal():
            raise self._broken("a consumer that works", str(error))
        log.warning("channel.poll", error=str(error))
        self.counts["poll_errors"] += 1
        return False

    def _give_up(self, error: KafkaError) -> None:
        log.warning("channel.transaction", error=str(error), slot=self._producer.slot)
        self.counts["transactions_given_up"] += 1
        self._failures += 1
        if self._failures > FAILURES_MAX:
            raise self._broken("a batch that gets through", str(error))
        time.sleep(min(0.005 * 2**self._failures, FAILURE_PAUSE_S_MAX) if self._failures > 1 else 0)
        self._producer.end(error)
        self._rewind()

    def _rewind(self) -> None:
        """Set the owned partitions back to what is committed, or rejoin the group where that fails."""
        self._batcher.clear()
        self._unreadable.forget()
        if self._bulk is not None:
            self._bulk.rewind()
        try:
            # Read-committed consumers are answered only once no transaction is pending on the offsets (KIP-447).
            for at in self._consumer.committed(self._consumer.assignment(), CALL_TIMEOUT_S):
                offset = at.offset if at.offset >= 0 else OFFSET_BEGINNING
                self._consumer.seek(TopicPartition(at.topic, at.partition, offset))
                self.fresh.add(at.partition)
        except KafkaException as error:
            log.warning("channel.rewind", error=str(error.args[0]))
            self._consumer.close()
            self._owned.clear()
            self._consumer = self._new_consumer()

    def _new_consumer(self) -> Consumer:
        consumer = Consumer(
            self._kafka.client_config(
                group_id=self._group,
                isolation_level="read_committed",
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                partition_assignment_strategy="cooperative-sticky",
                session_timeout_ms=self._serving.session_timeout_ms,
                heartbeat_interval_ms=self._serving.session_timeout_ms // 6,
                fetch_wait_max_ms=FETCH_WAIT_MS,
                fetch_message_max_bytes=4 * 1024 * 1024,
            )
        )
        consumer.subscribe([self._topic], on_assign=self._gained, on_revoke=self._left)
        return consumer

    def _gained(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        gained = {p.partition for p in partitions}
        self._owned |= gained
        self.fresh |= gained
        self._unreadable.forget(gained)
        log.info("channel.assigned", slot=self._producer.slot, gained=sorted(gained))

    def _left(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        left = {p.partition for p in partitions}
        self._owned -= left
        self.fresh -= left
        for partition in left:
            self._batcher.drop(partition)
        log.info("channel.revoked", slot=self._producer.slot, left=sorted(left))

    def _broken(self, wanted: str, came: str) -> ChannelBroken:
        return broken(self._kafka, self._group, self._producer.slot, wanted, came)


def _bounds(serving: ServingSettings) -> Bounds:
    rows = serving.batch_rows_max
    return Bounds(
        rows=rows,
        bytes=serving.batch_bytes_max,
        bulk_rows=min(serving.bulk_rows_max, rows // 2),
        linger_ms=serving.batch_linger_ms,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _next_offsets(batch: Sequence[Message]) -> list[TopicPartition]:
    """Kafka commits the offset of the next record to read: last + 1."""
    last: dict[tuple[str, int], int] = {}
    for message in batch:
        at = (str(message.topic()), int(message.partition() or 0))
        last[at] = max(last.get(at, -1), int(message.offset() or 0))
    return [
        TopicPartition(topic, partition, offset + 1) for (topic, partition), offset in last.items()
    ]
