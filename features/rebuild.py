"""Rings and rows from the lake alone: for an online store that was lost, when the topics no longer hold what it held.

Nothing newer is overwritten: a tile with more events stays, a ring that changes meanwhile is read again, and of rows the
newest wins. But a running materializer keeps rings in memory and writes them whole at an entity's next event: stop it
before, and start it after. The stream's clock is not moved: where it was lost too, the materializer reads the view's whole
topic on its start, and so brings what the lake does not have yet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from itertools import islice

import pyarrow.compute as pc
import structlog

from features.batch import Progress
from features.feast_store import feature_store
from features.lake import Lake
from features.lake_tiles import lake_tiles, source_columns
from features.ring import RingFormat
from features.rings import EntityKey, Rings, entity_key
from features.settings import StoreSettings
from features.tile_row import TileRow, TileRowDecoder
from features.views import Layout, Plan, View

# A ring is 1–10 kB and travels three times.
BATCH_RINGS = 500
EPOCH = datetime.fromtimestamp(0, tz=UTC)

log = structlog.get_logger()


def rebuild(
    plan: Plan,
    stores: StoreSettings,
    views: Collection[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Fill the online store from the lake's newest snapshots; view → how many rings were written.

    Only what windows as of the view's latest event, or later, can see. Views of the use case's own requests are left out:
    how far their rings have come is counted in offsets of the request topic, which the materializer reads again
    itself. Views of rows go through Feast's `materialize`, which does not count: −1.

    Args:
        plan: The applied plan.
        stores: Where lake and online store are.
        views: The names of those to rebuild; all by default.
        progress: Told after each batch: the view, its rings done, and of how many.

    Raises:
        NoSuchLakeTable: a view's table was never made.
        OnlineStoreUnavailable: Redis is out of reach; what was written until then is right.
    """
    lake, rings = Lake(stores), Rings(stores)
    written: dict[str, int] = {}
    for view in plan.views:
        if view.origin_offsets:
            log.info("rings of own requests are the materializer's to rebuild", view=view.name)
        elif views is None or view.name in views:
            written[view.name] = _rebuild_rings(view, lake, rings, progress)
    rings.close()
    of_rows = [v.name for v in plan.row_views if views is None or v.name in views]
    if of_rows:
        feature_store(stores).materialize(EPOCH, datetime.now(tz=UTC), of_rows)
    return written | dict.fromkeys(of_rows, -1)


def _rebuild_rings(view: View, lake: Lake, rings: Rings, progress: Progress | None) -> int:
    clock_ms = _clock_ms(lake, view)
    if clock_ms is None:
        return 0
    tiles = _tiles(view, lake, clock_ms)
    remaining, done = iter(tiles.items()), 0
    while some := dict(islice(remaining, BATCH_RINGS)):
        _offer(view, rings, some)
        done += len(some)
        if progress:
            progress(view.name, done, len(tiles))
    return done


def _offer(view: View, rings: Rings, tiles: Mapping[EntityKey, list[TileRow]]) -> None:
    """Fold tiles into whatever rings are there, again where somebody else wrote in between."""
    fmt, missing = RingFormat(view), list(tiles)
    while missing:
        held = rings.read(view.versioned, missing)
        records, _ = fmt.unpack(held)
        for position, key in enumerate(missing):
            fmt.apply(records, position, tiles[key])
        packed = [records[i : i + 1].tobytes() for i in range(len(missing))]
        missing = rings.replace(view.versioned, list(zip(missing, held, packed, strict=True)))


def _clock_ms(lake: Lake, view: View) -> int | None:
    latest = pc.max(lake.scan(view.table, columns=("event_time_ms",))["event_time_ms"]).as_py()
    return None if latest is None else int(latest)


def _oldest(layout: Layout, clock_ms: int) -> int:
    return clock_ms // layout.hop_ms - layout.tiles + 1


def _tiles(view: View, lake: Lake, clock_ms: int) -> dict[EntityKey, list[TileRow]]:
    """The tiles that a ring can hold beside the latest one, by entity."""
    since_ms = {o.hop_s: _oldest(o, clock_ms) * o.hop_ms for o in view.layouts}
    events = lake.scan(view.table, since_ms=min(since_ms.values()), columns=source_columns(view))
    decoder = TileRowDecoder(view)
    tiles: dict[EntityKey, list[TileRow]] = defaultdict(list)
    for keys, row in filter(None, map(decoder.of, lake_tiles(view, events, since_ms))):
        tiles[entity_key(keys)].append(row)
    return tiles
