"""`features.<view>` → rings in the online store. The single writer of every ring.

A ring takes a tile row only if its count of events is not lower than what it holds, so rows may come twice, late or in
any order: at least once is enough, and offsets are committed after the write.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from features import plan_files
from features.rings import Rings
from features.settings import StoreSettings
from features.views import View
from pipelines import pace
from pipelines.held_offsets import HeldOffsets
from pipelines.polling import START_TIMEOUT_S, consumer_config, next_offsets, poll
from pipelines.ring_writer import RingWriter
from pipelines.row_schedule import RowSchedule
from pipelines.row_writer import RowFollower
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext

TICK_S = 1.0
BATCH_MAX = 5_000

log = structlog.get_logger()


class _Loop:
    """The consumer around a `RingWriter`, for the views of now."""

    def __init__(
        self, ctx: WorkerContext, kafka: KafkaSettings, rings: Rings, views: Sequence[View]
    ) -> None:
        self._rings = rings
        group, mine = f"{ctx.case}.materializer", [view.topic_out for view in views]
        self._consumer = Consumer(
            consumer_config(
                kafka,
                group,
                slot=f"{group}.0",
                topics=mine,
                fetch_bytes=pace.of(views).fetch_bytes,
            )
        )
        self.writer = RingWriter(views, rings)
        # Where reading stands: the group's offsets are behind it, by what the store may still lose.
        self._positions: dict[tuple[str, int], int] = {}
        self._replayed: set[str] = set()
        self._held = HeldOffsets(self._consumer, group)
        self._ends: dict[str, int] = {}
        held = rings.generation()
        # Without a mark the store is new, or lost everything and was written to since: nothing in it is to be trusted.
        self._store_is_new = held is None
        self._generation = held or rings.begin_generation()
        self.follow(views)

    def follow(self, views: Sequence[View]) -> None:
        """Keep the rings of these views from now on; those that were kept before go on where they are.

        The consumer stays: a new one would have to wait until the group has forgotten this one.
        """
        self.writer.follow(views)
        self._views = {view.topic_out: view.versioned for view in views}
        self._consumer.subscribe(self.writer.topics, on_assign=self._assigned)

    def look(self) -> None:
        """Notice a store that lost its memory under a running materializer, and rebuild every ring from the topics.

        Rings that are in memory here would otherwise be written back one by one, and entities that fell silent never.
        """
        if self._rings.generation() == self._generation:
            return
        log.warning("the online store has lost its rings; rebuilding them from the tile topics")
        self._generation = self._rings.begin_generation()
        self.writer.forget()
        self._replay(self._views.values())

    def step(self, timeout_s: float) -> None:
        batch = poll(self._consumer, timeout_s, BATCH_MAX)
        if batch:
            self.writer.materialize(batch)
            self._catch_up(batch)
            self._positions |= {(tp.topic, tp.partition): tp.offset for tp in next_offsets(batch)}
            self._held.hold(batch)
            changed = self.writer.discarded - self._replayed
            self._replayed |= changed
            self._replay(changed)
        self._held.commit()

    def close(self) -> None:
        """Drop the consumer (see `consumer_config`)."""
        del self._consumer, self._held

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Go on from the committed offsets, but from the beginning where the store holds nothing of the view."""
        known = self._rings.clocks()
        for partition in partitions:
            view = self._views[partition.topic]
            held = self._positions.get((partition.topic, partition.partition))
            if held is not None:
                partition.offset = held
            # The offsets of one that died while it rebuilt may still be those of before: a rebuilding starts again.
            elif self._store_is_new or view not in known or not self.writer.whole(view):
                partition.offset = OFFSET_BEGINNING
                self._begin(partition)
            elif self.writer.unproven(view):
                self._begin(partition)
        consumer.assign(partitions)

    def _replay(self, views: Iterable[str]) -> None:
        """Rings were lost, or of another layout and thrown away: rebuild all of the view's, from its whole topic."""
        for view in views:
            log.info("rebuilding rings", view=view)
            for partition in self._consumer.assignment():
                if self._views[partition.topic] == view:
                    partition.offset = OFFSET_BEGINNING
                    self._positions[partition.topic, partition.partition] = OFFSET_BEGINNING
                    self._begin(partition)
                    self._consumer.seek(partition)

    def _begin(self, partition: TopicPartition) -> None:
        """Rows that a newer one has replaced are compacted away, so offsets prove nothing before the end is reached."""
        _, high = self._consumer.get_watermark_offsets(partition, START_TIMEOUT_S)
        view = self._views[partition.topic]
        self.writer.begin(view)
        if high:
            self._ends[partition.topic] = high
        else:
            self.writer.finish(view)

    def _catch_up(self, batch: Sequence[Message]) -> None:
        if not self._ends or self._rings.generation() != self._generation:
            # What was written up to here was lost meanwhile: `look` begins anew.
            return
        for after in next_offsets(batch):
            if after.offset >= self._ends.get(after.topic, after.offset + 1):
                del self._ends[after.topic]
                self.writer.finish(self._views[after.topic])


def run(ctx: WorkerContext, kafka: KafkaSettings, stores: StoreSettings) -> None:
    """The worker: until stopped. Waits for `plan.json`, and follows whatever it and a hand-over's plan say.

    Raises:
        OnlineStoreUnavailable: Redis is out of reach.
        SlotTaken: Another materializer of this use case runs.
        KafkaUnavailable: The cluster is out of reach.
    """
    rings = Rings(stores)
    with RowFollower(ctx.case, kafka, stores) as rows, RowSchedule(stores) as loads:
        while not ctx.stop.is_set() and not plan_files.followed(stores.plan_path):
            ctx.report((rows.counters | loads.counters) or {"waiting_for_plan": 1})
            ctx.stop.wait(0.5)
        if not ctx.stop.is_set():
            _keep(ctx, kafka, rings, stores.plan_path, lambda: rows.counters | loads.counters)
    rings.close()


def _keep(
    ctx: WorkerContext,
    kafka: KafkaSettings,
    rings: Rings,
    plan_path: str,
    rows: Callable[[], dict[str, int]],
) -> None:
    stamp = plan_files.stamp(plan_path)
    views = plan_files.followed(plan_path)
    loop = _Loop(ctx, kafka, rings, views)
    ticked_s = 0.0
    try:
        while not ctx.stop.is_set():
            loop.step(0.2)
            if time.monotonic() - ticked_s < TICK_S:
                continue
            ticked_s = time.monotonic()
            ctx.report(loop.writer.counters | rows())
            loop.look()
            if (now := plan_files.stamp(plan_path)) != stamp:
                stamp, wanted = now, plan_files.followed(plan_path)
                if wanted and _names(wanted) != _names(views):
                    views = wanted
                    log.info("the plan has changed", views=sorted(_names(views)))
                    loop.follow(views)
        ctx.report(loop.writer.counters)
    finally:
        loop.close()


def _names(views: Sequence[View]) -> set[str]:
    return {view.versioned for view in views}
