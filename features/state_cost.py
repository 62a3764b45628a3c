"""What a view costs to keep, before it is applied: bytes of an entity in Redis and in Flink, and the arithmetic.

The ring is exact: every entity has one of fixed size. Flink's state is an estimate from what RocksDB or the heap must hold
for a tile of `GROUP BY key, tile`: its key, one accumulator a partial, and its time to live.

A view of rows keeps one row of an entity in Redis and nothing in Flink: no job of it runs there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from features.distinct import BLOCK_BYTES
from features.ring import RingFormat
from features.row_views import RowView
from features.views import Layout, PartialKind, View
from schemas.errors import HeadraceError

# Redis: the entry of its dictionary, the object, and the key with its text; a test holds the sum to 15 % of Redis 6.2.
REDIS_OVERHEAD_BYTES = 96
# Flink's heap state: an entry of the copy-on-write map with its key, a row, a count and the timer of its TTL.
FLINK_TILE_BYTES = 160
FLINK_PARTIAL_BYTES: dict[PartialKind, int] = {
    "count": 8,
    "sum": 16,
    "sumsq": 16,
    "min": 16,
    "max": 16,
    # 15 digits, an id of some 24 letters, a number as text.
    "first": 80,
    "last": 80,
    # 64 hashes or 512 registers, and their array and object.
    "distinct": 560,
}
# A row: event time and created time, 15 digits each, and the map's header; a field: two headers beside its name and value.
ROW_STAMP_BYTES = 33
ROW_FIELD_BYTES = 3
# As Feast serializes them: a double is exact, an integer of 4 bytes' size, a text of some 24 letters.
ROW_VALUE_BYTES = {"double": 9, "bigint": 6, "string": 26}
MILLION = 1_000_000
GIB = 2**30


class StateRefused(HeadraceError):
    """A view would keep more than is allowed an entity."""


class Cost(NamedTuple):
    """What one view keeps for one entity that is never idle.

    Attributes:
        ring_bytes: In Redis, name and bookkeeping included.
        flink_bytes: In the job's state: at most the tiles that its time to live spans.
        arithmetic: How they come about, a line each.
    """

    view: str
    ring_bytes: int
    flink_bytes: int
    arithmetic: tuple[str, ...]

    @property
    def gib_a_million(self) -> tuple[float, float]:
        """(Redis, Flink) in GiB for a million entities."""
        return self.ring_bytes * MILLION / GIB, self.flink_bytes * MILLION / GIB


def tile_life_s(view: View, hop_s: int, lateness_s: int) -> int:
    """How long a job keeps a tile of a hop after the tile's last event, in processing time.

    The longest window over that hop, and the allowed lateness: whatever comes later is in no window any more.
    """
    return max(a.window_s for a in view.aggregates if a.hop_s == hop_s) + lateness_s


def cost(view: View, lateness_s: int) -> Cost:
    """The cost of a view whose job keeps a tile of each hop for that hop's longest window and the allowed lateness."""
    ring = RingFormat(view).size + REDIS_OVERHEAD_BYTES
    tiles = {layout: _tiles_alive(view, layout, lateness_s) for layout in view.layouts}
    each = {layout: _tile_bytes(layout) for layout in view.layouts}
    slots = " + ".join(_slots(layout) for layout in view.layouts)
    lines = [f"ring: {slots} + header and Redis's own = {ring:,} B"]
    lines += [
        f"Flink: {tiles[layout]:,} tiles of {layout.hop_s} s x {each[layout]:,} B"
        f" = {tiles[layout] * each[layout]:,} B"
        for layout in view.layouts
    ]
    flink = sum(tiles[layout] * each[layout] for layout in view.layouts)
    return Cost(view.name, ring, flink, tuple(lines))


def row_cost(view: RowView) -> Cost:
    """The cost of a view of rows, whoever writes them: one row, of the newest event time, an entity."""
    row = ROW_STAMP_BYTES + sum(_row_field_bytes(view, name) for name in view.fields)
    total = row + REDIS_OVERHEAD_BYTES
    line = f"row: {len(view.fields)} fields, {row:,} B + Redis's own = {total:,} B"
    return Cost(view.name, total, 0, (line, "Flink: nothing, rows go to Redis past it"))


def refuse_costly(
    views: Sequence[View], lateness_s: int, bytes_max: int, row_views: Sequence[RowView] = ()
) -> list[Cost]:
    """The costs of all views, windowed ones first.

    Raises:
        StateRefused: one of them keeps more than `bytes_max` an entity, in Redis or in Flink.
    """
    costs = [*(cost(view, lateness_s) for view in views), *map(row_cost, row_views)]
    for one in costs:
        if max(one.ring_bytes, one.flink_bytes) > bytes_max:
            raise StateRefused(
                f"view {one.view}",
                wanted=f"at most {bytes_max:,} B an entity (HEADRACE_FLINK__ENTITY_BYTES_MAX)",
                came="; ".join(one.arithmetic),
                mend="Lengthen a hop (slide_interval), shorten a window, drop fields of a row, or raise the limit.",
            )
    return costs


def _row_field_bytes(view: RowView, name: str) -> int:
    # Where the kinds are not known, a field that is no number is a text.
    kind = view.kinds.get(name, "string" if name in view.others else "double")
    return ROW_FIELD_BYTES + len(name) + ROW_VALUE_BYTES[kind]


def _tiles_alive(view: View, layout: Layout, lateness_s: int) -> int:
    # Those whose last event is not older than their life, and the one that is being filled.
    return -(-tile_life_s(view, layout.hop_s, lateness_s) // layout.hop_s) + 1


def _slots(layout: Layout) -> str:
    # A slot: its tile's number, its count of events, and its partials, 8 B each; and the blocks of distinct values.
    slot = 8 * (2 + len(layout.partials)) + BLOCK_BYTES * len(layout.distinct)
    return f"{layout.tiles:,} tiles of {layout.hop_s} s x {slot} B"


def _tile_bytes(layout: Layout) -> int:
    return FLINK_TILE_BYTES + sum(FLINK_PARTIAL_BYTES[p.kind] for p in layout.partials)
