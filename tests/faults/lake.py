"""What the lake must show whenever it is looked at: whole commits, each event once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from features.lake import Lake
from features.settings import StoreSettings
from tests.faults.stage import Stage


def wrong_in(lake: Lake, table: str) -> str:
    """What is wrong with the newest snapshot: offsets of each partition must run from 0 without a gap or a repeat."""
    snapshot = lake.snapshot_id(table)
    if snapshot is None:
        return ""
    rows = lake.scan(table, snapshot_id=snapshot, columns=("kafka_partition", "kafka_offset"))
    offsets: dict[int, list[int]] = {}
    for row in rows.to_pylist():
        offsets.setdefault(row["kafka_partition"], []).append(row["kafka_offset"])
    for partition, mine in offsets.items():
        if sorted(mine) != list(range(len(mine))):
            twice = [o for o, n in Counter(mine).items() if n > 1]
            return f"partition {partition}: {len(mine)} rows to {max(mine)}, twice {twice[:5]}"
    return ""


def check_whole(stage: Stage, stores: StoreSettings, table: str, ids: list[str]) -> None:
    """Every acknowledged event, once."""
    lake = Lake(stores)
    found = Counter(lake.scan(table)["event_id"].to_pylist())
    twice, lost = [i for i, n in found.items() if n > 1], set(ids) - found.keys()
    stage.outcome.check("no row twice", holds=not twice, came=twice[:5])
    stage.outcome.check("no row is lost", holds=not lost, came=sorted(lost)[:5])
    strange = found.keys() - set(ids)
    stage.outcome.check("no row that was never sent", holds=not strange, came=sorted(strange)[:5])
    counts = stage.outcome.counts
    for name, number in (("rows", found.total()), ("duplicates", len(twice)), ("lost", len(lost))):
        counts[name] = counts.get(name, 0) + number


def orphans(stores: StoreSettings, table: str) -> int:
    """Data files that no snapshot knows: what a kill before the commit leaves."""
    warehouse = Path(stores.warehouse.removeprefix("file://"))
    written = [path for path in warehouse.rglob("*.parquet") if table in str(path)]
    known = Lake(stores)._load(table).inspect.data_files().num_rows
    return len(written) - int(known)
