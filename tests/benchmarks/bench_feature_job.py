"""Row b: a feature job's events a second, three windows × five aggregates, 100,000 entities.

All jobs run from the beginning, idle. A burst is written within one transaction and shown by its commit; the clock stops
when the burst's last upsert stands in the output topic, by the broker's clock. The limit is a bare consumer that decodes
the same burst. CPU is that of Flink's TaskManager, in which only the contender's job has work, or of Quix' process.
"""

from __future__ import annotations

import os
import subprocess
import time
from importlib.metadata import version
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import msgspec
import pytest

from pipelines.flink_jobs import submit
from pipelines.flink_sql import Job, job
from schemas.settings import FETCH_WAIT_MS
from tests.benchmarks import levels, peers
from tests.benchmarks.contenders import (
    Contender,
    Elsewhere,
    Run,
    measured,
    race,
    record,
    row,
)
from tests.flink import cancel_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from confluent_kafka import Consumer

    from features.views import View
    from pipelines.settings import FlinkSettings
    from schemas.settings import KafkaSettings
    from tests.flink import RunningFlink

ENTITIES = 100_000
BURST, BURST_LARGE = 50_000, 500_000
VIEW = levels.view("rate")
OUT = {"ours": VIEW.topic_out, "by hand": "byhand.out", "quix": "quix.out"}
IN = {"ours": VIEW.topic, "by hand": "byhand.in", "quix": "quix.in"}
COMPARED = ("n", "count__level", "sum__level", "sumsq__level", "max__level", "clock_ms")


class Level(msgspec.Struct):
    event_time_ms: int
    event_id: str
    station: str
    level: float


def by_hand(view: View, kafka: KafkaSettings, flink: FlinkSettings) -> Job:
    """The tiles as somebody who knows Flink would write them, with the same settings of the job."""
    generated = job(view, kafka, flink)
    server = f"'properties.bootstrap.servers' = '{kafka.bootstrap_servers}'"
    source = f"""
        CREATE TEMPORARY TABLE source (event_time_ms BIGINT, station STRING, level DOUBLE) WITH (
        'connector' = 'kafka', 'topic' = '{IN["by hand"]}', {server},
        'properties.isolation.level' = 'read_committed', 'properties.fetch.max.wait.ms' = '{FETCH_WAIT_MS}',
        'scan.startup.mode' = 'earliest-offset', 'format' = 'json')"""
    sink = f"""
        CREATE TEMPORARY TABLE sink (station STRING, tile STRING, n BIGINT, count__level BIGINT,
        sum__level DOUBLE, sumsq__level DOUBLE, max__level DOUBLE, clock_ms BIGINT,
        PRIMARY KEY (station, tile) NOT ENFORCED) WITH ('connector' = 'upsert-kafka', {server},
        'topic' = '{OUT["by hand"]}', 'key.format' = 'json', 'value.format' = 'json')"""
    # Grouped by the very expression that is the sink's key: by the number in it, Flink no longer knows that a tile is one
    # key, and writes a tombstone before an update (60,633 records for 50,000 events).
    tile = "CONCAT('1800/', CAST(event_time_ms / 1800000 AS STRING))"
    insert = f"""
        INSERT INTO sink SELECT station, {tile}, COUNT(*), COUNT(level), SUM(level),
        SUM(level * level), MAX(level), MAX(event_time_ms) FROM source GROUP BY station, {tile}
    """  # noqa: S608 - our own names
    return Job("byhand", generated.options, (source, sink), (insert,))


@pytest.fixture(scope="module")
def jobs(kafka: KafkaSettings, cluster: RunningFlink) -> Iterator[dict[str, int]]:
    """All jobs, running: the process in which each contender works."""
    flink = cluster.settings
    levels.create(kafka, *IN.values(), *OUT.values())
    made = [job(VIEW, kafka, flink), by_hand(VIEW, kafka, flink)]
    submit(made, flink)
    quix = subprocess.Popen(
        [
            str(peers.python()),
            "-W",
            "ignore",
            "-m",
            "tests.benchmarks.peer_quix",
            kafka.bootstrap_servers,
            IN["quix"],
            OUT["quix"],
        ],
        cwd=peers.ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    taskmanager = cluster.taskmanager.pid or 0
    yield {"ours": taskmanager, "by hand": taskmanager, "quix": quix.pid}
    quix.kill()
    quix.wait()
    cancel_all(flink)


class Bursts:
    """Bursts through the contenders' topics; each contender gets the same ones in the same order."""

    def __init__(self, kafka: KafkaSettings, pids: Mapping[str, int], size: int) -> None:
        self._kafka, self._pids, self._size = kafka, pids, size
        self._seeds = {name: count() for name in IN}
        self._outputs = {name: levels.consumer(kafka, topic) for name, topic in OUT.items()}
        self.spoken = dict.fromkeys(OUT, 0)

    def of(self, size: int, first: int) -> Self:
        """From now on bursts of this size, other ones than before."""
        self._size, self._seeds = size, {name: count(first) for name in IN}
        return self

    def contender(self, name: str) -> Contender:
        def work() -> Run:
            records = levels.events(self._size, ENTITIES, next(self._seeds[name]))
            producer = levels.produce_at_once(self._kafka, IN[name], records)
            there, began_ms = Elsewhere(self._pids[name]), time.time() * 1000
            producer.commit_transaction(60)
            ended_ms = self._last_ms(name)
            return there.run((ended_ms - began_ms) / 1000)

        return work

    def _last_ms(self, name: str) -> float:
        """When the last of a burst's upserts was appended; every event gives one."""
        left, last, deadline = self._size, 0, time.monotonic() + 180
        while left:
            for message in self._outputs[name].consume(10_000, 0.05):
                assert message.error() is None, message.error()
                left, last = left - 1, max(last, message.timestamp()[1])
            assert time.monotonic() < deadline, f"{name}: {left} upserts are missing"
        self.spoken[name] += self._size
        return last

    def limit(self) -> Contender:
        """Consume and decode what "ours" was given last."""

        def work() -> Run:
            decode = msgspec.json.Decoder(Level).decode
            reader = levels.consumer(self._kafka, IN["ours"])
            run = measured(lambda: _consumed(reader, self._size, decode))
            reader.close()
            return run

        return work


def _consumed(reader: Consumer, wanted: int, decode: Any) -> None:
    while wanted > 0:
        messages = reader.consume(10_000, 0.05)
        wanted -= len([decode(m.value()) for m in messages if m.error() is None])


def tiles(kafka: KafkaSettings, name: str, records: int) -> dict[tuple[str, str], tuple[Any, ...]]:
    """The last upsert of each tile."""
    found, reader = {}, levels.consumer(kafka, OUT[name])
    while records > 0:
        for message in reader.consume(10_000, 0.05):
            records -= 1
            fields = msgspec.json.decode(message.value() or b"")
            found[fields["station"], fields["tile"]] = tuple(fields[c] for c in COMPARED)
    reader.close()
    return found


@pytest.mark.timeout(900)
def test_bench_feature_job(kafka: KafkaSettings, jobs: dict[str, int]) -> None:
    bursts = Bursts(kafka, jobs, BURST)
    contenders = {name: bursts.contender(name) for name in IN} | {"limit": bursts.limit()}
    runs = race(contenders)
    wanted = tiles(kafka, "ours", bursts.spoken["ours"])
    for name in ("by hand", "quix"):
        assert tiles(kafka, name, bursts.spoken[name]) == wanted, f"{name}: other tiles"
    note = "CPU and memory of ours and by hand are those of the one TaskManager"
    title = f"feature job, {BURST:,} events, {ENTITIES:,} entities, 15 features"
    versions = {"apache-flink": version("apache-flink"), "quixstreams": peers.pinned("quixstreams")}
    record(row("b", title, runs, versions, note))
    if os.environ.get("BENCH") != "large":
        return
    large = bursts.of(BURST_LARGE, 1_000)
    for name in large.spoken:
        large._outputs[name] = bursts._outputs[name]
    contenders = {n: large.contender(n) for n in ("ours", "by hand")} | {"limit": large.limit()}
    title = f"feature job, {BURST_LARGE:,} events, {ENTITIES:,} entities, 15 features"
    record(row("b", title, race(contenders, repeats=2), versions, note))
