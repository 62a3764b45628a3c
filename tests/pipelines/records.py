"""Plain Kafka for tests: produce, and read everything that is committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    Message,
    Producer,
    TopicPartition,
)

if TYPE_CHECKING:
    from schemas.events import Event
    from schemas.settings import KafkaSettings

Record = tuple[str | None, bytes | None]


def produce(kafka: KafkaSettings, topic: str, records: Iterable[Record]) -> None:
    producer = Producer({**kafka.client_config(), "message.max.bytes": 1_040_000})
    for key, value in records:
        producer.produce(topic, value, key, headers=[("ce_id", b"x")])
        producer.poll(0)
    assert producer.flush(30) == 0


def produce_events(kafka: KafkaSettings, topic: str, events: Sequence[Event]) -> None:
    produce(kafka, topic, [(event.key, event.encode()) for event in events])


def committed(kafka: KafkaSettings, *topics: str) -> list[Message]:
    """All records of the topics that are committed now, from the beginning."""
    config = kafka.client_config(group_id="reader", enable_auto_commit=False)
    consumer = Consumer({**config, "enable.partition.eof": True, "fetch.wait.max.ms": 20})
    places = [
        TopicPartition(topic, partition, OFFSET_BEGINNING)
        for topic in topics
        for partition in consumer.list_topics(topic, 10).topics[topic].partitions
    ]
    consumer.assign(places)
    found: list[Message] = []
    ended = 0
    while ended < len(places):
        for message in consumer.consume(5_000, 0.1):
            error = message.error()
            if error is None:
                found.append(message)
            else:
                assert error.code() == KafkaError._PARTITION_EOF, error
                ended += 1
    consumer.close()
    return found


def eventually(condition: Callable[[], bool], *, within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.1)
