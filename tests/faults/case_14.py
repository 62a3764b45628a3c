"""The lake's SQLite catalog locked by somebody else, for less and for more than is waited for it.

Injected: two archivers of the same topics, each with a lake of its own, whose catalogs another connection locks
(`BEGIN EXCLUSIVE`, so neither reads nor writes pass) while events come: one for 20 s, one for 40 s; 30 s are waited. Must
hold: the first waits and goes on, in the same process; the second ends with an error that names the catalog, is started
again and goes on; in both lakes every acknowledged event is there once. Does not show: a lock that is never given back;
the worker is then started again and again, and `status` says so.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from functools import partial

from features.lake import BUSY_TIMEOUT_S, Lake
from features.settings import StoreSettings
from tests.conftest import stores_at
from tests.faults import lake as must
from tests.faults.case_13 import Readings
from tests.faults.stage import OFTEN, Stage, Worker

SHORT_S, LONG_S = BUSY_TIMEOUT_S - 10, BUSY_TIMEOUT_S + 10


def run(stage: Stage) -> None:
    """Lock both, let go of one after the other."""
    stage.topics()
    table = f"{stage.case}_readings"
    lakes = [stores_at(stage.folder / name, "redis://127.0.0.1:1/0") for name in ("short", "long")]
    for stores in lakes:
        Lake(stores)
    archivers = [stage.start("archiver", stage.rig.kafka, stores, OFTEN) for stores in lakes]
    with Readings(stage) as events:
        stage.until(lambda: all(_rows(stores, table) > 0 for stores in lakes))
        _lock(stage, lakes, archivers)
    total = len(events.ids)
    for name, stores in zip(("short", "long"), lakes, strict=True):
        stage.recovers(
            f"every row archived after the {name} lock",
            partial(_archived, stores, table, total),
            lambda: "not all",
        )
    for worker in archivers:
        worker.stop()
    waited, ended = archivers
    stage.outcome.check(
        "a short lock is waited for", holds=waited.restarts == 0, came=waited.restarts
    )
    said = ended.said("LakeUnavailable: lake catalog") or ended.said("AppendFailed: lake table")
    held = ended.restarts > 0 and said and ended.said("database is locked")
    stage.outcome.check("a long one ends the worker with a clear error", holds=held)
    for stores in lakes:
        must.check_whole(stage, stores, table, events.ids)


def _lock(stage: Stage, lakes: Sequence[StoreSettings], archivers: Sequence[Worker]) -> None:
    """Meanwhile be the supervisor."""
    held = [_locked(stores) for stores in lakes]
    stage.inject(f"one catalog locked for {SHORT_S} s, one for {LONG_S} s, both from now on")
    began_s = time.monotonic()
    for connection, until_s in zip(held, (SHORT_S, LONG_S), strict=True):
        stage.until(partial(_past, began_s + until_s))
        connection.execute("ROLLBACK")
        connection.close()
    stage.outcome.check("nobody waits for ever", holds=archivers[1].restarts > 0)


def _locked(stores: StoreSettings) -> sqlite3.Connection:
    path = stores.catalog_uri.removeprefix("sqlite:///")
    connection = sqlite3.connect(path, isolation_level=None, timeout=10.0)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


def _past(at_s: float) -> bool:
    return time.monotonic() >= at_s


def _archived(stores: StoreSettings, table: str, rows: int) -> bool:
    return _rows(stores, table) >= rows


def _rows(stores: StoreSettings, table: str) -> int:
    lake = Lake(stores)
    return lake.rows(table) if lake.exists(table) else 0
