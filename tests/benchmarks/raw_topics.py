"""Topics of a benchmark's own, and how a process by hand reads one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from schemas.settings import FETCH_WAIT_MS

if TYPE_CHECKING:
    from schemas.settings import KafkaSettings

# As many as the requests of a use case have.
PARTITIONS = 4


def create(kafka: KafkaSettings, *names: str) -> None:
    """Topics that are not there yet."""
    admin = AdminClient(kafka.client_config())
    made = [NewTopic(name, PARTITIONS, 1) for name in names]
    for future in admin.create_topics(made).values():
        future.result(30)


def reading(servers: str, topic: str, **more: Any) -> Consumer:
    """What is committed to a topic, in a group of its name; `more` properties use `_` where librdkafka has `.`."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": topic,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": FETCH_WAIT_MS,
            **{name.replace("_", "."): value for name, value in more.items()},
        }
    )
    consumer.subscribe([topic])
    return consumer
