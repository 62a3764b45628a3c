"""The packed ring of tiles of one (view, entity).

A ring is one fixed-size structured record: a header, then for each hop a block of slots. The slot of a tile is `tile mod
capacity`. All rings of a view have the same length, so a batch of hundreds is one `np.frombuffer` and is evaluated
without a Python loop per entity.

Which tile row wins is decided by the tile and its count of events alone, so that order, repetition and replay of rows
cannot change what a ring ends up as.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.distinct import BLOCK_BYTES
from features.tile_row import SEPARATOR, TileRow
from features.tiles import EMPTY_TILE, NEUTRAL, Bools, Evaluation, Floats, Ints, Tiles
from features.views import Layout, View

# 15 digits of time, a separator, and the longest id (`schemas.events.Id`).
STAMP_BYTES = 15 + 1 + 128
MAGIC = 0x48524E47  # "HRNG"
VERSION = 1
# Magic, version and fingerprint: what a ring of another layout does not begin with.
HEADER_BYTES = 16
# Instead of the age of a ring that is not there; no age of a ring is ever this number.
NO_RING_AGE_MS = -1

Records = NDArray[np.void]
_Hop = tuple[Layout, list[int], Evaluation]


class Applied(NamedTuple):
    """What became of tile rows: `expired` came behind the ring, `outdated` counted fewer events than are held."""

    applied: int = 0
    outdated: int = 0
    expired: int = 0


class RingFormat:
    """How the rings of one view are laid out, read and written. Cheap to keep, so make it once a view.

    Attributes:
        size: Bytes of every ring of the view.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self.fingerprint = int(view.layout_fingerprint, 16)
        fields: list[tuple[Any, ...]] = [
            ("magic", "<u4"),
            ("version", "<u4"),
            ("fingerprint", "<u8"),
            ("clock_ms", "<i8"),
            ("source_offset", "<i8"),
            ("source_partition", "<i8"),
        ]
        for layout in view.layouts:
            fields += [
                (f"tile_{layout.hop_s}", "<i8", (layout.tiles,)),
                (f"n_{layout.hop_s}", "<i8", (layout.tiles,)),
                (f"partials_{layout.hop_s}", "<f8", (len(layout.partials), layout.tiles)),
            ]
            if layout.distinct:
                shape = (len(layout.distinct), layout.tiles, BLOCK_BYTES)
                fields.append((f"blocks_{layout.hop_s}", "u1", shape))
            if view.origin_offsets:
                fields += _origin_fields(layout)
        self.dtype = np.dtype(fields)
        self.size = self.dtype.itemsize
        self._tiles_of_hop = {layout.hop_s: layout.tiles for layout in view.layouts}
        self._empty = self._make_empty()
        self._blank = self._empty.tobytes()
        self._evaluations: dict[tuple[str, ...], list[_Hop]] = {}

    def empty(self, rings: int = 1) -> Records:
        """New rings that hold nothing, `[rings]`."""
        return np.repeat(self._empty, rings)

    def _make_empty(self) -> Records:
        ring = np.zeros(1, self.dtype)
        ring["magic"], ring["version"], ring["fingerprint"] = MAGIC, VERSION, self.fingerprint
        ring["clock_ms"] = ring["source_offset"] = ring["source_partition"] = -1
        for layout in self.view.layouts:
            ring[f"tile_{layout.hop_s}"] = EMPTY_TILE
            neutral = [NEUTRAL[p.kind] for p in layout.partials]
            ring[f"partials_{layout.hop_s}"] = np.array(neutral)[None, :, None]
            if self.view.origin_offsets:
                ring[f"offset_{layout.hop_s}"] = ring[f"clock_{layout.hop_s}"] = -1
        return ring

    def usable(self, packed: bytes | None) -> bool:
        """Whether these bytes are a ring of this layout. A ring of another layout is never misread."""
        if packed is None or len(packed) != self.size:
            return False
        return packed.startswith(self._blank[:HEADER_BYTES])

    def unpack(self, packed: Sequence[bytes | None]) -> tuple[Records, int]:
        """Rings from what the store held, writable, and how many were discarded for their layout.

        A missing or discarded ring comes back empty (`clock_ms` −1), which is also what it means.
        """
        if self._whole(packed):
            return np.frombuffer(bytearray().join(packed), self.dtype), 0  # type: ignore[arg-type]
        held = [ring if self.usable(ring) else None for ring in packed]
        discarded = held.count(None) - packed.count(None)
        filled = (self._blank if ring is None else ring for ring in held)
        return np.frombuffer(bytearray().join(filled), self.dtype), discarded

    def _whole(self, packed: Sequence[bytes | None]) -> bool:
        """Whether all are there and usable, which is usual: said without a step of Python's for each."""
        if not packed or None in packed or set(map(len, packed)) != {self.size}:  # type: ignore[arg-type]
            return False
        return all(map(bytes.startswith, packed, repeat(self._blank[:HEADER_BYTES])))  # type: ignore[arg-type]

    def apply(self, records: Records, position: int, rows: Iterable[TileRow]) -> Applied:
        """Fold tile rows into the ring at `position`, in place.

        Idempotent and free of order. A row of a hop that the layout does not have is a row of an older definition
        and counts as expired.
        """
        applied = outdated = expired = 0
        for row in rows:
            slots = self._tiles_of_hop.get(row.hop_s)
            if slots is None:
                expired += 1
                continue
            slot = row.tile % slots
            held = records[f"tile_{row.hop_s}"][position, slot]
            if row.tile < held:
                expired += 1
            elif row.tile == held and row.n < records[f"n_{row.hop_s}"][position, slot]:
                outdated += 1
            else:
                records[f"tile_{row.hop_s}"][position, slot] = row.tile
                records[f"n_{row.hop_s}"][position, slot] = row.n
                records[f"partials_{row.hop_s}"][position, :, slot] = row.partials
                for place, block in enumerate(row.blocks):
                    held_blocks = records[f"blocks_{row.hop_s}"][position, place]
                    held_blocks[slot] = np.frombuffer(block, np.uint8)
                if self.view.origin_offsets:
                    _stand(records, position, slot, row)
                applied += 1
            self._advance(records, position, row)
        return Applied(applied, outdated, expired)

    @staticmethod
    def _advance(records: Records, position: int, row: TileRow) -> None:
        for field, value in (
            ("clock_ms", row.clock_ms),
            ("source_offset", row.source_offset),
            ("source_partition", row.source_partition),
        ):
            records[field][position] = max(records[field][position], value)

    def tiles(self, records: Records, hop_s: int) -> Tiles:
        """One hop's tiles of every ring."""
        blocks = records[f"blocks_{hop_s}"] if self.view.layout(hop_s).distinct else None
        return Tiles(records[f"tile_{hop_s}"], records[f"partials_{hop_s}"], blocks)

    def evaluate(
        self, records: Records, rows: Ints, as_of_ms: Ints, names: Sequence[str]
    ) -> Floats:
        """Features as of each row's instant, `[rows, names]`; `rows` says which ring each row reads."""
        values = np.empty((len(rows), len(names)))
        for layout, columns, evaluation in self._evaluation(tuple(names)):
            held = self.tiles(records, layout.hop_s)
            blocks = None if held.blocks is None else held.blocks[rows]
            asked = Tiles(held.indices[rows], held.partials[rows], blocks)
            values[:, columns] = evaluation(asked, as_of_ms)
        return values

    def _evaluation(self, names: tuple[str, ...]) -> list[_Hop]:
        """For each hop which columns it fills and how: the same for every batch of a service."""
        if names not in self._evaluations:
            wanted = [self.view.aggregate(name) for name in names]
            hops: list[_Hop] = []
            for layout in self.view.layouts:
                columns = [i for i, a in enumerate(wanted) if a.hop_s == layout.hop_s]
                if columns:
                    mine = [wanted[i] for i in columns]
                    hops.append((layout, columns, Evaluation(layout, mine)))
            self._evaluations[names] = hops
        return self._evaluations[names]

    def ahead(self, records: Records, rows: Ints, as_of_ms: Ints) -> Bools:
        """Which rows' head tile holds an event later than the row's instant, as far as the ring's clock tells.

        What it means; the scorer has it from `features.ring_kernel`, which is held to this.
        """
        clock = records["clock_ms"][rows]
        longest_ms = self.view.layouts[-1].hop_ms
        ahead: Bools = (clock > as_of_ms) & (clock // longest_ms == as_of_ms // longest_ms)
        return ahead


def stamp(event_time_ms: int, event_id: str) -> bytes:
    """Orders events as the stream job does: by time, then by id."""
    return f"{event_time_ms:015d}{SEPARATOR}{event_id}".encode()


def _origin_fields(layout: Layout) -> list[tuple[Any, ...]]:
    """What own events are folded by: up to which offset and time each tile goes, and whose its `first`, `last` are."""
    stamped = sum(p.kind in ("first", "last") for p in layout.partials)
    fields: list[tuple[Any, ...]] = [
        (f"offset_{layout.hop_s}", "<i8", (layout.tiles,)),
        (f"clock_{layout.hop_s}", "<i8", (layout.tiles,)),
    ]
    if stamped:
        fields.append((f"stamp_{layout.hop_s}", f"S{STAMP_BYTES}", (stamped, layout.tiles)))
    return fields


def _stand(records: Records, position: int, slot: int, row: TileRow) -> None:
    records[f"offset_{row.hop_s}"][position, slot] = row.source_offset
    records[f"clock_{row.hop_s}"][position, slot] = row.clock_ms
    if row.stamps:
        records[f"stamp_{row.hop_s}"][position, :, slot] = [s.encode() for s in row.stamps]
