"""The flights' history put into the lake, as if it had been received when it happened."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from features.lake import Lake
from features.lake_schema import lake_schema, with_coordinates
from infra.demo.history import CASE, STREAMS, contract_of, load, midnight_ms
from schemas import topics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from features.settings import StoreSettings

NOTHING = timedelta()
# What the windowed features are computed from.
FEATURE_STREAMS = ("departures", "weather")


def write_history(
    stores: StoreSettings, since: date, until: date, *, streamed: timedelta = NOTHING
) -> dict[str, int]:
    """Append the events of `[since, until)` to the lake, as if they had been received when they happened.

    `ingest_ms` is the event time: this history was known as it went, and a training set "as known at" an instant of the
    past must be able to see it. The rows have no Kafka coordinates, and the snapshots carry no offsets, so the archiver
    begins where Kafka begins. Call it once on an empty lake: called twice it appends twice.

    Args:
        stores: Where the lake is.
        since: The first day.
        until: The first day that is not in it.
        streamed: The span before `until` whose departures and weather are left out, because they will be sent through
            Kafka to fill the windows, and the archiver brings them here.

    Returns:
        Rows written, by table.
    """
    timeline = load(since, until)
    lake = Lake(stores)
    written: dict[str, int] = {}
    for stream in STREAMS:
        name = topics.table_of(CASE)[f"{CASE}.{stream}"].table
        schema = lake_schema(contract_of(stream))
        lake.create(name, schema)
        end = until - streamed if stream in FEATURE_STREAMS else until
        written[name] = 0
        for since_ms, until_ms in _months(since, end):
            chunk = _between(timeline.table(stream), since_ms, until_ms)
            if chunk.num_rows:
                known = with_coordinates(chunk, ingest_ms=chunk["event_time_ms"])
                lake.append(name, known.select(schema.names).cast(schema))
                written[name] += chunk.num_rows
    return written


def _months(since: date, until: date) -> Iterator[tuple[int, int]]:
    start = since
    while start < until:
        following = date(start.year + start.month // 12, start.month % 12 + 1, 1)
        end = min(following, until)
        yield midnight_ms(start), midnight_ms(end)
        start = end


def _between(rows: pa.Table, since_ms: int, until_ms: int) -> pa.Table:
    at = rows["event_time_ms"]
    return rows.filter(pc.and_(pc.greater_equal(at, since_ms), pc.less(at, until_ms)))
