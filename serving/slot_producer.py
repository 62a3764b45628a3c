"""The transactional producer of one slot: made anew, under the same id, whenever nobody can say what became of a transaction.

At most one live replica holds a slot. The transactional id derives from it, so that a successor fences its predecessor at
once instead of waiting for its transaction to time out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from schemas.errors import HeadraceError
from schemas.group_offsets import GroupOffsets, Hung
from schemas.settings import KafkaSettings
from schemas.topics import DEAD_LETTER_BYTES_MAX

log = structlog.get_logger()

# A producer that must be thrown away this often within the time is not unlucky: another replica fights for its slot.
RENEWALS_MAX = 5
RENEWALS_WITHIN_S = 60.0
# How long a doubtful call may take. With the transaction's own timeout above it, the broker cannot end a transaction
# that this side still believes in.
CALL_TIMEOUT_S = 5.0
SWEPT = "headrace-swept"
# Which of them comes depends on the broker's version and on the call that meets it.
FENCED = (
    KafkaError._FENCED,  # noqa: SLF001 - its public name
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
)


class ChannelBroken(HeadraceError):
    """The replica cannot go on; its successor takes over from what is committed."""


class Outgoing(NamedTuple):
    """One record to produce; partition -1 lets the key decide."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | str | None]]


class SlotProducer:
    """Transactions under the id of a slot. Not for sharing between threads.

    Args:
        kafka: The cluster.
        timeout_ms: After which the broker ends a transaction by itself.
        group: The consumer group whose offsets the transactions carry.
        slot: See above.
        topic: One that the group consumes.
        produced: Every topic that a transaction may produce to.
        counts: Where `producers_renewed` is counted.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        timeout_ms: int,
        *,
        group: str,
        slot: int,
        topic: str,
        produced: Sequence[str],
        counts: Counter[str],
    ) -> None:
        self._kafka, self._timeout_ms = kafka, timeout_ms
        self._group, self._topic, self._produced = group, topic, frozenset(produced)
        self.slot = slot
        self._counts = counts
        self._renewals: list[float] = []
        self._offsets = GroupOffsets(CALL_TIMEOUT_S)
        self._producer = self._new()

    def transact(
        self,
        outgoing: Iterable[Outgoing],
        offsets: Sequence[TopicPartition],
        generation: Callable[[], object],
    ) -> None:
        """Produce `outgoing` and commit `offsets`, both or neither.

        Raises:
            KafkaException: It is not committed, or nobody can say: `end` it.
        """
        self._producer.begin_transaction()
        for record in outgoing:
            self._produce(record)
        # Asked for each time: every rebalance changes it.
        self._offsets.send(self._producer, list(offsets), generation())
        self._producer.commit_transaction(CALL_TIMEOUT_S)

    def end(self, error: KafkaError) -> None:
        """End the transaction that failed with `error`: abort it where that can be done, and start anew where not."""
        if not (error.txn_requires_abort() and self._aborted()):
            self._renew(str(error))

    def move_to(self, slot: int) -> None:
        """Take another slot, between two transactions."""
        if slot != self.slot:
            log.info("channel.slot", was=self.slot, now=slot)
            self.slot = slot
            del self._producer
            self._producer = self._new()

    def _produce(self, record: Outgoing) -> None:
        while True:
            try:
                self._producer.produce(
                    record.topic,
                    partition=record.partition,
                    key=record.key,
                    value=record.value,
                    headers=list(record.headers),
                )
            except BufferError:
                self._producer.poll(0.01)
            else:
                return

    def _aborted(self) -> bool:
        try:
            self._producer.abort_transaction(CALL_TIMEOUT_S)
        except KafkaException as error:
            log.warning("channel.abort", error=str(error.args[0]))
            return False
        return True

    def _renew(self, why: str) -> None:
        """A producer anew under the same id: its start ends whatever the old one left open (librdkafka#5423)."""
        self._count_renewal(why)
        # Dropped, not closed: `close` would first wait for the transaction that nobody can end any more.
        del self._producer
        self._producer = self._new()

    def _count_renewal(self, why: str) -> None:
        now = time.monotonic()
        self._renewals = [t for t in self._renewals if now - t < RENEWALS_WITHIN_S] + [now]
        if len(self._renewals) > RENEWALS_MAX:
            raise self._broken("transactions that end", why)
        self._counts["producers_renewed"] += 1
        self._counts["calls_hung"] = self._offsets.hung

    def _new(self) -> Producer:
        while True:
            try:
                return self._started()
            except KafkaException as error:
                # Another replica took the slot's id while this one started, or its start hangs: as good a reason for a new
                # one as any later.
                if not isinstance(error, Hung) and error.args[0].code() not in FENCED:
                    raise self._broken("a transactional producer", str(error.args[0])) from error
                self._count_renewal(str(error.args[0]))

    def _started(self) -> Producer:
        producer = Producer(
            self._kafka.client_config(
                transactional_id=f"{self._group}.{self.slot}",
                transaction_timeout_ms=self._timeout_ms,
                linger_ms=0,
                acks="all",
                enable_idempotence=True,
                compression_type="lz4",
                message_max_bytes=DEAD_LETTER_BYTES_MAX,
                # Waited on CONCURRENT_TRANSACTIONS, which follows a commit at once; 100 ms by default.
                retry_backoff_ms=1,
            )
        )
        producer.init_transactions(self._timeout_ms / 1000 + CALL_TIMEOUT_S)
        self._sweep(producer)
        return producer

    def _sweep(self, producer: Producer) -> None:
        """End what a predecessor may have left open, by a transaction over every place it may have written to, aborted.

        `init_transactions` ends it too, as a rule. But a broker that was killed may say that a transaction is aborted without
        having marked that in every partition (seen on 4.3.1 after kill -9 of a single node: fault case 4). What lies there
        would then be committed along with the first transaction of this producer, which has the same producer id.
        """
        known = producer.list_topics(timeout=CALL_TIMEOUT_S).topics
        producer.begin_transaction()
        for topic in known.keys() & self._produced:
            for partition in known[topic].partitions:
                # Read-committed readers never see it; whoever reads uncommitted sees a record without a value.
                producer.produce(topic, partition=partition, headers=[(SWEPT, b"1")])
        # Without a generation, so that it is taken while the group is in motion; it is not to be committed.
        self._offsets.send(producer, [TopicPartition(self._topic, 0, 0)], self._anonymous())
        producer.flush(CALL_TIMEOUT_S)
        producer.abort_transaction(CALL_TIMEOUT_S)

    def _anonymous(self) -> object:
        """The group, as one who has not joined it."""
        outsider = Consumer(self._kafka.client_config(group_id=self._group))
        try:
            return outsider.consumer_group_metadata()
        finally:
            outsider.close()

    def _broken(self, wanted: str, came: str) -> ChannelBroken:
        return broken(self._kafka, self._group, self.slot, wanted, came)


def broken(kafka: KafkaSettings, group: str, slot: int, wanted: str, came: str) -> ChannelBroken:
    """What a replica says at its end."""
    return ChannelBroken(
        f"{group}, slot {slot}, on {kafka.bootstrap_servers}",
        wanted=wanted,
        came=came,
        mend="It is restarted by itself; if this repeats, see `headrace status` for the broker.",
    )
