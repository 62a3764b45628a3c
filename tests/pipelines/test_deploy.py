"""The slow one: a Flink session cluster, Feast, and jobs that really run."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from features.settings import StoreSettings
from features.views import Plan
from infra.local import process
from pipelines import deploy
from pipelines.flink_jobs import FlinkJobs, FlinkUnavailable
from pipelines.settings import FlinkSettings
from schemas import topics
from tests.conftest import stores_at
from tests.pipelines import toy
from tests.pipelines.records import committed, eventually, produce, produce_events

if TYPE_CHECKING:
    from schemas.settings import KafkaSettings

pytestmark = pytest.mark.slow
SEED = 11
CASE = "deployed"
VIEW = "station_levels"


def _define(functions: tuple[str, ...]) -> None:
    """`features.deployed`: a Feast module as a user would write it, but for this test alone."""
    from feast import Entity, Field, KafkaSource, StreamFeatureView  # noqa: PLC0415
    from feast.aggregation import Aggregation  # noqa: PLC0415
    from feast.data_format import JsonFormat  # noqa: PLC0415
    from feast.types import Float64, String  # noqa: PLC0415
    from feast.value_type import ValueType  # noqa: PLC0415

    from features.lake_source import LakeSource  # noqa: PLC0415

    source = KafkaSource(
        name=f"{CASE}_readings",
        topic=f"{CASE}.readings.valid",
        message_format=JsonFormat(schema_json=""),
        timestamp_field="event_time",
        batch_source=LakeSource(f"{CASE}_readings"),
    )
    station = Entity(name="station", join_keys=["station"], value_type=ValueType.STRING)
    hour, five_minutes = timedelta(hours=1), timedelta(minutes=5)
    view = StreamFeatureView(
        name=VIEW,
        entities=[station],
        schema=[Field(name="station", dtype=String)]
        + [Field(name=f"{f}_level", dtype=Float64) for f in functions],
        source=source,
        mode="sql",
        timestamp_field="event_time",
        aggregations=[
            Aggregation(column="level", function=f, time_window=hour, name=f"{f}_level")
            for f in functions
        ],
        enable_tiling=True,
        tiling_hop_size=five_minutes,
    )
    module = ModuleType(f"features.{CASE}")
    module.__spec__ = ModuleSpec(module.__name__, loader=None)
    module.station = station  # type: ignore[attr-defined]
    module.VIEW = view  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module


def _tiles(kafka: KafkaSettings, topic: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The last upsert of each tile."""
    found = {}
    for message in committed(kafka, topic):
        assert message.value() is not None, "a tombstone"
        row = msgspec.json.decode(message.value() or b"")
        found[row["station"], row["tile"]] = row
    return found


def _wanted(events: list[toy.Reading]) -> dict[tuple[str, str], dict[str, Any]]:
    grouped: dict[tuple[str, str], list[toy.Reading]] = defaultdict(list)
    for event in events:
        grouped[event.station, f"300/{event.event_time_ms // 300_000}"].append(event)
    wanted = {}
    for place, group in grouped.items():
        present = sorted((e for e in group if e.level is not None), key=lambda e: e.event_time_ms)
        levels = [e.level for e in present if e.level is not None]
        stamp = f"{present[-1].event_time_ms:015d}\x01{present[-1].event_id}\x01" if present else ""
        wanted[place] = {
            "station": place[0],
            "tile": place[1],
            "n": len(group),
            "count__level": len(levels),
            "sum__level": pytest.approx(sum(levels), rel=1e-9),
            "last__level": f"{stamp}{levels[-1]}" if levels else None,
            "clock_ms": max(e.event_time_ms for e in group),
        }
    return wanted


def _common(rows: dict[tuple[str, str], dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        place: {k: v for k, v in row.items() if not k.startswith("source_")}
        for place, row in rows.items()
    }


def test_definitions_become_jobs_once_and_tiles_are_whole_in_any_order(
    kafka: KafkaSettings, flink: FlinkSettings, redis_url: str, tmp_path: Path
) -> None:
    toy.register(CASE)
    stores = stores_at(tmp_path, redis_url)
    topics.apply(kafka, CASE)
    _define(("mean", "last"))
    would = deploy.plan(CASE, kafka, stores, flink)
    assert (would.diff.added, would.submitted) == ((f"view {VIEW}",), (VIEW,))
    assert not Path(stores.plan_path).exists()

    done = deploy.apply(CASE, kafka, stores, flink)
    tiles = Plan.load(stores.plan_path).view(VIEW).topic_out
    assert (done.submitted, done.topics) == ((VIEW,), (tiles,)) == (would.submitted, would.topics)
    assert would.diff.tables == done.diff.tables
    again = deploy.apply(CASE, kafka, stores, flink)
    assert (again.diff.unchanged, again.submitted, again.cancelled) == ((f"view {VIEW}",), (), ())

    events = [toy.reading(i, level=None if i % 9 == 0 else i / 7) for i in range(2_000)]
    random.Random(SEED).shuffle(events)
    topic = f"{CASE}.readings.valid"
    produce(kafka, topic, [(None, b"{}"), (None, b"not json"), (None, b'{"station": null}')])
    produce_events(kafka, topic, events)
    wanted = _wanted(events)
    eventually(lambda: sum(row["n"] for row in _tiles(kafka, tiles).values()) == len(events))
    assert _common(_tiles(kafka, tiles)) == wanted, f"seed {SEED}"
    # A quiet time later, what comes late still lands in its own tile.
    late = [toy.reading(7, level=1e6), toy.reading(1_999, level=-1.25)]
    late = [e.model_copy(update={"event_id": f"late-{e.event_id}"}) for e in late]
    produce_events(kafka, topic, late)
    eventually(lambda: sum(row["n"] for row in _tiles(kafka, tiles).values()) == len(events) + 2)

    _changed(kafka, flink, stores)


def _changed(kafka: KafkaSettings, flink: FlinkSettings, stores: StoreSettings) -> None:
    with FlinkJobs(flink) as cluster:
        before = cluster.of_view(VIEW)
        assert len(before) == 1
        _define(("mean", "max"))
        # What a start of the stack would do: it leaves to `apply` what needs a hand-over.
        deploy.start(CASE, kafka, stores, flink)
        assert cluster.of_view(VIEW) == before
        with _materializer(kafka, stores):
            done = deploy.apply(CASE, kafka, stores, flink)
        assert (done.diff.changed, done.submitted) == ((f"view {VIEW}",), (VIEW,))
        assert done.handed_over == (VIEW,)
        after = cluster.of_view(VIEW)
        assert len(after) == 1
        assert after[0].jid != before[0].jid
        tiles = _tiles(kafka, Plan.load(stores.plan_path).view(VIEW).topic_out)
        assert all("max__level" in row for row in tiles.values())
        cluster.cancel(after)
        assert cluster.alive() == []


@contextmanager
def _materializer(kafka: KafkaSettings, stores: StoreSettings) -> Iterator[None]:
    worker = toy.worker("materializer", CASE, kafka, stores)
    try:
        yield
    finally:
        worker.terminate()
        assert worker.wait(30) == 0


def test_a_cluster_that_is_not_there_is_said_in_a_sentence(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    nowhere = FlinkSettings(rest_port=process.free_port())
    with FlinkJobs(nowhere) as cluster, pytest.raises(FlinkUnavailable, match="headrace status"):
        cluster.alive()


def test_pyflink_is_never_imported_by_the_caller() -> None:
    assert importlib.util.find_spec("pyflink") is not None
    assert "pyflink" not in sys.modules
