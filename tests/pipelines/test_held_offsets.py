"""What Redis may still lose is not committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confluent_kafka import Consumer, TopicPartition

from pipelines.held_offsets import COMMIT_LAG_S, HeldOffsets
from pipelines.polling import consumer_config, poll
from schemas import topics
from tests.pipelines.records import eventually, produce

if TYPE_CHECKING:
    from schemas.settings import KafkaSettings

TOPIC = "held.offsets"


def test_an_offset_is_committed_once_it_is_old_enough_and_the_newest_of_its_partition(
    kafka: KafkaSettings,
) -> None:
    topics.create(kafka, [topics.Topic(TOPIC, None, "k", partitions=1)])
    now_s = 100.0
    consumer = Consumer(consumer_config(kafka, "held"))
    place = TopicPartition(TOPIC, 0, 0)
    consumer.assign([place])
    held = HeldOffsets(consumer, "held", lambda: now_s)

    def committed() -> int:
        return int(consumer.committed([place], 60)[0].offset)

    for count in (2, 3):
        produce(kafka, TOPIC, [("k", b"{}")] * count)
        read = 0
        while read < count:
            batch = poll(consumer, 1.0)
            read += len(batch)
            if batch:
                held.hold(batch)
        now_s += 0.5
    held.commit()
    assert committed() < 0
    now_s = 100.0 + COMMIT_LAG_S
    held.commit()
    eventually(lambda: committed() == 2)
    now_s += 0.5
    held.commit()
    eventually(lambda: committed() == 5)
    consumer.close()
