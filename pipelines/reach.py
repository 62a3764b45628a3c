"""How far back a stream still reaches, and whether a job that has lost its state could be rebuilt from it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pyarrow.compute as pc
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from features.lake import Lake
from features.state_cost import tile_life_s
from features.views import Handover, Layout, View
from schemas.envelope import ORIGIN_OFFSET, header
from schemas.settings import KafkaSettings

TIMEOUT_S = 10.0


class Hole(NamedTuple):
    """Events that a job must count and its stream has deleted: how many of a partition, and where it begins now."""

    partition: int
    events: int
    first: int


def holes(
    view: View, handover: Handover | None, lake: Lake, kafka: KafkaSettings, lateness_s: int
) -> list[Hole]:
    """What a job without state would lack, partition by partition. The lake tells what there was.

    Events too old to matter to a ring, or to a tile that late events may still change, are no loss.

    Raises:
        KafkaException: The cluster is out of reach.
    """
    with reader(kafka, view.topic_out) as consumer:
        if view.copied:
            begins = dict(copies_from(consumer, view))
        else:
            begins = {partition: low for partition, low, _ in bounds(consumer, view.topic) if low}
    since = {p: handover.first(p) if handover else 0 for p in begins}
    begins = {p: first for p, first in begins.items() if first > since[p]}
    if not begins or not lake.exists(view.table):
        return []
    clock_ms = pc.max(lake.scan(view.table, columns=("event_time_ms",))["event_time_ms"]).as_py()
    oldest_ms = (clock_ms or 0) - max(kept_ms(view, o, lateness_s) for o in view.layouts)
    columns = ("kafka_topic", "kafka_partition", "kafka_offset")
    held = lake.scan(view.table, since_ms=oldest_ms, columns=columns)
    held = held.filter(pc.equal(held["kafka_topic"], view.archived_topic))
    found = []
    for partition, first in sorted(begins.items()):
        offsets = held.filter(pc.equal(held["kafka_partition"], partition))["kafka_offset"]
        deleted = pc.and_(pc.greater_equal(offsets, since[partition]), pc.less(offsets, first))
        if count := pc.sum(deleted).as_py():
            found.append(Hole(partition, count, first))
    return found


def kept_ms(view: View, layout: Layout, lateness_s: int) -> int:
    """How far back tiles of a hop matter: to a ring, or to the job's state that late events land in."""
    return max(layout.tiles * layout.hop_s, tile_life_s(view, layout.hop_s, lateness_s)) * 1000


@contextmanager
def reader(kafka: KafkaSettings, group: str) -> Iterator[Consumer]:
    """Looks at topics and at a group's offsets; never joins the group."""
    consumer = Consumer(
        kafka.client_config(
            group_id=group,
            enable_auto_commit=False,
            isolation_level="read_committed",
            enable_partition_eof=True,
            fetch_wait_max_ms=20,
        )
    )
    try:
        yield consumer
    finally:
        consumer.close()


def bounds(consumer: Consumer, topic: str) -> Iterable[tuple[int, int, int]]:
    """Partition, first offset, and the one after the last."""
    known = consumer.list_topics(topic, TIMEOUT_S).topics[topic]
    for partition in sorted(known.partitions):
        at = TopicPartition(topic, partition)
        low, high = consumer.get_watermark_offsets(at, TIMEOUT_S)
        yield partition, low, high


def copies_from(consumer: Consumer, view: View) -> Iterator[tuple[int, int]]:
    """Partitions whose copies begin later than their requests did, with the offset of the first request still copied."""
    if not view.copied:
        return
    for partition, low, high in list(bounds(consumer, view.topic)):
        if (
            0 < low < high
            and (first := next_record(consumer, view.topic, partition, low)) is not None
        ):
            yield partition, int(header(first, ORIGIN_OFFSET) or 0)


def next_event(consumer: Consumer, topic: str, partition: int, at: int) -> int | None:
    """The offset of the first committed event from `at` on; None where there is none yet."""
    found = next_record(consumer, topic, partition, at)
    return None if found is None else int(found.offset() or 0)


def next_record(consumer: Consumer, topic: str, partition: int, at: int) -> Message | None:
    """The first committed event from `at` on; None where there is none yet."""
    consumer.assign([TopicPartition(topic, partition, at)])
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s:
        for message in consumer.consume(1, 1.0):
            error = message.error()
            if error is None:
                return message
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                return None
            raise KafkaException(error)
    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
