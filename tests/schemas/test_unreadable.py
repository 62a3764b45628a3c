from __future__ import annotations

import time

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from schemas import topics
from schemas.envelope import header
from schemas.settings import KafkaSettings
from schemas.topics import Topic
from schemas.unreadable import UNREADABLE, Unreadable

TOPIC = "unreadable.requests"


def test_a_batch_that_cannot_be_unfolded_is_stepped_over_record_by_record(
    kafka: KafkaSettings,
) -> None:
    topics.create(kafka, [Topic(TOPIC, None, "none")])
    _send(kafka, [b"before"])
    _send(kafka, [b"\0" * 2_000_000] * 3)
    _send(kafka, [b"after"])
    found = _read(kafka, 5)
    assert [m.offset() for m in found] == [0, 1, 2, 3, 4]
    assert [m.value() for m in found] == [b"before", None, None, None, b"after"]
    assert all((header(m, UNREADABLE) is not None) is (m.value() is None) for m in found)
    assert [m.error() for m in found] == [None] * 5


def _send(kafka: KafkaSettings, values: list[bytes]) -> None:
    """As one batch."""
    config = kafka.client_config(
        compression_type="zstd", linger_ms=500, message_max_bytes=50_000_000, batch_size=20_000_000
    )
    producer = Producer(config)
    for value in values:
        producer.produce(TOPIC, value)
    assert producer.flush(20) == 0


def _read(kafka: KafkaSettings, count: int) -> list[Message]:
    consumer = Consumer(
        kafka.client_config(
            group_id="unreadable",
            enable_auto_commit=False,
            fetch_error_backoff_ms=20,
            fetch_max_bytes=900_000,
            message_max_bytes=900_000,
            receive_message_max_bytes=1_000_000,
        )
    )
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    unreadable = Unreadable()
    found: list[Message] = []
    deadline = time.monotonic() + 20
    while len(found) < count and time.monotonic() < deadline:
        found += unreadable.stepped_over(consumer, consumer.consume(10, 0.2))
    consumer.close()
    return found
