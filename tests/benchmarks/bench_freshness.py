"""Row c: an event's way until it can be read online, at 5,000 events a second.

Open loop: every event has its instant, and the clock runs from there, not from when it was sent. One event in fifty is
the first of an entity of its own; the reader asks for those until they are there. The limit is a bare consumer that sets
one key an event; Feast's `push()` writes the event's value into its own Redis store and merges nothing.
"""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.metadata import version
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import redis
from confluent_kafka import Producer

from features.rings import entity_key
from features.views import Plan
from pipelines.flink_jobs import submit
from pipelines.flink_sql import job
from tests.benchmarks import levels
from tests.benchmarks.contenders import REPEATS, Contender, Run, race, record, row
from tests.benchmarks.peers import ROOT, Peer, pinned
from tests.flink import cancel_all
from tests.pipelines import toy
from tests.pipelines.records import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from features.settings import StoreSettings
    from pipelines.settings import FlinkSettings
    from schemas.settings import KafkaSettings

RATE, SECONDS, WAITED_EVERY = 5_000, 5, 50
ENTITIES = 10_000
# What is not there by then counts with the time that was waited for it.
GIVE_UP_S = 20.0
# The JVMs of broker and job compile for about a minute, on the same two cores.
WARM_UPS = 12
VIEW = levels.view("fresh")
CASE = "fresh"
PUSHED = (1, 100, 1_000)


class Way(NamedTuple):
    """Into the store: the topic, and where a station is found."""

    topic: str
    key: str

    def keys(self, stations: Sequence[str]) -> list[str | bytes]:
        return [self.key.format(s) for s in stations]


@pytest.fixture(scope="module")
def ways(
    kafka: KafkaSettings, flink: FlinkSettings, stores: StoreSettings
) -> Iterator[dict[str, Way]]:
    """Our job and materializer, and the bare loop, running."""
    toy.register(CASE)
    Plan((VIEW,)).save(stores.plan_path)
    levels.create(kafka, VIEW.topic, VIEW.topic_out, "bare.in")
    submit([job(VIEW, kafka, flink)], flink)
    command = [sys.executable, "-m", "tests.benchmarks.bare_set"]
    bare = subprocess.Popen(
        [*command, kafka.bootstrap_servers, "bare.in", stores.redis_url], cwd=ROOT
    )
    ours = toy.worker("materializer", CASE, kafka, stores)
    place = f"{stores.project}:{VIEW.versioned}:{entity_key(['{}']).decode()}"
    yield {"ours": Way(VIEW.topic, place), "limit": Way("bare.in", "bare:{}")}
    for child in (bare, ours):
        child.kill()
        child.wait()
    cancel_all(flink)


class Drive:
    """Sends at the rate and looks for what is waited for, in one loop of about a millisecond."""

    def __init__(self, kafka: KafkaSettings, stores: StoreSettings) -> None:
        self._kafka = kafka
        self._redis = redis.Redis.from_url(stores.redis_url)
        self._numbers = count()
        self.latencies_ms: dict[str, list[np.ndarray]] = {}

    def waited(self, run: int, seconds: int = SECONDS) -> list[str]:
        """The stations that are waited for in a run."""
        return [f"w{run}.{n}" for n in range(0, RATE * seconds, WAITED_EVERY)]

    def contender(self, name: str, way: Way) -> Contender:
        """A run of this way; its "seconds" are the 99th percentile."""

        def work() -> Run:
            stations = self.waited(next(self._numbers))
            return Run(self.run(name, way.topic, stations, way.keys(stations)), 0.0, 0.0)

        return work

    def run(
        self, name: str, topic: str, stations: Sequence[str], keys: Sequence[str | bytes]
    ) -> float:
        """Returns the 99th percentile in seconds; all latencies are kept."""
        events = _events(stations)
        producer = Producer({**self._kafka.client_config(), "linger.ms": 0})
        seen_s = np.full(len(keys), np.nan)
        began, sent, first = time.perf_counter(), 0, 0
        while first < len(keys):
            now = time.perf_counter() - began
            due = min(len(events), int(now * RATE))
            for key, value in events[sent:due]:
                producer.produce(topic, value, key)
            producer.poll(0)
            sent = due
            # Those sent, from the first that has not been seen.
            last = min(len(keys), (sent + WAITED_EVERY - 1) // WAITED_EVERY)
            open_ = [n for n in range(first, last) if np.isnan(seen_s[n])]
            for n, found in zip(open_, self._there([keys[n] for n in open_]), strict=True):
                if found:
                    seen_s[n] = time.perf_counter() - began
            while first < len(keys) and not np.isnan(seen_s[first]):
                first += 1
            if now > SECONDS + GIVE_UP_S:
                break
            time.sleep(0.0005)
        producer.flush(10)
        intended_s = np.arange(len(keys)) * WAITED_EVERY / RATE
        waited_s = np.where(np.isnan(seen_s), time.perf_counter() - began, seen_s) - intended_s
        self.latencies_ms.setdefault(name, []).append(1000 * waited_s)
        return float(np.percentile(waited_s, 99))

    def _there(self, keys: Sequence[str | bytes]) -> list[int]:
        """Which keys there are, whatever they hold."""
        pipeline = self._redis.pipeline(transaction=False)
        for key in keys:
            pipeline.exists(key)
        return list(pipeline.execute()) if keys else []


def _events(stations: Sequence[str]) -> list[levels.Record]:
    """The run's events: every fiftieth is of a station that is waited for."""
    dice = np.random.default_rng(len(stations))
    others = dice.integers(0, ENTITIES, len(stations) * WAITED_EVERY).tolist()
    return [
        levels.event(n, f"s{other}" if n % WAITED_EVERY else stations[n // WAITED_EVERY], other / 7)
        for n, other in enumerate(others)
    ]


@pytest.mark.timeout(900)
def test_bench_freshness(
    kafka: KafkaSettings, stores: StoreSettings, ways: dict[str, Way], tmp_path: Path
) -> None:
    drive = Drive(kafka, stores)
    for _ in range(WARM_UPS):
        for name, way in ways.items():
            drive.contender(name, way)()
    runs = race({name: drive.contender(name, way) for name, way in ways.items()})
    runs |= {
        f"feast push {rows:,}": pushed(drive, kafka, stores, tmp_path, rows) for rows in PUSHED
    }
    shown = "; ".join(f"{name} {summary(drive, name)}" for name in drive.latencies_ms)
    note = f"times are p99 of an event; Feast ran once a size, and is compared with our median. {shown}"
    versions = {"feast": pinned("feast"), "apache-flink": version("apache-flink")}
    record(row("c", "freshness, 5,000 events a second, p99", runs, versions, note))


def pushed(
    drive: Drive, kafka: KafkaSettings, stores: StoreSettings, folder: Path, rows: int
) -> list[Run]:
    """One run of Feast, as many times as the others ran."""
    name = f"feast push {rows:,}"
    stations = drive.waited(1_000 + rows)
    topic = f"push{rows}.in"
    levels.create(kafka, topic)
    options = {
        "folder": str(folder),
        "project": f"push{rows}",
        "redis": stores.redis_url.removeprefix("redis://").partition("/")[0],
        "servers": kafka.bootstrap_servers,
        "topic": topic,
        "waited": stations,
        "rows": rows,
    }
    with Peer("peer_push", **options) as peer:
        keys = [bytes.fromhex(key) for key in peer.ask("keys")]
        peer.tell("run")
        ready(kafka, topic, stores, keys[0], stations[0])
        return [Run(drive.run(name, topic, stations, keys), 0.0, 0.0)] * REPEATS


def ready(
    kafka: KafkaSettings, topic: str, stores: StoreSettings, key: bytes, station: str
) -> None:
    """Wait until the peer has taken a first event, and forget it."""
    levels.produce(kafka, topic, [levels.event(0, station, 1.0)])
    store = redis.Redis.from_url(stores.redis_url)
    eventually(lambda: bool(store.exists(key)))
    store.delete(key)


def summary(drive: Drive, name: str) -> str:
    """Percentiles over the runs that count."""
    runs = drive.latencies_ms[name][-REPEATS:]
    p50, p95, p99 = np.percentile(np.concatenate(runs), [50, 95, 99])
    return f"p50 {p50:,.1f}, p95 {p95:,.1f}, p99 {p99:,.1f} ms"
