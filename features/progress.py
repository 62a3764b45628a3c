"""How far the rings of a view have come, in offsets of the request topic; beside the rings, so that it is lost with them.

A view's job emits the rows of one hop in the order of the events of a partition. So once a row of every hop with offset
`o` is in the rings, every event of that partition up to `o` is (for a job of one subtask; with more, rows overtake
each other by what the buffers between the subtasks hold: see `features.own_events.ROWS_KEPT`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from features.own_events import NOTHING
from features.tile_row import TileRow
from features.views import View

# The place of a view's progress among its entities: no entity's key is like it, those are JSON arrays.
PROGRESS_KEY = b"progress"
# Beside them, whether the view's rings hold all that its topic does: gone with them when the store loses its memory, and
# taken back while they are rebuilt, so that whoever reads them knows in the same answer.
WHOLE_KEY = b"whole"
WHOLE, NOT_WHOLE = b"1", b""

# Partition → hop → the highest offset.
Offsets = dict[int, dict[int, int]]


class Progress:
    """The progress of one view. Never goes back, but for `begin`."""

    def __init__(self, view: View, offsets: Offsets | None = None) -> None:
        self._hops = tuple(layout.hop_s for layout in view.layouts)
        self._of: Offsets = offsets or {}

    @classmethod
    def unpack(cls, view: View, packed: bytes | None) -> Progress:
        """From what the store held; nothing where that is not a progress."""
        try:
            return cls(view, msgspec.json.decode(packed, type=Offsets) if packed else None)
        except msgspec.DecodeError:
            return cls(view)

    def __bool__(self) -> bool:
        return bool(self._of)

    def pack(self) -> bytes:
        """For the store."""
        return msgspec.json.encode(self._of)

    def advance(self, rows: Iterable[TileRow]) -> None:
        """Note rows that are in the rings now."""
        for row in rows:
            if row.source_offset > NOTHING:
                mine = self._of.setdefault(row.source_partition, {})
                mine[row.hop_s] = max(mine.get(row.hop_s, NOTHING), row.source_offset)

    def reached(self, partition: int) -> int:
        """Every event of the partition up to this offset is in the rings."""
        mine: Mapping[int, int] = self._of.get(partition, {})
        return min((mine.get(hop, NOTHING) for hop in self._hops), default=NOTHING)
