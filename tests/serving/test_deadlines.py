from __future__ import annotations

from confluent_kafka import Producer

from schemas.envelope import TIMEOUT_MS
from schemas.settings import KafkaSettings
from schemas.topics import Topic, create
from serving.deadlines import TIMEOUT_MS_MAX, due_ms
from tests.pipelines.records import committed

TOPIC = "deadlines.requests"
LONGEST = str(TIMEOUT_MS_MAX).encode()
TOO_LONG = str(TIMEOUT_MS_MAX + 1).encode()


def test_a_deadline_counts_from_the_moment_kafka_received_it(kafka: KafkaSettings) -> None:
    wanted = {
        b"45": 45,
        b"0": 0,
        LONGEST: TIMEOUT_MS_MAX,
        TOO_LONG: None,
        b"9" * 5_000: None,
        b"-1": None,
        b"4.5": None,
        b" 7": None,
        "٤".encode(): None,
        b"\xff": 1_000,
        None: 1_000,
    }
    create(kafka, [Topic(TOPIC, None, "none")])
    producer = Producer(kafka.client_config())
    for text in wanted:
        headers: list[tuple[str, str | bytes | None]] = [(TIMEOUT_MS, text)]
        producer.produce(TOPIC, b"x", headers=headers)
    producer.flush()
    for message, timeout_ms in zip(committed(kafka, TOPIC), wanted.values(), strict=True):
        due = due_ms(message, 1_000)
        came_ms = message.timestamp()[1]
        assert due == (None if timeout_ms is None else came_ms + timeout_ms)
        if timeout_ms == 1_000:
            assert due_ms(message, None) is None
