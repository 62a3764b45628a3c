from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
import redis
from confluent_kafka import Message

from features import plan_files
from features.ring import RingFormat
from features.rings import Rings, entity_key
from features.settings import StoreSettings
from features.tile_row import TileRow, encode
from features.vectors import VectorReader
from features.views import Plan, Service, View
from infra.local.redis_server import RedisServer
from pipelines import materializer
from pipelines.ring_writer import RingWriter
from schemas import topics
from schemas.worker import WorkerContext
from tests.pipelines import toy
from tests.pipelines.records import Record, committed, eventually, produce

if TYPE_CHECKING:
    from schemas.settings import KafkaSettings

SEED = 7
Rows = list[tuple[str, TileRow]]


def _rows(view: View, *, entities: int = 40, tiles: int = 30) -> Rows:
    """Each tile grows from one event to five: what a stream job upserts, in its order."""
    return [
        (f"s{entity}", _row(view, layout.hop_s, 5_000_000 + index, n))
        for layout in view.layouts
        for index in range(tiles)
        for entity in range(entities)
        for n in range(1, 6)
    ]


def _row(view: View, hop_s: int, tile: int, n: int) -> TileRow:
    partials = tuple(float(n + i) for i, _ in enumerate(view.layout(hop_s).partials))
    return TileRow(hop_s, tile, n, partials, tile * hop_s * 1_000 + n, n, 0)


def _records(view: View, rows: Rows) -> list[Record]:
    return [
        (f"{station}/{row.hop_s}/{row.tile}", msgspec.json.encode(encode(view, (station,), row)))
        for station, row in rows
    ]


def _batches(messages: list[Message], size: int) -> Iterator[list[Message]]:
    left = iter(messages)
    while batch := list(islice(left, size)):
        yield batch


def _own(stores: StoreSettings, project: str, folder: Path) -> StoreSettings:
    """The session's Redis, under a project and a plan of the test's own."""
    return stores.model_copy(update={"project": project, "plan_path": str(folder / "plan.json")})


def _held(stores: StoreSettings, view: View, entities: int = 40) -> list[bytes | None]:
    rings = Rings(stores)
    held = rings.read(view.versioned, [entity_key((f"s{entity}",)) for entity in range(entities)])
    rings.close()
    return held


@contextmanager
def _running(case: str, kafka: KafkaSettings, stores: StoreSettings) -> Iterator[dict[str, object]]:
    stop, report = threading.Event(), dict[str, object]()
    ctx = WorkerContext(case, stop, report.update)
    thread = threading.Thread(target=materializer.run, args=(ctx, kafka, stores))
    thread.start()
    try:
        yield report
    finally:
        stop.set()
        thread.join()


def _clients() -> int:
    """How many Kafka clients this process has; each has one main thread."""
    names = []
    for thread in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):
            names.append((thread / "comm").read_text().strip())
    return names.count("rdk:main")


def test_order_repetition_and_a_tiny_cache_change_no_ring(
    kafka: KafkaSettings, stores: StoreSettings, tmp_path: Path
) -> None:
    view = toy.view("rings_order")
    topics.create(kafka, [topics.tile_topic(view.topic_out)])
    rows = _rows(view)
    produce(kafka, view.topic_out, _records(view, rows))
    messages = committed(kafka, view.topic_out)
    assert len(messages) == len(rows)
    chance = random.Random(SEED)
    outcomes = []
    for name, cache_bytes in (("in_order", 1 << 28), ("shuffled", 20_000), ("twice", 1)):
        own = _own(stores, name, tmp_path)
        given = list(messages) if name == "in_order" else [*messages, *messages[:5_000]]
        if name != "in_order":
            chance.shuffle(given)
        subject = RingWriter((view,), Rings(own), cache_bytes)
        for batch in _batches(given, 500):
            subject.materialize(batch)
        outcomes.append(_held(own, view))
        assert Rings(own).clock() == max(row.clock_ms for _, row in rows)
        assert subject.counters["rows"] == len(given)
    assert None not in outcomes[0]
    assert outcomes[0] == outcomes[1] == outcomes[2], f"seed {SEED}"


def test_the_newest_row_of_each_tile_is_in_the_ring(
    kafka: KafkaSettings, stores: StoreSettings, tmp_path: Path
) -> None:
    view = toy.view("rings_newest")
    own = _own(stores, "newest", tmp_path)
    topics.create(kafka, [topics.tile_topic(view.topic_out)])
    Plan((view,)).save(own.plan_path)
    junk: list[Record] = [("j", b"{"), ("j", b"[]"), ("j", b'{"tile": 3}'), ("j", None)]
    rows = _rows(view, tiles=3)
    with _running("rings_newest", kafka, own) as report:
        produce(kafka, view.topic_out, [*junk, *_records(view, rows)])
        eventually(lambda: report.get("rows") == len(rows) + len(junk))
    assert report["undecodable"] == 3
    kept = RingFormat(view)
    records, discarded = kept.unpack(_held(own, view))
    assert discarded == 0
    for layout in view.layouts:
        tiles = records[f"tile_{layout.hop_s}"]
        counts = records[f"n_{layout.hop_s}"]
        held = [5_000_000 + index for index in range(3)]
        for ring in range(40):
            present = {int(t): int(n) for t, n in zip(tiles[ring], counts[ring], strict=True)}
            assert {tile: present[tile] for tile in held} == dict.fromkeys(held, 5)


def test_a_lost_store_a_new_view_and_an_older_release_are_rebuilt_from_the_topic(
    kafka: KafkaSettings, stores: StoreSettings, tmp_path: Path
) -> None:
    case = "rings_rebuilt"
    own = _own(stores, case, tmp_path)
    first, second = toy.view(case), toy.view(f"{case}_too")
    topics.create(kafka, [topics.tile_topic(view.topic_out) for view in (first, second)])
    for view in (first, second):
        produce(kafka, view.topic_out, _records(view, _rows(view, tiles=3)))
    Plan((first,)).save(own.plan_path)
    with _running(case, kafka, own):
        eventually(lambda: None not in _held(own, first))
        assert _held(own, second) == [None] * 40
        Plan((first, second)).save(own.plan_path)
        eventually(lambda: None not in _held(own, second))
    before = _held(own, first)

    Rings(own).delete(first.versioned)
    with _running(case, kafka, own):
        eventually(lambda: _held(own, first) == before)

    # Rings that an older release wrote are not misread. One new row is enough to notice; the entities that fell silent
    # are rebuilt as well.
    keys = [entity_key((f"s{entity}",)) for entity in range(40)]
    Rings(own).write((first.versioned, key, b"of an older release") for key in keys)
    produce(kafka, first.topic_out, _records(first, [("s0", _row(first, 300, 5_000_002, 5))]))
    with _running(case, kafka, own) as report:
        eventually(lambda: _held(own, first) == before)
    assert report["undecodable"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="threads of C have no name elsewhere")
def test_nothing_is_left_of_the_consumer_that_is_dropped(
    kafka: KafkaSettings, stores: StoreSettings, tmp_path: Path
) -> None:
    case = "rings_dropped"
    own = _own(stores, case, tmp_path)
    views = toy.view(case), toy.view(f"{case}_too")
    topics.create(kafka, [topics.tile_topic(view.topic_out) for view in views])
    produce(kafka, views[0].topic_out, _records(views[0], _rows(views[0], tiles=3)))
    Plan(views[:1]).save(own.plan_path)
    before = _clients()
    with _running(case, kafka, own):
        eventually(lambda: None not in _held(own, views[0]))
        assert _clients() == before + 1
        # Stopped while its group makes up its mind about the new topic.
        Plan(views).save(own.plan_path)
    eventually(lambda: _clients() == before)


def test_a_version_that_takes_over_fills_while_the_other_goes_on(
    kafka: KafkaSettings, stores: StoreSettings, tmp_path: Path
) -> None:
    case = "rings_versions"
    own = _own(stores, case, tmp_path)
    shorter, longer = toy.view(case), toy.view(case, window_s=7_200)
    topics.create(kafka, [topics.tile_topic(view.topic_out) for view in (shorter, longer)])
    Plan((shorter,)).save(own.plan_path)
    newest = _row(shorter, 300, 5_000_002, 7)
    with _running(case, kafka, own) as report:
        rows = [_rows(view, tiles=3) for view in (shorter, longer)]
        produce(kafka, shorter.topic_out, _records(shorter, rows[0]))
        eventually(lambda: None not in _held(own, shorter))
        Plan((longer,)).save(plan_files.next_path(own.plan_path))
        produce(kafka, longer.topic_out, _records(longer, rows[1]))
        read = sum(map(len, rows))
        eventually(lambda: report["rows"] == read)
        assert None not in _held(own, longer)
        # The consumer stays in its group: the one that goes on is not kept waiting, and reads nothing twice.
        produce(kafka, shorter.topic_out, _records(shorter, [("s0", newest)]))
        eventually(lambda: report["rows"] == read + 1, within_s=5.0)
        plan_files.switch(Plan((longer,)), own.plan_path)
        assert plan_files.pending(own.plan_path) is None
        produce(kafka, longer.topic_out, _records(longer, [("s0", newest)]))
        eventually(lambda: report["rows"] == read + 2, within_s=5.0)


def test_a_store_emptied_under_a_running_materializer_is_filled_again(
    kafka: KafkaSettings, stores: StoreSettings, tmp_path: Path
) -> None:
    view = toy.view("rings_emptied")
    topics.create(kafka, [topics.tile_topic(view.topic_out)])
    with RedisServer(tmp_path / "redis") as server:
        own = stores.model_copy(
            update={"redis_url": server.url, "plan_path": str(tmp_path / "plan.json")}
        )
        Plan((view,)).save(own.plan_path)
        produce(kafka, view.topic_out, _records(view, _rows(view, tiles=3)))
        client = redis.Redis.from_url(server.url)
        with _running("rings_emptied", kafka, own):
            eventually(lambda: None not in _held(own, view))
            before = _held(own, view)
            client.flushall()
            # One entity goes on; the others have fallen silent, and nothing but the topic knows them.
            newest = _row(view, 300, 5_000_002, 5)
            produce(kafka, view.topic_out, _records(view, [("s0", newest)]))
            eventually(lambda: _held(own, view) == before)
        # Lost while a batch was under way: the clock is back, the mark is not.
        client.delete(f"{own.project}:generation")
        Rings(own).delete(view.versioned)
        Rings(own).advance_clock({view.versioned: 1})
        with _running("rings_emptied", kafka, own):
            eventually(lambda: _held(own, view) == before)
        # Died while it filled the store: mark and clock are there, and so are the offsets of before.
        Rings(own).delete(view.versioned)
        Rings(own).advance_clock({view.versioned: 1})
        assert _unsettled(own, view) == [True], "whoever reads such rings must know"
        with _running("rings_emptied", kafka, own):
            eventually(lambda: _held(own, view) == before)
            eventually(lambda: _unsettled(own, view) == [False])
        client.close()


def _unsettled(stores: StoreSettings, view: View) -> list[bool]:
    service = Service("all", tuple((view.name, a.name) for a in view.aggregates))
    reader = VectorReader(stores, Plan((view,), (service,)), "all")
    read = reader.read({"station": ["s0"]}, np.array([toy.START_MS]))
    reader.close()
    assert read.unsettled is not None
    return [bool(mark) for mark in read.unsettled[:, 0]]
