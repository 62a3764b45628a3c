"""`features.<view>` → rings in the online store. The single writer of every ring.

A ring takes a tile row only if its count of events is not lower than what it holds, so rows may come twice, late or in
any order: at least once is enough, and offsets are committed after the write.
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from features.progress import PROGRESS_KEY, Progress
from features.ring import Records, RingFormat
from features.rings import EntityKey, Rings, entity_key
from features.settings import StoreSettings
from features.tile_row import TileRow, TileRowDecoder
from features.views import Plan, View
from pipelines.polling import START_TIMEOUT_S, consumer_config, next_offsets, poll, unavailable
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext

# A ring is 1–10 kB; this holds tens of thousands of the busiest entities, the rest is read from the store.
CACHE_BYTES_MAX = 256 * 1024 * 1024
# Redis keeps its file in step once a second. What it may still lose must be read again: offsets are committed only once
# what they stand for is at least this old.
COMMIT_LAG_S = 2.0
TICK_S = 1.0
BATCH_MAX = 5_000

Place = tuple[str, EntityKey]

log = structlog.get_logger()


class RingCache:
    """The rings written last, at most `bytes_max` of them; least recently used go first."""

    def __init__(self, bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._rings: OrderedDict[Place, Records] = OrderedDict()

    def get(self, place: Place) -> Records | None:
        """The ring, now the most recently used."""
        ring = self._rings.get(place)
        if ring is not None:
            self._rings.move_to_end(place)
        return ring

    def put(self, place: Place, ring: Records) -> None:
        """Hold a ring that is not held yet."""
        self._rings[place] = ring
        self._bytes += ring.nbytes
        while self._bytes > self._bytes_max and len(self._rings) > 1:
            _, dropped = self._rings.popitem(last=False)
            self._bytes -= dropped.nbytes


class Materializer:
    """Folds tile rows of a plan's views into rings. Not for sharing between threads."""

    def __init__(self, plan: Plan, rings: Rings, cache_bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._rings = rings
        self._views: dict[str, View] = {view.topic_out: view for view in plan.views}
        self._formats = {view.name: RingFormat(view) for view in plan.views}
        self._decoders = {view.name: TileRowDecoder(view) for view in plan.views}
        self._cache = RingCache(cache_bytes_max)
        self._origin = {v.name: v for v in plan.views if v.origin_offsets}
        self._progress: dict[str, Progress] = {}
        # Views whose rings are being rebuilt: their progress waits until all that there was has been read again.
        self.rebuilding: set[str] = set()
        self.discarded: set[str] = set()
        self.counters = dict.fromkeys(
            ("rows", "applied", "outdated", "expired", "undecodable", "discarded", "rings"), 0
        )

    @property
    def topics(self) -> list[str]:
        """What it consumes."""
        return sorted(self._views)

    def materialize(self, batch: Sequence[Message]) -> None:
        """Fold a batch: at most one read and one write of the store, with every changed ring once.

        Raises:
            OnlineStoreUnavailable: Nothing, or not all, was written; this object must be thrown away with its cache.
        """
        rows, clocks = self._grouped(batch)
        rings = self._rings_of(rows)
        changed: list[tuple[str, EntityKey, bytes]] = []
        for (view, key), tiles in rows.items():
            ring = rings[view, key]
            outcome = self._formats[view].apply(ring, 0, tiles.values())
            self.counters["applied"] += outcome.applied
            self.counters["outdated"] += outcome.outdated
            self.counters["expired"] += outcome.expired
            if outcome.applied:
                changed.append((view, key, ring.tobytes()))
        self.counters["rings"] += self._rings.write(changed)
        self._tell_progress(rows)
        # After the rings: a reader that sees the clock sees what it stands for.
        self._rings.advance_clock(clocks)

    def begin(self, view: str) -> None:
        """The view's rings are rebuilt from the first row: nothing is known to be in them."""
        if view in self._origin:
            self.rebuilding.add(view)
            self._progress[view] = Progress(self._origin[view])
            self._rings.write([(view, PROGRESS_KEY, self._progress[view].pack())])

    def finish(self, view: str) -> None:
        """The view's rings hold again what they held: its progress may be told."""
        if view in self.rebuilding:
            self.rebuilding.discard(view)
            self._rings.write([(view, PROGRESS_KEY, self._progress[view].pack())])

    def unproven(self, view: str) -> bool:
        """Whether nobody has said how far the view's rings have come, or somebody died while rebuilding them."""
        if view not in self._origin:
            return False
        return not Progress.unpack(self._origin[view], self._rings.read(view, [PROGRESS_KEY])[0])

    def _tell_progress(self, rows: Mapping[Place, Mapping[tuple[int, int], TileRow]]) -> None:
        """Say how far the rings have come, after they have."""
        told: set[str] = set()
        for (view, _), tiles in rows.items():
            if view not in self._origin:
                continue
            if view not in self._progress:
                held = self._rings.read(view, [PROGRESS_KEY])[0]
                self._progress[view] = Progress.unpack(self._origin[view], held)
            self._progress[view].advance(tiles.values())
            told.add(view)
        self._rings.write(
            (v, PROGRESS_KEY, self._progress[v].pack()) for v in told - self.rebuilding
        )

    def _grouped(
        self, batch: Iterable[Message]
    ) -> tuple[dict[Place, dict[tuple[int, int], TileRow]], dict[str, int]]:
        """Of each tile only the row that counts most, by entity; and the latest event time of each view."""
        rows: dict[Place, dict[tuple[int, int], TileRow]] = defaultdict(dict)
        clocks: dict[str, int] = {}
        for message in batch:
            view = self._views[str(message.topic())].name
            decoded = self._decoded(view, message)
            if decoded is None:
                continue
            place, row = decoded
            tile = (row.hop_s, row.tile)
            held = rows[place].get(tile)
            if held is None or row.n >= held.n:
                rows[place][tile] = row
            clocks[view] = max(clocks.get(view, row.clock_ms), row.clock_ms)
        return rows, clocks

    def _decoded(self, view: str, message: Message) -> tuple[Place, TileRow] | None:
        self.counters["rows"] += 1
        try:
            decoded = self._decoders[view].decode(message.value())
        except (msgspec.DecodeError, KeyError, ValueError, TypeError, AttributeError) as error:
            self.counters["undecodable"] += 1
            log.warning(
                "tile row cannot be decoded",
                topic=message.topic(),
                partition=message.partition(),
                offset=message.offset(),
                cause=repr(error)[:200],
            )
            return None
        if decoded is None:
            return None
        keys, row = decoded
        return (view, entity_key(keys)), row

    def _rings_of(self, places: Iterable[Place]) -> dict[Place, Records]:
        found: dict[Place, Records] = {}
        missing: dict[str, list[EntityKey]] = defaultdict(list)
        for place in places:
            ring = self._cache.get(place)
            if ring is None:
                missing[place[0]].append(place[1])
            else:
                found[place] = ring
        for (view, keys), packed in zip(
            missing.items(), self._rings.read_many(list(missing.items())), strict=True
        ):
            records, discarded = self._formats[view].unpack(packed)
            if discarded:
                self.counters["discarded"] += discarded
                self.discarded.add(view)
            for index, key in enumerate(keys):
                # A copy, so that one ring in the cache does not keep its whole batch in memory.
                found[view, key] = records[index : index + 1].copy()
                self._cache.put((view, key), found[view, key])
        return found


class _Loop:
    """The consumer around one `Materializer`, for one plan."""

    def __init__(self, ctx: WorkerContext, kafka: KafkaSettings, rings: Rings, plan: Plan) -> None:
        self._rings = rings
        self.materializer = Materializer(plan, rings)
        self._views = {view.topic_out: view.name for view in plan.views}
        group, mine = f"{ctx.case}.materializer", self.materializer.topics
        self._consumer = Consumer(consumer_config(kafka, group, slot=f"{group}.0", topics=mine))
        self._consumer.subscribe(mine, on_assign=self._assigned)
        self._replayed: set[str] = set()
        self._pending: list[tuple[float, list[TopicPartition]]] = []
        self._ends: dict[str, int] = {}

    def step(self, timeout_s: float) -> None:
        batch = poll(self._consumer, timeout_s, BATCH_MAX)
        if batch:
            self.materializer.materialize(batch)
            self._catch_up(batch)
            self._pending.append((time.monotonic(), next_offsets(batch)))
            self._replay(self.materializer.discarded - self._replayed)
        self._commit(time.monotonic() - COMMIT_LAG_S)

    def close(self) -> None:
        self._consumer.close()

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Go on from the committed offsets, but from the beginning where the store holds nothing of the view."""
        known = self._rings.clocks()
        for partition in partitions:
            if self._views[partition.topic] not in known:
                partition.offset = OFFSET_BEGINNING
                self._begin(partition)
            elif self.materializer.unproven(self._views[partition.topic]):
                self._begin(partition)
        consumer.assign(partitions)

    def _replay(self, views: Iterable[str]) -> None:
        """Rings of another layout were thrown away: rebuild all of the view's, from its whole topic, once."""
        for view in views:
            log.info("rebuilding rings of a changed layout", view=view)
            self._replayed.add(view)
            for partition in self._consumer.assignment():
                if self._views[partition.topic] == view:
                    partition.offset = OFFSET_BEGINNING
                    self._begin(partition)
                    self._consumer.seek(partition)

    def _begin(self, partition: TopicPartition) -> None:
        """Rows that a newer one has replaced are compacted away, so offsets prove nothing before the end is reached."""
        _, high = self._consumer.get_watermark_offsets(partition, START_TIMEOUT_S)
        view = self._views[partition.topic]
        self.materializer.begin(view)
        if high:
            self._ends[partition.topic] = high
        else:
            self.materializer.finish(view)

    def _catch_up(self, batch: Sequence[Message]) -> None:
        for after in next_offsets(batch) if self._ends else ():
            if after.offset >= self._ends.get(after.topic, after.offset + 1):
                del self._ends[after.topic]
                self.materializer.finish(self._views[after.topic])

    def _commit(self, until_s: float) -> None:
        ready: dict[tuple[str, int], TopicPartition] = {}
        while self._pending and self._pending[0][0] <= until_s:
            ready |= {(tp.topic, tp.partition): tp for tp in self._pending.pop(0)[1]}
        if not ready:
            return
        try:
            self._consumer.commit(offsets=list(ready.values()), asynchronous=True)
        except KafkaException as error:
            raise unavailable("offsets of the materializer", error) from error


def run(ctx: WorkerContext, kafka: KafkaSettings, stores: StoreSettings) -> None:
    """The worker: until stopped. Waits for `plan.json`, and begins anew whenever that changes.

    Raises:
        OnlineStoreUnavailable: Redis is out of reach.
        SlotTaken: Another materializer of this use case runs.
        KafkaUnavailable: The cluster is out of reach.
    """
    rings = Rings(stores)
    path = Path(stores.plan_path)
    while not ctx.stop.is_set():
        if not path.exists():
            ctx.report({"waiting_for_plan": 1})
            ctx.stop.wait(0.5)
            continue
        _serve_plan(ctx, kafka, rings, path)
    rings.close()


def _serve_plan(ctx: WorkerContext, kafka: KafkaSettings, rings: Rings, path: Path) -> None:
    stamp = path.stat().st_mtime_ns
    plan = Plan.load(path)
    if not plan.views:
        ctx.stop.wait(0.5)
        return
    loop = _Loop(ctx, kafka, rings, plan)
    ticked_s = 0.0
    try:
        while not ctx.stop.is_set():
            loop.step(0.2)
            if time.monotonic() - ticked_s >= TICK_S:
                ticked_s = time.monotonic()
                ctx.report(loop.materializer.counters)
                if path.exists() and path.stat().st_mtime_ns != stamp and Plan.load(path) != plan:
                    log.info("the plan has changed", path=str(path))
                    return
        ctx.report(loop.materializer.counters)
    finally:
        loop.close()
