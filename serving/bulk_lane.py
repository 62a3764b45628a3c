"""The bulk requests of the partitions that a replica owns: a second consumer, which joins nothing.

It follows what the group assigned of the interactive topic, partition by partition, so both lanes of a key are always
answered by the same replica and their results lie in one partition. Its offsets are committed in the same transactions
under the same generation, which fences it as well.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from schemas.settings import FETCH_WAIT_MS
from schemas.unreadable import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from schemas.settings import KafkaSettings

log = structlog.get_logger()

# The interactive lane waits for these calls: bulk is taken up later where Kafka does not answer at once.
CALL_TIMEOUT_S = 0.5
RETRY_S = 1.0


class BulkLane:
    """Not for sharing between threads.

    Args:
        kafka: The cluster.
        group: The scorer's consumer group.
        topics: The interactive topic and the bulk topic, alike partitioned.
    """

    def __init__(self, kafka: KafkaSettings, group: str, topics: tuple[str, str]) -> None:
        self._topics = topics
        self._followed: set[int] = set()
        self._retry_at_s = 0.0
        self._unreadable = Unreadable()
        self._consumer = Consumer(
            kafka.client_config(
                group_id=group,
                isolation_level="read_committed",
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                fetch_wait_max_ms=FETCH_WAIT_MS,
                # What is taken ahead of the batches; what is more stays in the log.
                queued_max_messages_kbytes=4_096,
            )
        )

    def follow(self, owned: Iterable[int]) -> None:
        """Read these partitions from now on; those that were followed already go on where they are."""
        wanted = set(owned)
        gone, new = self._followed - wanted, wanted - self._followed
        if gone:
            self._consumer.incremental_unassign(self._places(gone))
            self._followed -= gone
        if new and time.monotonic() >= self._retry_at_s:
            self._begin(new)

    def poll(self, rows: int) -> list[Message]:
        """What has come, at most so many; waits for nothing."""
        if not rows or not self._followed:
            return []
        return self._unreadable.stepped_over(self._consumer, self._consumer.consume(rows, 0))

    def rewind(self) -> None:
        """Begin again at what is committed, at the next `follow`."""
        self.follow(())
        self._retry_at_s = 0.0

    def close(self) -> None:
        """Give the connection back."""
        self._consumer.close()

    def _begin(self, partitions: set[int]) -> None:
        """From what is committed, once no transaction is pending on either lane (KIP-447).

        Both, because what was answered lately is read back from their common results when the first record comes.
        """
        self._unreadable.forget(partitions)
        asked = [TopicPartition(t, p) for t in self._topics for p in sorted(partitions)]
        try:
            held = self._consumer.committed(asked, CALL_TIMEOUT_S)
            # A partition that has an error of its own is asked for again, as all are when the call fails.
            known = {at.partition for at in held if at.error is None}
            known -= {at.partition for at in held if at.error is not None}
            mine = [at for at in held if at.topic == self._topics[1] and at.partition in known]
            for at in mine:
                at.offset = at.offset if at.offset >= 0 else OFFSET_BEGINNING
            self._consumer.incremental_assign(mine)
        except KafkaException as error:
            log.warning("bulk.begin", error=str(error.args[0]))
            known = set()
        self._followed |= known
        if known != partitions:
            self._retry_at_s = time.monotonic() + RETRY_S

    def _places(self, partitions: Iterable[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topics[1], p) for p in sorted(partitions)]
