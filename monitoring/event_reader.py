"""Results and joined rows for a worker that keeps what it read in memory until it may commit.

Partitions are assigned, not subscribed: there is one worker a use case, and a rebalance would only cost it its state.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Self

import msgspec
import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from monitoring.windows import JoinedRow, Partition, ResultRow
from schemas import topics

if TYPE_CHECKING:
    from schemas.settings import KafkaSettings

TIMEOUT_S = 15.0
BATCH_ROWS_MAX = 2_000
COORDINATOR_MOVING = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    }
)

# The row is None where the partition has been read to its end.
Read = tuple[Partition, int, ResultRow | JoinedRow | None]

log = structlog.get_logger()
_decode_result = msgspec.json.Decoder(ResultRow).decode
_decode_joined = msgspec.json.Decoder(JoinedRow).decode


class EventReader:
    """`<case>.results` and `<case>.joined`, committed records only, from where `group` left off.

    Attributes:
        note: What was committed with the offsets last time; empty at the very first start.
        positions: The next offset of each partition.
        results, joined: The partitions of both topics.
        undecodable: Records passed by; they are ours, so each is a mistake that the log tells.
    """

    def __init__(self, kafka: KafkaSettings, case: str, group: str) -> None:
        self._results = f"{case}.results"
        self._consumer = Consumer(
            kafka.client_config(
                group_id=group,
                isolation_level="read_committed",
                enable_auto_commit=False,
                enable_partition_eof=True,
                auto_offset_reset="earliest",
            )
        )
        table = topics.table_of(case)
        wanted = [
            TopicPartition(name, partition)
            for name in (self._results, f"{case}.joined")
            for partition in range(table[name].partitions)
        ]
        committed = _committed(self._consumer, wanted)
        self.note: str = next((tp.metadata for tp in committed if tp.metadata), "")
        starts = [
            TopicPartition(
                tp.topic, tp.partition, tp.offset if tp.offset >= 0 else OFFSET_BEGINNING
            )
            for tp in committed
        ]
        self._consumer.assign(starts)
        self.positions: dict[Partition, int] = {
            (tp.topic, tp.partition): max(tp.offset, 0) for tp in committed
        }
        self.results = [p for p in self.positions if p[0] == self._results]
        self.joined = [p for p in self.positions if p[0] != self._results]
        self.undecodable = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def read(self, timeout_s: float) -> Iterator[Read]:
        """The next rows; waits at most `timeout_s` for the first."""
        for message in self._consumer.consume(BATCH_ROWS_MAX, timeout_s):
            partition = (message.topic() or "", message.partition() or 0)
            offset = message.offset() or 0
            error = message.error()
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                    raise KafkaException(error)
                yield partition, offset, None
                continue
            self.positions[partition] = offset + 1
            value = message.value() or b""
            try:
                is_result = partition[0] == self._results
                row = _decode_result(value) if is_result else _decode_joined(value)
            except msgspec.DecodeError:
                self.undecodable += 1
                log.exception("undecodable", partition=partition, offset=offset)
                continue
            yield partition, offset, row

    def commit(self, offsets: Mapping[Partition, int], note: str = "") -> None:
        """Commit, with a note that the next start finds in `note`."""
        self._consumer.commit(offsets=_topic_partitions(offsets, note), asynchronous=False)


def _committed(consumer: Consumer, wanted: list[TopicPartition]) -> list[TopicPartition]:
    """Where the group left off; a broker that has just started first says that it is not the coordinator."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return consumer.committed(wanted, timeout=TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() not in COORDINATOR_MOVING or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _topic_partitions(offsets: Mapping[Partition, int], note: str) -> list[TopicPartition]:
    return [
        TopicPartition(topic, partition, offset, metadata=note)
        for (topic, partition), offset in offsets.items()
    ]
