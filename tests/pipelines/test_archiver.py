from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from features.lake import Lake
from features.settings import StoreSettings
from pipelines import archiver
from pipelines.settings import PipelineSettings
from schemas import topics
from schemas.results import Result, Route, Status
from schemas.worker import WorkerContext
from tests.conftest import stores_at
from tests.pipelines import toy
from tests.pipelines.records import eventually, produce, produce_events

if TYPE_CHECKING:
    from schemas.settings import KafkaSettings

OFTEN = PipelineSettings(archive_interval_s=0.3)


def _until(
    condition: Callable[[], bool], case: str, kafka: KafkaSettings, stores: StoreSettings
) -> dict[str, object]:
    """Run the archiver until the condition holds, and stop it cleanly."""
    stop, report = threading.Event(), dict[str, object]()
    ctx = WorkerContext(case, stop, report.update)
    thread = threading.Thread(target=archiver.run, args=(ctx, kafka, stores, OFTEN))
    thread.start()
    try:
        eventually(condition)
    finally:
        stop.set()
        thread.join()
    return report


def _rows(stores: StoreSettings, table: str) -> int:
    lake = Lake(stores)
    return lake.rows(table) if lake.exists(table) else 0


def _result(index: int) -> Result:
    question = toy.START_MS + index
    return Result(
        event_time_ms=question,
        request_id=f"q{index}",
        entity="s1",
        status=Status.SCORED,
        score=0.25,
        label=False,
        model="levels",
        version="1",
        route=Route.CHAMPION,
        epoch=1,
        features={"levels__mean": 1.5, "levels__last": None},
        ages_ms={"levels": None},
        ahead=("levels",),
        read_at_ms=question,
        scored_at_ms=question,
        traceparent="00-0",
    )


def test_every_topic_lands_in_its_table_once_and_a_restart_goes_on(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    case = toy.register("archived")
    stores = stores_at(tmp_path, "redis://unused")
    topics.apply(kafka, case)
    Lake(stores)
    readings = [toy.reading(i, level=None if i % 10 == 0 else i / 4) for i in range(500)]
    results = [_result(i) for i in range(20)]
    asked = [toy.Question(event_time_ms=toy.START_MS, request_id="q", station="s")]
    produce_events(kafka, f"{case}.readings.valid", readings[:300])
    produce_events(kafka, f"{case}.results", results)
    produce_events(kafka, f"{case}.requests", asked)
    produce(kafka, f"{case}.requests", [("bad", b"{"), ("worse", None)])
    tables = (f"{case}_readings", f"{case}_results", f"{case}_requests")

    def archived(*counts: int) -> Callable[[], bool]:
        return lambda: tuple(_rows(stores, table) for table in tables) == counts

    report = _until(archived(300, 20, 1), case, kafka, stores)
    assert report["skipped"] == 2
    produce_events(kafka, f"{case}.readings.valid", readings[300:])
    _until(archived(500, 20, 1), case, kafka, stores)

    lake = Lake(stores)
    found = {row["event_id"]: row for row in lake.scan(tables[0]).to_pylist()}
    assert {(i, row["level"]) for i, row in found.items()} == {
        (r.event_id, r.level) for r in readings
    }
    assert len({(r["kafka_partition"], r["kafka_offset"]) for r in found.values()}) == 500
    one = found["r3"]
    assert one["event_time"] == datetime.fromtimestamp(readings[3].event_time_ms / 1000, UTC)
    assert one["kafka_topic"] == f"{case}.readings.valid"
    assert abs(one["ingest_ms"] - datetime.now(UTC).timestamp() * 1000) < 300_000
    result = next(row for row in lake.scan(tables[1]).to_pylist() if row["request_id"] == "q7")
    assert dict(result["features"]) == results[7].features
    assert dict(result["ages_ms"]) == {"levels": None}
    assert (result["status"], list(result["ahead"])) == ("scored", ["levels"])


def test_a_kill_between_data_file_and_commit_neither_loses_nor_repeats_a_row(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    case = toy.register("archived_killed")
    stores = stores_at(tmp_path, "redis://unused")
    topics.apply(kafka, case)
    Lake(stores)
    table, topic = f"{case}_readings", f"{case}.readings.valid"
    events = [toy.reading(i) for i in range(900)]
    produce_events(kafka, topic, events[:300])
    worker = toy.worker("archiver", case, kafka, stores, OFTEN)
    # Whoever holds the catalog's write lock lets others read it, and write data files, but not commit.
    catalog = sqlite3.connect(stores.catalog_uri.removeprefix("sqlite:///"), isolation_level=None)
    try:
        eventually(lambda: _rows(stores, table) == 300)
        _let_it_rest(stores)
        catalog.execute("BEGIN IMMEDIATE")
        before = _data_files(stores, table)
        produce_events(kafka, topic, events[300:600])
        eventually(lambda: len(_data_files(stores, table)) > len(before))
    finally:
        worker.kill()
        worker.wait()
    catalog.execute("ROLLBACK")
    catalog.close()
    assert _rows(stores, table) == 300

    produce_events(kafka, topic, events[600:])
    _until(lambda: _rows(stores, table) >= 900, case, kafka, stores)
    found = Lake(stores).scan(table)["event_id"].to_pylist()
    assert sorted(found) == sorted(e.event_id for e in events)


def _let_it_rest(stores: StoreSettings) -> None:
    """Until nothing is appended any more: the control topics are shared, and others' events are archived as well."""
    lake, still = Lake(stores), 0
    rows: dict[str, int] = {}
    while still < 3:
        time.sleep(1.0)
        now = {table: lake.rows(table) for table in lake.tables()}
        still = still + 1 if now == rows else 0
        rows = now


def _data_files(stores: StoreSettings, table: str) -> list[Path]:
    warehouse = Path(stores.warehouse.removeprefix("file://"))
    return [path for path in warehouse.rglob("*.parquet") if table in str(path)]
