"""Waits until events are readable online: not until they were sent, nor for a while that is usually enough.

For every event sent it counts, per (view, entity, tile), how many events the tile must hold, and reads the rings until
they do. It is told nothing by the jobs that fill them.
Where a new version of a view takes over meanwhile, it looks where readers look from then on.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

from features import plan_files
from features.ring import RingFormat
from features.rings import Rings, entity_key
from features.views import Plan
from schemas.errors import HeadraceError
from schemas.topics import VALID_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from features.settings import StoreSettings
    from features.tile_row import KeyValue
    from features.views import View
    from infra.demo.slices import Sent

    Ring = tuple[str, bytes]
    Tile = tuple[int, int]

Noted = TypeVar("Noted")
POLL_S = 0.002
# The tiles of a ring that are still being counted: later events may land in them.
TILES_KEPT = 64


class NotVisible(HeadraceError):
    """Events did not become readable in time."""


class Barrier:
    """Counts what was sent and waits until all of it is readable."""

    def __init__(self, stores: StoreSettings) -> None:
        self._rings, self._plan_path = Rings(stores), stores.plan_path
        self._versions: dict[str, str] = {}
        self._counts: dict[Ring, dict[Tile, int]] = defaultdict(dict)
        self._pending: dict[Ring, set[Tile]] = defaultdict(set)
        self._stamp: plan_files.Stamp | None = None
        self._follow()

    def _follow(self) -> None:
        """Look for what was noted in the rings that are read now.

        Of a hop that the older version did not have only later events are counted: fewer than the tile must hold.
        """
        stamp = plan_files.stamp(self._plan_path)
        if stamp == self._stamp:
            return
        self._stamp, plan = stamp, Plan.load(self._plan_path)
        self._views: dict[str, list[View]] = defaultdict(list)
        for view in plan.views:
            self._views[view.topic.removesuffix(VALID_SUFFIX)].append(view)
        self._formats = {view.versioned: RingFormat(view) for view in plan.views}
        versions = {view.name: view.versioned for view in plan.views}
        now = {old: versions.get(name) for name, old in self._versions.items()}
        self._versions = versions
        _move(self._counts, now)
        _move(self._pending, now)

    def sent(self, events: Iterable[Sent]) -> None:
        """Note events that were accepted by the broker; records that are no event touch nothing."""
        self._follow()
        for event in events:
            for view in self._views.get(event.topic, ()) if event.fields else ():
                self._count(view, event)

    def _count(self, view: View, event: Sent) -> None:
        keys: list[KeyValue] = [event.fields[k.name] for k in view.join_keys]  # type: ignore[misc]
        if None in keys:
            return
        ring = (view.versioned, entity_key(keys))
        tiles = self._counts[ring]
        for layout in view.layouts:
            tile = (layout.hop_s, event.time_ms // layout.hop_ms)
            tiles[tile] = tiles.get(tile, 0) + 1
            self._pending[ring].add(tile)
        while len(tiles) > TILES_KEPT:
            del tiles[next(iter(tiles))]

    def wait(self, timeout_s: float) -> float:
        """Return, once everything noted is readable, how long that took in seconds.

        Raises:
            NotVisible: It did not come to pass within `timeout_s`.
        """
        began = time.monotonic()
        while self._pending:
            self._forget_visible()
            waited_s = time.monotonic() - began
            if self._pending and waited_s > timeout_s:
                raise self._not_visible(waited_s)
            if self._pending:
                time.sleep(POLL_S)
        return time.monotonic() - began

    def _forget_visible(self) -> None:
        self._follow()
        by_view: dict[str, list[bytes]] = defaultdict(list)
        for view, key in self._pending:
            by_view[view].append(key)
        held = self._rings.read_many(list(by_view.items()))
        for (view, keys), packed in zip(by_view.items(), held, strict=True):
            records, _ = self._formats[view].unpack(packed)
            for at, key in enumerate(keys):
                ring = (view, key)
                counts = self._counts[ring]
                missing = {
                    (hop, tile)
                    for hop, tile in self._pending[ring]
                    if not _holds(records, at, hop, tile, counts.get((hop, tile), 0))
                }
                if missing:
                    self._pending[ring] = missing
                else:
                    del self._pending[ring]

    def _not_visible(self, waited_s: float) -> NotVisible:
        (view, key), tiles = next(iter(self._pending.items()))
        return NotVisible(
            f"view {view}, entity {key.decode()}",
            wanted=f"tiles {sorted(tiles)} readable online",
            came=f"after {waited_s:.0f} s they were not ({len(self._pending)} rings are missing some)",
            mend="Look at `headrace status` and at the logs of intake, Flink and materializer.",
        )

    def close(self) -> None:
        """Give the connection back."""
        self._rings.close()


def _move(noted: dict[Ring, Noted], now: Mapping[str, str | None]) -> None:
    """Put what was noted for a version's rings to those of its successor; drop what has none."""
    for version, key in list(noted):
        new = now.get(version, version)
        if new != version:
            held = noted.pop((version, key))
            if new is not None:
                noted[new, key] = held


def _holds(records: object, at: int, hop_s: int, tile: int, count: int) -> bool:
    if f"tile_{hop_s}" not in records.dtype.names:  # type: ignore[attr-defined]
        return True
    index = records[f"tile_{hop_s}"][at]  # type: ignore[index] # a numpy record array
    slot = tile % len(index)
    held: int = records[f"n_{hop_s}"][at, slot]  # type: ignore[index]
    # A newer tile in the slot means that the ring has moved on: what it no longer holds cannot be waited for.
    return bool(index[slot] > tile or (index[slot] == tile and held >= count))
