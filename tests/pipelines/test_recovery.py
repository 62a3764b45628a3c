"""State that jobs leave: found by what they compute, pruned, and gone on from by a real cluster that was killed."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from hypothesis import given
from hypothesis import strategies as st

from features.views import Aggregate, JoinKey, View
from infra.local import process
from infra.local.flink import FlinkCluster
from pipelines.flink_jobs import FlinkJobs, submit
from pipelines.flink_sql import Job, job
from pipelines.job_health import JobHealth, job_health
from pipelines.recovery import WHOLE, Recovery, meaning
from pipelines.settings import FlinkSettings
from schemas import topics
from schemas.settings import KafkaSettings
from tests.pipelines import toy
from tests.pipelines.records import committed, eventually, produce_events

if TYPE_CHECKING:
    from infra.local.engine import Engine

CASE = "recovered"
TOPIC = f"{CASE}.readings.valid"
VIEW = View(
    name="recovered_levels",
    topic=TOPIC,
    table="recovered_readings",
    event_id_field="event_id",
    join_keys=(JoinKey("station"),),
    columns={"level": "double"},
    aggregates=(
        Aggregate("mean_level", "level", "mean", 3_600, 300),
        Aggregate("last_level", "level", "last", 3_600, 300),
    ),
)


def _job(view: View = VIEW, address: str = "127.0.0.1:1") -> Job:
    return job(view, KafkaSettings(bootstrap_servers=address), FlinkSettings())


def _checkpoint(home: Path, run: str, number: int, *, whole: bool = True, age_s: int = 0) -> Path:
    path = home / run / f"chk-{number}"
    path.mkdir(parents=True)
    if whole:
        (path / WHOLE).write_bytes(b"state")
        os.utime(path / WHOLE, (1e9 - age_s, 1e9 - age_s))
    return path


def _home(recovery: Recovery, of: Job) -> Path:
    return Path(recovery.options(of)["execution.checkpointing.dir"].removeprefix("file://"))


@given(port=st.integers(1, 65_535))
def test_state_belongs_to_a_definition_wherever_kafka_is(port: int) -> None:
    moved = _job(address=f"127.0.0.1:{port}")
    assert meaning(moved) == meaning(_job())
    other = msgspec.structs.replace(VIEW, aggregates=VIEW.aggregates[:1])
    assert meaning(_job(other)) != meaning(_job())
    assert meaning(replace(moved, options={**moved.options, "x": "1"})) != meaning(moved)


def test_the_newest_whole_checkpoint_is_found_and_the_rest_pruned(tmp_path: Path) -> None:
    recovery = Recovery(tmp_path)
    mine = _job()
    assert recovery.newest(mine) is None
    assert "execution.state-recovery.path" not in recovery.options(mine)
    _checkpoint(_home(recovery, mine), "first", 9, age_s=60)
    newest = _checkpoint(_home(recovery, mine), "second", 3)
    _checkpoint(_home(recovery, mine), "second", 4, whole=False)
    other = replace(mine, options={**mine.options, "parallelism.default": "2"})
    _checkpoint(_home(recovery, other), "third", 1)
    older = _job(msgspec.structs.replace(VIEW, aggregates=VIEW.aggregates[:1]))
    _checkpoint(_home(recovery, older), "fifth", 1)
    elsewhere = _job(msgspec.structs.replace(VIEW, name="recovered_levels_too"))
    _checkpoint(_home(recovery, elsewhere), "fourth", 1)

    assert recovery.newest(mine) == newest
    assert recovery.options(mine)["execution.state-recovery.path"] == newest.as_uri()
    recovery.prune(mine)
    assert recovery.newest(mine) == newest
    assert not (_home(recovery, mine) / "first").exists()
    assert recovery.newest(other) is None
    assert recovery.newest(elsewhere), "another view, although its name begins alike"
    assert recovery.newest(older), "a version that may come back"
    recovery.drop(older.view)
    assert recovery.newest(older) is None
    assert recovery.newest(mine) == newest
    recovery.forget([mine])
    assert recovery.newest(mine) is None


def test_state_on_another_machine_is_left_alone(tmp_path: Path) -> None:
    assert Recovery.of(None) is None
    assert Recovery.of("s3://bucket/checkpoints") is None
    assert Recovery.of((tmp_path / "missing").as_uri()) is None
    assert Recovery.of(tmp_path.as_uri()) == Recovery(tmp_path)


def _counted(kafka: KafkaSettings) -> int:
    """Events in the last upsert of all tiles."""
    tiles = {}
    for message in committed(kafka, VIEW.topic_out):
        row = msgspec.json.decode(message.value() or b"{}")
        tiles[row["station"], row["tile"]] = row["n"]
    return sum(tiles.values())


def _drop_events(kafka: KafkaSettings) -> None:
    """Delete every event there was, so that only state can still count them."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    partitions = admin.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions
    everything = [TopicPartition(TOPIC, partition, -1) for partition in partitions]
    for future in admin.delete_records(everything).values():
        future.result(10)


def _only(flink: FlinkSettings) -> JobHealth:
    (only,) = job_health(flink)
    return only


def _flink(cluster: FlinkCluster) -> FlinkSettings:
    return FlinkSettings(
        rest_port=cluster.rest_port,
        connector_jar=str(cluster.connector),
        checkpoint_interval_s=1,
    )


@pytest.mark.nightly
@pytest.mark.slow
def test_a_job_goes_on_from_its_state_after_the_cluster_was_killed(
    kafka: KafkaSettings, jars: Path, tmp_path: Path
) -> None:
    toy.register(CASE)
    topics.apply(kafka, CASE)
    topics.create(kafka, [topics.tile_topic(VIEW.topic_out)])
    connector = next((jars / "flink").glob("flink-sql-connector-kafka-*.jar"))
    cluster = FlinkCluster(
        tmp_path, connector, rest_port=process.free_port(), rpc_port=process.free_port(), slots=2
    )
    flink = _flink(cluster)
    mine = job(VIEW, kafka, flink)
    jobmanager, taskmanager = cluster.engines()
    with jobmanager, taskmanager:
        submit([mine], flink, lasting=True)
        produce_events(kafka, TOPIC, [toy.reading(i, level=i / 7) for i in range(300)])
        eventually(lambda: _counted(kafka) == 300)
        counted_bytes = _checkpointed(flink)
        assert _only(flink).restored is False
        for engine in (taskmanager, jobmanager):
            _kill(engine)
    _drop_events(kafka)

    jobmanager, taskmanager = cluster.engines()
    said: list[str] = []
    with jobmanager, taskmanager:
        submit([mine], flink, said.append, lasting=True)
        assert [line.endswith("from its checkpoint") for line in said] == [True]
        eventually(lambda: _only(flink).restored is True)
        # Into tiles that hold events which no longer exist anywhere else.
        produce_events(kafka, TOPIC, [_again(i) for i in range(0, 300, 3)])
        eventually(lambda: _counted(kafka) == 400)
        eventually(lambda: (_only(flink).state_bytes or 0) >= counted_bytes)
        assert _only(flink).restarts == 0
        assert (_only(flink).checkpoint_age_s or 99) < 30
        _unreadable_state_is_no_reason_to_stand_still(mine, flink)


def _again(i: int) -> toy.Reading:
    return toy.reading(i, level=i / 7).model_copy(update={"event_id": f"again-{i}"})


def _checkpointed(flink: FlinkSettings) -> int:
    """Wait for a checkpoint that begins from now on; its size."""
    asked_s = time.time()

    def _newer() -> bool:
        age_s = _only(flink).checkpoint_age_s
        return age_s is not None and time.time() - age_s > asked_s

    eventually(_newer)
    return _only(flink).state_bytes or 0


def _kill(engine: Engine) -> None:
    engine.stop_grace_s = 0.0
    engine.stop()


def _unreadable_state_is_no_reason_to_stand_still(mine: Job, flink: FlinkSettings) -> None:
    with FlinkJobs(flink) as cluster:
        cluster.cancel(cluster.alive())
        recovery = cluster.recovery()
        assert recovery
        newest = recovery.newest(mine)
        assert newest, "a cancelled job leaves its state too"
        (newest / WHOLE).write_bytes(b"torn")
        said: list[str] = []
        submit([mine], flink, said.append, lasting=True)
        assert [line.partition(mine.name)[0] for line in said] == ["cannot restore ", "submitted "]
        assert [one.name for one in cluster.alive()] == [mine.name]
    eventually(lambda: [h.restored for h in job_health(flink) if h.state == "RUNNING"] == [False])
