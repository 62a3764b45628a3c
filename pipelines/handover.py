"""A new version of a view takes over: tiles of the lake's past, then its own job, then its readers, without a gap.

The lake's newest snapshot names, for each partition, the first event that it does not hold. What it holds becomes tiles on a
topic of their own, written once; the job begins with those, and with the stream from exactly there. So every event is
counted once, however long the archiver was behind. While the rings of the new version fill, everybody reads the old ones.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import pyarrow.compute as pc
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition

from features.lake import Lake
from features.lake_tiles import lake_tiles, source_columns
from features.rings import Rings
from features.settings import StoreSettings
from features.views import Handover, View
from pipelines.polling import unavailable
from pipelines.reach import TIMEOUT_S, bounds, copies_from, kept_ms, next_event, reader
from pipelines.tile_query import has_base
from schemas.errors import HeadraceError
from schemas.settings import KafkaSettings

POLL_S = 0.5
# The broker's own upper limit by default; a transaction of a million tiles takes about a minute.
WRITE_TIMEOUT_S = 900
CATCH_UP_TIMEOUT_S = 900.0
# Fewer than librdkafka holds back before it refuses more.
FLUSH_EVERY = 50_000

Say = Callable[[str], None]


class HandoverRefused(HeadraceError):
    """The lake and the stream do not meet: events between them would be lost, or those of another stream counted."""


class HandoverSlow(HeadraceError):
    """The new version has not caught up in time. Readers stay on the old one, and applying again goes on."""


def begin(view: View, lake: Lake, kafka: KafkaSettings) -> Handover | None:
    """Where a view's job shall begin; None with the stream, because the lake holds nothing of it.

    Raises:
        HandoverRefused: The stream no longer holds the first event that the lake does not have.
        KafkaUnavailable: The cluster is out of reach.
    """
    snapshot_id, archived = lake.pin(view.table)
    if snapshot_id is None:
        return None
    topic = view.archived_topic
    offsets: list[int] = []
    with reader(kafka, view.topic_out) as consumer:
        for partition, low, high in bounds(consumer, topic):
            offset = archived.get((topic, partition), low)
            if not low <= offset <= high:
                raise _apart(view, topic, partition, offset, low, high)
            offsets.append(offset)
        for partition, first in copies_from(consumer, view):
            if first > offsets[partition]:
                high = archived.get((topic, partition), first)
                raise _apart(view, view.topic, partition, offsets[partition], first, high)
    held = lake.scan(view.table, snapshot_id=snapshot_id, columns=("event_time_ms",)).num_rows
    base = f"{view.topic_out}.base.{snapshot_id}" if held else ""
    return Handover(snapshot_id, tuple(offsets), base)


def still_possible(view: View, handover: Handover, kafka: KafkaSettings) -> bool:
    """Whether the stream still holds everything after a snapshot that was chosen before."""
    with reader(kafka, view.topic_out) as consumer:
        if view.copied:
            return all(first <= handover.first(p) for p, first in copies_from(consumer, view))
        held = list(bounds(consumer, view.topic))
    return all(low <= handover.first(part) <= high for part, low, high in held)


def write_base(
    view: View, handover: Handover, lake: Lake, kafka: KafkaSettings, lateness_s: int
) -> int:
    """Write the snapshot's tiles in one transaction, unless that was done before. Returns how many.

    Only what a ring can hold or a late event can still change.
    """
    with reader(kafka, view.topic_out) as consumer:
        if next_event(consumer, handover.base_topic, 0, OFFSET_BEGINNING) is not None:
            return 0
    producer = Producer(
        kafka.client_config(
            transactional_id=handover.base_topic,
            transaction_timeout_ms=WRITE_TIMEOUT_S * 1000,
            linger_ms=50,
        )
    )
    written = 0
    try:
        producer.init_transactions(TIMEOUT_S)
        producer.begin_transaction()
        for row in _rows(view, handover, lake, lateness_s):
            producer.produce(handover.base_topic, json.dumps(row))
            written += 1
            if written % FLUSH_EVERY == 0:
                producer.flush(WRITE_TIMEOUT_S)
        producer.commit_transaction(WRITE_TIMEOUT_S)
    except KafkaException as error:
        raise unavailable(f"base tiles of view {view.name}", error) from error
    return written


class CatchingUp:
    """Waits until all that was there before is in the rings of new versions.

    Args:
        replaced: The new version of each view, and the old one, where there is one.
    """

    def __init__(
        self,
        case: str,
        kafka: KafkaSettings,
        stores: StoreSettings,
        replaced: Sequence[tuple[View, View | None]],
        handovers: Mapping[str, Handover],
    ) -> None:
        self._case, self._kafka, self._rings = case, kafka, Rings(stores)
        self._replaced, self._handovers = replaced, handovers
        self._deadline_s = time.monotonic() + CATCH_UP_TIMEOUT_S

    def wait(self, say: Say) -> None:
        """Return once every view has caught up with its streams and its predecessor.

        Raises:
            HandoverSlow: It took longer than `CATCH_UP_TIMEOUT_S`.
            KafkaUnavailable, OnlineStoreUnavailable: An engine is out of reach.
        """
        try:
            for view, old in self._replaced:
                say(f"{view.name}: its job reads what was there before")
                self._read_by_job(view)
                say(f"{view.name}: waiting for its rings")
                self._written_to_rings(view)
                if old is not None:
                    self._level_with(view, old)
        except KafkaException as error:
            raise unavailable("catching up", error) from error
        finally:
            self._rings.close()

    def _read_by_job(self, view: View) -> None:
        """The job commits offsets with its checkpoints, and rows before a checkpoint are on the tile topic."""
        with reader(self._kafka, view.topic_out) as consumer:
            handover = self._handovers.get(view.versioned)
            base = [handover.base_topic] if has_base(handover) else []
            for topic in (view.topic, *base):
                for partition, low, high in list(bounds(consumer, topic)):
                    first = low
                    if handover and topic == view.topic and not view.copied:
                        first = max(low, handover.first(partition))
                    target = TopicPartition(topic, partition, high)
                    self._until(view, partial(_passed, consumer, target, first))

    def _written_to_rings(self, view: View) -> None:
        with reader(self._kafka, f"{self._case}.materializer") as consumer:
            for partition, low, high in list(bounds(consumer, view.topic_out)):
                target = TopicPartition(view.topic_out, partition, high)
                self._until(view, partial(_passed, consumer, target, low))

    def _level_with(self, view: View, old: View) -> None:
        """The stream goes on meanwhile: what the old version has seen by now, the new one must have seen."""
        until_ms = self._rings.clocks().get(old.versioned, -1)
        self._until(view, lambda: self._rings.clocks().get(view.versioned, -1) >= until_ms)

    def _until(self, view: View, holds: Callable[[], bool]) -> None:
        while not holds():
            if time.monotonic() > self._deadline_s:
                raise HandoverSlow(
                    f"view {view.name}",
                    wanted=f"version {view.version} caught up within {CATCH_UP_TIMEOUT_S:.0f} s",
                    came="it has not",
                    mend="Do its job and the materializer run (`headrace status`)? Then apply again: it goes on.",
                )
            time.sleep(POLL_S)


def _rows(
    view: View, handover: Handover, lake: Lake, lateness_s: int
) -> Iterator[dict[str, object]]:
    newest = lake.scan(view.table, snapshot_id=handover.snapshot_id, columns=("event_time_ms",))
    clock_ms = pc.max(newest["event_time_ms"]).as_py() or 0
    since_ms = {o.hop_s: clock_ms - kept_ms(view, o, lateness_s) for o in view.layouts}
    events = lake.scan(
        view.table,
        snapshot_id=handover.snapshot_id,
        since_ms=min(since_ms.values()),
        columns=source_columns(view),
    )
    return lake_tiles(view, events, since_ms)


def _committed(consumer: Consumer, at: TopicPartition, start: int) -> int:
    (held,) = consumer.committed([TopicPartition(at.topic, at.partition)], TIMEOUT_S)
    return int(held.offset) if held.offset >= 0 else start


def _passed(consumer: Consumer, target: TopicPartition, first: int) -> bool:
    """Whether the group has read every event below the target, from `first` on."""
    at = _committed(consumer, target, first)
    if at >= target.offset:
        return True
    # Behind the last event may lie the mark of its transaction, which no reader ever stands on.
    after = next_event(consumer, target.topic, target.partition, at)
    return after is None or after >= target.offset


def _apart(
    view: View, topic: str, partition: int, offset: int, low: int, high: int
) -> HandoverRefused:
    return HandoverRefused(
        f"view {view.name}: topic {topic}, partition {partition}",
        wanted=f"events from {offset} on, which is where the lake's table {view.table} ends",
        came=f"it holds {low} to {high}",
        mend="Is this the Kafka that the lake was filled from, and does the archiver run?",
    )
