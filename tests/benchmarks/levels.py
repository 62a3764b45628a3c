"""The stream of rows b and c: levels at stations, and the view of three windows and five aggregates over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from features.views import Aggregate, Function, JoinKey, View
from schemas.settings import FETCH_WAIT_MS

if TYPE_CHECKING:
    from schemas.settings import KafkaSettings

T0_MS = 1_700_000_000_000
HOP_S, WINDOWS_S = 1_800, (3_600, 10_800, 21_600)
FUNCTIONS: tuple[Function, ...] = ("count", "sum", "mean", "max", "std")
PARTITIONS = 2
Record = tuple[str, bytes]


def view(name: str) -> View:
    return View(
        name=name,
        topic=f"{name}.in",
        table=name,
        event_id_field="event_id",
        join_keys=(JoinKey("station"),),
        columns={"level": "double"},
        aggregates=tuple(
            Aggregate(f"{function}_{window}", "level", function, window, HOP_S)
            for function in FUNCTIONS
            for window in WINDOWS_S
        ),
    )


def event(number: int, station: str, level: float) -> Record:
    """An event every 10 ms of the stream's own time."""
    fields = {
        "event_time_ms": T0_MS + number * 10,
        "event_id": f"e{number}",
        "station": station,
        "level": level,
    }
    return station, msgspec.json.encode(fields)


def events(count: int, entities: int, seed: int) -> list[Record]:
    dice = np.random.default_rng(seed)
    stations, levels = dice.integers(0, entities, count), dice.normal(size=count)
    return [
        event(seed * count + n, f"s{s}", x)
        for n, (s, x) in enumerate(zip(stations.tolist(), levels.tolist(), strict=True))
    ]


def create(kafka: KafkaSettings, *topics: str) -> None:
    """New topics whose records are stamped by the broker's clock."""
    config = {"message.timestamp.type": "LogAppendTime"}
    made = [NewTopic(topic, PARTITIONS, 1, config=config) for topic in topics]
    admin = AdminClient(kafka.client_config())
    for future in admin.create_topics(made).values():
        future.result(30)


def produce(kafka: KafkaSettings, topic: str, records: Sequence[Record]) -> None:
    producer = Producer(kafka.client_config())
    for key, value in records:
        producer.produce(topic, value, key)
    assert producer.flush(30) == 0


def produce_at_once(kafka: KafkaSettings, topic: str, records: Sequence[Record]) -> Producer:
    """Produce within a transaction that is still open: its commit shows all records at one moment."""
    producer = Producer(
        {
            **kafka.client_config(),
            "transactional.id": f"burst.{topic}",
            "transaction.timeout.ms": 120_000,
            "queue.buffering.max.messages": 2_000_000,
        }
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    for key, value in records:
        producer.produce(topic, value, key)
    producer.poll(0)
    assert producer.flush(120) == 0
    return producer


def consumer(kafka: KafkaSettings, topic: str, begin: Sequence[int] | None = None) -> Consumer:
    """Reads committed records of a topic from the beginning, or from an offset a partition."""
    config = kafka.client_config(
        group_id="bench", enable_auto_commit=False, isolation_level="read_committed"
    )
    made = Consumer({**config, "fetch.wait.max.ms": FETCH_WAIT_MS})
    starts = begin or [OFFSET_BEGINNING] * PARTITIONS
    made.assign([TopicPartition(topic, p, start) for p, start in enumerate(starts)])
    return made
