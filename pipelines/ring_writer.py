"""Tile rows folded into rings, a batch at a time: the part of the materializer that knows no Kafka consumer."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import structlog
from confluent_kafka import Message

from features.progress import NOT_WHOLE, PROGRESS_KEY, WHOLE, WHOLE_KEY, Progress
from features.ring import Records, RingFormat
from features.rings import EntityKey, Rings, entity_key
from features.tile_row import TileRow, TileRowDecoder
from features.views import View

# A ring is 1–10 kB; this holds tens of thousands of the busiest entities, the rest is read from the store.
CACHE_BYTES_MAX = 256 * 1024 * 1024

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


class RingWriter:
    """Folds tile rows of views into rings. Not for sharing between threads."""

    def __init__(
        self, views: Sequence[View], rings: Rings, cache_bytes_max: int = CACHE_BYTES_MAX
    ) -> None:
        self._rings = rings
        self.follow(views)
        self._cache_bytes_max = cache_bytes_max
        self._cache = RingCache(cache_bytes_max)
        self._progress: dict[str, Progress] = {}
        # Views whose rings are being rebuilt: their progress waits until all that there was has been read again.
        self.rebuilding: set[str] = set()
        self.discarded: set[str] = set()
        self.counters = dict.fromkeys(
            ("rows", "applied", "outdated", "expired", "undecodable", "discarded", "rings"), 0
        )

    def follow(self, views: Sequence[View]) -> None:
        """Fold the rows of these views from now on; what is known of those that stay is kept."""
        self._views: dict[str, View] = {view.topic_out: view for view in views}
        self._formats = {view.versioned: RingFormat(view) for view in views}
        self._decoders = {view.versioned: TileRowDecoder(view) for view in views}
        self._origin = {v.versioned: v for v in views if v.origin_offsets}

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

    def forget(self) -> None:
        """Drop every ring in memory: the store no longer holds what it held."""
        self._cache = RingCache(self._cache_bytes_max)
        self._progress.clear()

    def begin(self, view: str) -> None:
        """The view's rings are rebuilt from the first row: nothing is known to be in them."""
        said = [(view, WHOLE_KEY, NOT_WHOLE)]
        if view in self._origin:
            self.rebuilding.add(view)
            self._progress[view] = Progress(self._origin[view])
            said.append((view, PROGRESS_KEY, self._progress[view].pack()))
        self._rings.write(said)

    def finish(self, view: str) -> None:
        """The view's rings hold again what they held: they count as whole, and their progress may be told."""
        said = [(view, WHOLE_KEY, WHOLE)]
        if view in self.rebuilding:
            self.rebuilding.discard(view)
            said.append((view, PROGRESS_KEY, self._progress[view].pack()))
        self._rings.write(said)

    def whole(self, view: str) -> bool:
        """Whether the view's rings were rebuilt to their end; not so where somebody died while rebuilding them."""
        return bool(self._rings.read(view, [WHOLE_KEY])[0])

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
            view = self._views[str(message.topic())].versioned
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
