"""What is committed on a topic, read once up to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from confluent_kafka import Message

    from schemas.settings import KafkaSettings

BATCH = 10_000
METADATA_TIMEOUT_S = 10.0
# How often a scan that tells says how far it is.
TOLD_EVERY = 100_000


def scan(
    kafka: KafkaSettings, topic: str, begin: Mapping[int, int] | None = None
) -> Iterator[Message]:
    """Yield the committed records of a topic, partition by partition as they come, up to the end at the time of the call.

    Args:
        kafka: The cluster.
        topic: One that it does not have holds nothing.
        begin: Partition → its first offset to read; the others, and those whose record has gone, from their beginning.

    Raises:
        KafkaException: The broker reported an error other than the end of a partition.
    """
    consumer = Consumer(
        dict(
            kafka.client_config(
                group_id="headrace.audit",
                isolation_level="read_committed",
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                enable_partition_eof=True,
                fetch_wait_max_ms=10,
            )
        )
    )
    try:
        known = consumer.list_topics(timeout=METADATA_TIMEOUT_S).topics
        partitions = known[topic].partitions if topic in known else {}
        first = begin or {}
        consumer.assign(
            [TopicPartition(topic, p, first.get(p, OFFSET_BEGINNING)) for p in partitions]
        )
        open_partitions = set(partitions)
        while open_partitions:
            # The first alone: awaiting a whole batch would wait past the ends of the partitions.
            for message in (*consumer.consume(1, 0.5), *consumer.consume(BATCH, 0)):
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's name
                    open_partitions.discard(message.partition())
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()


def told(
    kafka: KafkaSettings,
    topic: str,
    progress: Callable[[str], None],
    begin: Mapping[int, int] | None = None,
) -> Iterator[Message]:
    """`scan`, with a word on how far it is."""
    for count, message in enumerate(scan(kafka, topic, begin)):
        if count % TOLD_EVERY == 0:
            progress(f"reading {topic}: {count:,} records")
        yield message
