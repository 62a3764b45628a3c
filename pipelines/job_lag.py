"""How far a job is behind its stream by what its consumer group has committed, where Flink does not tell.

A job that restarts, or has not fetched anything yet, has no metrics. What it has committed with its last checkpoint is
where it will go on, so what lies beyond is what it still has to read. Markers of transactions are counted as well: the
number is an upper bound, by one for each batch of the intake since then.
"""

from __future__ import annotations

from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.settings import KafkaSettings

TIMEOUT_S = 2.0


def committed_lag_events(kafka: KafkaSettings, group: str, topic: str) -> int | None:
    """Events of a topic beyond what a group has committed, from its beginning where it has not; None without an answer.

    Reads only: asking with a group's name does not join it.
    """
    config = {**kafka.client_config(group_id=group, enable_auto_commit=False), "log_level": 0}
    consumer = Consumer(config)
    try:
        held = consumer.list_topics(topic, TIMEOUT_S).topics[topic]
        places = [TopicPartition(topic, partition) for partition in held.partitions]
        return sum(
            _left(consumer, place) for place in consumer.committed(places, timeout=TIMEOUT_S)
        )
    except KafkaException:
        return None
    finally:
        consumer.close()


def _left(consumer: Consumer, place: TopicPartition) -> int:
    low, high = consumer.get_watermark_offsets(place, TIMEOUT_S)
    # A group that never committed stands below every offset.
    return max(0, high - max(low, place.offset))
