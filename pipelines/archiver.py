"""Topics → lake, exactly once.

The offsets of a table's rows are in the snapshot that holds the rows, and nowhere else: a start goes on from there.
A crash before the commit leaves a data file that no snapshot knows, and the rows are read again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaException,
    Message,
    TopicPartition,
)

from features.lake import Lake
from features.lake_schema import Coordinate, event_table, lake_schema
from features.settings import StoreSettings
from pipelines.polling import START_TIMEOUT_S, consumer_config, next_offsets, poll, unavailable
from pipelines.settings import PipelineSettings
from schemas import topics
from schemas.decoding import Refusal, decode
from schemas.events import Event
from schemas.settings import KafkaSettings
from schemas.topics import Topic
from schemas.unreadable import Unreadable
from schemas.worker import WorkerContext

# About 20 MB of Python objects; a backlog is written in bites of this many rows instead of by the clock.
BUFFER_ROWS_MAX = 50_000
REPORT_INTERVAL_S = 1.0
# It commits every few seconds, and every fetch is a request to the broker.
FETCH_BYTES, FETCH_MS = 1024 * 1024, 250

log = structlog.get_logger()


class Buffer:
    """The rows of one topic since its last commit, and where reading stands."""

    def __init__(self, topic: Topic, contract: type[Event]) -> None:
        self.topic = topic
        self._contract = contract
        self._values: list[dict[str, Any]] = []
        self._coordinates: list[Coordinate] = []
        self._offsets: dict[tuple[str, int], int] = {}
        self.skipped = 0

    def __len__(self) -> int:
        return len(self._values)

    def add(self, batch: Sequence[Message]) -> None:
        """Decode a batch of this topic; what its contract refuses is skipped here as it was everywhere else."""
        for message in batch:
            ingest_ms = message.timestamp()[1]
            event = decode(self._contract, message.value(), ingest_ms)
            if isinstance(event, Refusal):
                self.skipped += 1
                continue
            place = (message.topic(), message.partition(), message.offset())
            self._values.append(event.model_dump())
            self._coordinates.append(Coordinate(ingest_ms, *place))
        for after in next_offsets(batch):
            self._offsets[after.topic, after.partition] = after.offset

    def flush(self, lake: Lake) -> int:
        """Commit the rows and their offsets; nothing to do without rows, since skipping is repeatable."""
        rows = len(self._values)
        if rows:
            table = event_table(self._contract, self._values, self._coordinates)
            lake.append(self.topic.table, table, self._offsets)
            self._values, self._coordinates, self._offsets = [], [], {}
        return rows


class Archiver:
    """One consumer over every archived topic of a use case, without a consumer group's help."""

    def __init__(self, case: str, kafka: KafkaSettings, stores: StoreSettings) -> None:
        self._where = f"Kafka at {kafka.bootstrap_servers}"
        self._lake = Lake(stores)
        self._buffers = {
            topic.name: Buffer(topic, topic.contract)
            for topic in archived_topics(case)
            if topic.contract is not None
        }
        group = f"{case}.archiver"
        self._consumer = Consumer(
            consumer_config(kafka, group, fetch_bytes=FETCH_BYTES, fetch_ms=FETCH_MS)
        )
        self._unreadable = Unreadable()
        self.archived = 0
        for buffer in self._buffers.values():
            contract = buffer.topic.contract
            if contract is not None:
                self._lake.create(buffer.topic.table, lake_schema(contract))
        self._consumer.assign(self._positions())

    @property
    def buffered(self) -> int:
        """Rows not committed yet."""
        return sum(map(len, self._buffers.values()))

    @property
    def counters(self) -> dict[str, int]:
        """Rows committed, records that their contract refuses, and rows not committed yet."""
        skipped = sum(buffer.skipped for buffer in self._buffers.values())
        return {"archived": self.archived, "skipped": skipped, "buffered": self.buffered}

    def step(self, timeout_s: float) -> None:
        """Take what has come."""
        by_topic: dict[str, list[Message]] = {}
        for message in poll(self._consumer, timeout_s, unreadable=self._unreadable):
            by_topic.setdefault(str(message.topic()), []).append(message)
        for name, batch in by_topic.items():
            self._buffers[name].add(batch)

    def flush(self) -> None:
        """Commit every buffer to its table.

        Raises:
            OffsetsTaken: Another archiver runs; this one must end.
            AppendFailed: Nothing of the table was committed; start again.
        """
        for buffer in self._buffers.values():
            self.archived += buffer.flush(self._lake)

    def close(self) -> None:
        """Give the connections back; what was not flushed will be read again."""
        self._consumer.close()

    def _positions(self) -> list[TopicPartition]:
        try:
            described = self._consumer.list_topics(timeout=START_TIMEOUT_S).topics
        except KafkaException as error:
            raise unavailable(self._where, error) from error
        return [
            position
            for name, buffer in self._buffers.items()
            if name in described
            for position in self._positions_of(buffer.topic, described[name].partitions)
        ]

    def _positions_of(self, topic: Topic, partitions: Iterable[int]) -> list[TopicPartition]:
        committed = self._lake.committed(topic.table)
        return [
            TopicPartition(topic.name, p, committed.get((topic.name, p), OFFSET_BEGINNING))
            for p in partitions
        ]


def archived_topics(case: str) -> list[Topic]:
    """Every topic with a contract, but of a stream only its `.valid` twin, of requests only themselves, and no replay."""
    return [
        t
        for t in topics.table_of(case).values()
        if t.contract is not None and t.stage not in ("raw", "own", "replay")
    ]


def run(
    ctx: WorkerContext, kafka: KafkaSettings, stores: StoreSettings, pipelines: PipelineSettings
) -> None:
    """The worker: until stopped, and then a last commit.

    Raises:
        OffsetsTaken: Another archiver of this use case runs.
        KafkaUnavailable: The cluster is out of reach.
    """
    archiver = Archiver(ctx.case, kafka, stores)
    flushed_s = reported_s = time.monotonic()
    try:
        while not ctx.stop.is_set():
            archiver.step(0.2)
            now_s = time.monotonic()
            full = archiver.buffered >= BUFFER_ROWS_MAX
            if full or now_s - flushed_s >= pipelines.archive_interval_s:
                archiver.flush()
                flushed_s = time.monotonic()
            if now_s - reported_s >= REPORT_INTERVAL_S:
                reported_s = now_s
                ctx.report(archiver.counters)
        archiver.flush()
        ctx.report(archiver.counters)
    finally:
        archiver.close()
