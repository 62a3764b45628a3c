"""Hostile streams through a real Flink job: what a certificate stands on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from confluent_kafka.admin import AdminClient

from features.certify import certify
from features.hostile import stream
from features.views import Aggregate, Handover, JoinKey, Layout, View
from pipelines import certify_stream, flink_sql
from pipelines.flink_jobs import FlinkJobs
from pipelines.settings import FlinkSettings
from pipelines.tile_query import tile_query
from tests.features.readings import VIEW

if TYPE_CHECKING:
    from schemas.settings import KafkaSettings

pytestmark = pytest.mark.slow
SEEDS = range(8)
JOINT = View(
    name="joint_readings",
    topic="lab.readings.valid",
    table="lab_readings",
    event_id_field="event_id",
    join_keys=(JoinKey("sensor"), JoinKey("floor", "bigint")),
    columns={"sensor": "string", "floor": "bigint", "level": "bigint", "kind": "string"},
    aggregates=(
        Aggregate("kinds_5m", "kind", "count", 300, 60),
        Aggregate("level_sum_1h", "level", "sum", 3_600, 600),
        Aggregate("level_std_1h", "level", "std", 3_600, 600),
        Aggregate("level_first_1h", "level", "first", 3_600, 600),
        Aggregate("kinds_distinct_5m", "kind", "count_distinct", 300, 60),
        Aggregate("levels_distinct_1h", "level", "count_distinct", 3_600, 600),
    ),
)


def test_every_function_means_the_same_to_the_real_job_and_nothing_is_left_behind(
    kafka: KafkaSettings, flink: FlinkSettings
) -> None:
    streams = {
        view.name: (view, [e for seed in SEEDS for e in stream(view, seed).events])
        for view in (VIEW, JOINT)
    }
    before = set(AdminClient(kafka.client_config()).list_topics().topics)
    views = 0
    for name, rows in certify_stream.rows_of(streams, kafka, flink):
        verdict = certify(streams[name][0], SEEDS, lambda *_, rows=rows: rows)
        assert verdict.differences == 0, verdict.smallest
        assert verdict.compared > 1_000
        views += 1
    assert views == 2
    with FlinkJobs(flink) as cluster:
        assert cluster.alive() == []
    assert {
        name
        for name in AdminClient(kafka.client_config()).list_topics().topics
        if name.startswith((certify_stream.TOPIC, "features.certify_"))
    } <= before


def test_wrong_sql_is_caught(
    kafka: KafkaSettings, flink: FlinkSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that takes the tile from a rounded instant is off at the edges of tiles only."""
    right = tile_query

    def wrong(view: View, layout: Layout, life_s: int, handover: Handover | None) -> str:
        return right(view, layout, life_s, handover).replace(
            "`event_time_ms` / ", "(`event_time_ms` + 1) / "
        )

    monkeypatch.setattr(flink_sql, "tile_query", wrong)
    view = msgspec.structs.replace(VIEW, aggregates=VIEW.aggregates[:2])
    events = [e for seed in SEEDS for e in stream(view, seed).events]
    streams = {view.name: (view, events)}
    rows = dict(certify_stream.rows_of(streams, kafka, flink))[view.name]
    verdict = certify(view, SEEDS, lambda *_: rows)
    assert verdict.differences > 0
    smallest = verdict.smallest
    assert smallest is not None
    assert smallest.batch == smallest.reference != smallest.stream
