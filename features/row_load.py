"""Lake tables into the rows of their views, a piece at a time: what has come since the last time.

How far a view's table has been read is kept beside its rows, and so is lost with them: a store that lost its memory is
filled from the beginning. A piece begins a little before the end of the last one, for rows of one second may be
committed in another order; rows that come twice change nothing.
"""

from __future__ import annotations

import msgspec
import pyarrow.compute as pc

from features.lake import Lake
from features.row_stream import newest_of
from features.row_table import SEEN_MS
from features.row_views import RowView
from features.rows import Rows

OVERLAP_MS = 600_000
# No view has such a name.
LOADS = "__loads"


class Reached(msgspec.Struct, frozen=True):
    """The snapshot that was read, and the latest ingest time in it; −1 where the table does not say."""

    snapshot_id: int
    seen_ms: int = -1


def scheduled(view: RowView) -> bool:
    """Whether a view is filled from its table by the platform: no stream feeds it, and its values are plain."""
    return not view.topic and bool(view.kinds)


def load(view: RowView, lake: Lake, rows: Rows) -> int | None:
    """Offer what has come into the view's table; how many rows were not older than what was held.

    None where the table has no snapshot that was not read.

    Raises:
        NoSuchLakeTable: Nobody made it yet.
        RowsUnreadable: The table lacks a column of the view.
        OnlineStoreUnavailable: Redis is out of reach; the same piece comes again.
    """
    key = view.stored.encode()
    held = rows.read(LOADS, [key])[0]
    reached = msgspec.json.decode(held, type=Reached) if held else None
    snapshot_id = lake.snapshot_id(view.table)
    if snapshot_id is None or (reached and reached.snapshot_id == snapshot_id):
        return None
    since = reached.seen_ms - OVERLAP_MS if reached and reached.seen_ms >= 0 else None
    table = lake.scan(view.table, snapshot_id=snapshot_id, ingested_since_ms=since)
    offered = rows.offer(view.stored, newest_of(view, table))
    told = SEEN_MS in table.column_names
    seen = [pc.max(table[SEEN_MS]).as_py() if told else None, reached.seen_ms if reached else None]
    latest = max((ms for ms in seen if ms is not None), default=-1)
    state = msgspec.json.encode(Reached(snapshot_id, latest))
    rows.write([(LOADS, key, state)])
    return offered
