"""Views of rows in the scorer's vectors: the newest row of each entity, as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from features.rings import EntityKey, entity_key
from features.row_values import number
from features.row_views import RowView
from features.rows import unpack
from features.tile_row import KeyValue
from features.tiles import Bools, Floats, Ints
from features.views import Service

NO_ROW_MS = -1


class RowsRead(NamedTuple):
    """What a batch gets of one view.

    Attributes:
        values: `[rows, features]`, NaN for null, for no row, and for one that is older than the view's ttl.
        clock_ms: `[rows]`, the event time of the row; −1 where there is none.
        ahead: `[rows]`, whether the row is newer than the instant: the one that was newest then is gone.
        discarded: What was no row.
    """

    values: Floats
    clock_ms: Ints
    ahead: Bools
    discarded: int


class RowReader:
    """Reads one view of rows for one service."""

    def __init__(self, view: RowView, service: Service) -> None:
        mine = [(i, f) for i, (v, f) in enumerate(service.features) if v == view.name]
        self.view = view
        self.columns = [i for i, _ in mine]
        self.fields = [field for _, field in mine]

    def keys(
        self, entities: Mapping[str, Sequence[KeyValue]], rows: int
    ) -> tuple[list[EntityKey], Ints]:
        """Each distinct key once, and for each row which of them; a row with a null key gets −1."""
        seen: dict[EntityKey, int] = {}
        columns = [entities[key] for key in self.view.join_keys]
        # A view without keys has one row for everybody.
        given = zip(*columns, strict=True) if columns else ((),) * rows
        found = [
            -1 if None in values else seen.setdefault(entity_key(values), len(seen))
            for values in given
        ]
        return list(seen), np.array(found, dtype=np.int64)

    def read(self, packed: Sequence[bytes | None], rows: Ints, as_of_ms: Ints) -> RowsRead:
        """The values of each row as of its instant."""
        # The blank last one is what rows without an entity (−1) read.
        clock_ms = np.full(len(packed) + 1, NO_ROW_MS, dtype=np.int64)
        table = np.full((len(packed) + 1, len(self.fields)), np.nan)
        discarded = 0
        for position, one in enumerate(packed):
            if one is None:
                continue
            try:
                row = unpack(one)
            except (msgspec.DecodeError, ValueError):
                discarded += 1
                continue
            clock_ms[position] = row.event_ms
            table[position] = [number(row.fields.get(field)) for field in self.fields]
        clock, values = clock_ms[rows], table[rows]
        if self.view.ttl_s:
            values[as_of_ms - clock > self.view.ttl_s * 1000] = np.nan
        return RowsRead(values, clock, (clock != NO_ROW_MS) & (clock > as_of_ms), discarded)
