"""A stream's events → newest rows in the online store, beside the materializer's rings.

Rows are offered, and the newest wins in one step of the store, so they may come twice, late or in any order: offsets are
committed after the write. One topic may feed several views.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from features import plan_files
from features.row_stream import rows_of
from features.row_views import RowView
from features.rows import Rows
from features.settings import StoreSettings
from features.views import Plan
from pipelines.held_offsets import HeldOffsets
from pipelines.polling import consumer_config, poll
from schemas.settings import KafkaSettings

BATCH_MAX = 5_000
TICK_S = 1.0
# No view has such a name.
MARK = ("__rows", [b"mark"])

log = structlog.get_logger()


class RowWriter:
    """Offers the rows that events make. Not for sharing between threads."""

    def __init__(self, views: Sequence[RowView], rows: Rows) -> None:
        self._rows = rows
        self._views: dict[str, list[RowView]] = defaultdict(list)
        for view in views:
            self._views[view.topic].append(view)
        self.counters = {"row_events": 0, "row_undecodable": 0, "rows_written": 0}

    @property
    def topics(self) -> list[str]:
        """What it consumes."""
        return sorted(self._views)

    def views_of(self, topic: str) -> list[RowView]:
        """The views that a topic feeds."""
        return self._views[topic]

    def write(self, batch: Sequence[Message]) -> None:
        """Offer a batch: one call of the store for each view.

        Raises:
            OnlineStoreUnavailable: Not all was written; the batch must be written again.
        """
        events: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for message in batch:
            self.counters["row_events"] += 1
            event = self._decoded(message)
            if event is not None:
                events[str(message.topic())].append(event)
        clocks: dict[str, int] = {}
        for topic, mine in events.items():
            for view in self._views[topic]:
                self.counters["rows_written"] += self._rows.offer(view.stored, rows_of(view, mine))
                clocks[view.stored] = max(event["event_time_ms"] for event in mine)
        # After the rows: a reader that sees the clock sees what it stands for.
        self._rows.advance_clock(clocks)

    def _decoded(self, message: Message) -> dict[str, Any] | None:
        try:
            event = msgspec.json.decode(message.value() or b"", type=dict[str, Any])
            int(event["event_time_ms"])
        except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
            self.counters["row_undecodable"] += 1
            where = (message.topic(), message.partition(), message.offset())
            log.warning("event cannot be decoded", where=where, cause=repr(error)[:200])
            return None
        return event | {"ingest_ms": message.timestamp()[1]}


class RowFollower:
    """A thread that keeps the rows of the plan's views of streams, for as long as it is entered."""

    def __init__(self, case: str, kafka: KafkaSettings, stores: StoreSettings) -> None:
        self._group = f"{case}.rows"
        self._kafka, self._stores = kafka, stores
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="rows", daemon=True)
        self._counters: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    @property
    def counters(self) -> dict[str, int]:
        """What has been written; none where no view is fed by a stream.

        Raises:
            OnlineStoreUnavailable, KafkaUnavailable, SlotTaken: What ended the thread.
        """
        if self._failure is not None:
            raise self._failure
        return dict(self._counters)

    def _run(self) -> None:
        rows = Rows(self._stores)
        try:
            while not self._stop.is_set():
                stamp = plan_files.stamp(self._stores.plan_path)
                views = _views(self._stores.plan_path)
                if not views:
                    self._stop.wait(TICK_S)
                    continue
                self._follow(rows, views, stamp)
        # The worker raises it at its next report, whatever it is, and is started again.
        except Exception as error:  # noqa: BLE001
            self._failure = error
        finally:
            rows.close()

    def _follow(self, rows: Rows, views: Sequence[RowView], stamp: plan_files.Stamp) -> None:
        """Write rows until the plan names other views."""
        writer = RowWriter(views, rows)
        reading = _Reading(self._kafka, self._group, writer, rows)
        ticked_s = 0.0
        try:
            while not self._stop.is_set():
                reading.step(0.1)
                if time.monotonic() - ticked_s < TICK_S:
                    continue
                ticked_s = time.monotonic()
                self._counters = dict(writer.counters)
                reading.look()
                if (now := plan_files.stamp(self._stores.plan_path)) != stamp:
                    stamp = now
                    if _views(self._stores.plan_path) != views:
                        return
        finally:
            reading.close()


class _Reading:
    """The consumer around one `RowWriter`."""

    def __init__(self, kafka: KafkaSettings, group: str, writer: RowWriter, rows: Rows) -> None:
        self._writer, self._rows = writer, rows
        held = rows.read(*MARK)[0]
        self._store_is_new = held is None
        self._mark = held or self._marked()
        config = consumer_config(kafka, group, slot=f"{group}.0", topics=writer.topics)
        self._consumer = Consumer(config)
        self._held = HeldOffsets(self._consumer, group)
        self._consumer.subscribe(writer.topics, on_assign=self._assigned)

    def step(self, timeout_s: float) -> None:
        batch = poll(self._consumer, timeout_s, BATCH_MAX)
        if batch:
            self._writer.write(batch)
            self._held.hold(batch)
        self._held.commit()

    def look(self) -> None:
        """Notice a store that lost its memory: read everything again, from the beginning."""
        if self._rows.read(*MARK)[0] == self._mark:
            return
        log.warning("the online store has lost its rows; reading their topics again")
        self._mark = self._marked()
        for partition in self._consumer.assignment():
            partition.offset = OFFSET_BEGINNING
            self._consumer.seek(partition)

    def close(self) -> None:
        """Drop the consumer (see `consumer_config`)."""
        del self._consumer, self._held

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Go on from the committed offsets, but from the beginning where a view has seen nothing of the topic."""
        missing = self._missing()
        for partition in partitions:
            if self._store_is_new or partition.topic in missing:
                partition.offset = OFFSET_BEGINNING
        consumer.assign(partitions)

    def _marked(self) -> bytes:
        """Mark the store as it is now; the mark is lost together with the rows."""
        mark = uuid.uuid4().hex.encode()
        self._rows.write([(MARK[0], MARK[1][0], mark)])
        return mark

    def _missing(self) -> set[str]:
        known = self._rows.clocks()
        return {
            topic
            for topic in self._writer.topics
            for view in self._writer.views_of(topic)
            if view.stored not in known
        }


def _views(plan_path: str | Path) -> list[RowView]:
    """Those that are read, and those that a hand-over will bring."""
    plans: Iterable[Plan] = (
        plan_files.applied(plan_path),
        plan_files.pending(plan_path) or Plan(),
    )
    found = {view.stored: view for plan in plans for view in plan.row_views if view.topic}
    return [found[name] for name in sorted(found)]
