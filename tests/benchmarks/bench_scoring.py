"""Row f: how many requests a second are scored out of a backlog, one by one and by the batch, for three models.

Ours is the real scorer in a process of its own: validation, rings from Redis, the whole result, exactly once. The limit is
consume → decode → predict → encode → produce in batches as large, at least once. Both once more with batches of one row,
which in ours is a transaction a request (`batch_bytes_max=1`: a batch holds one record at least). The peers are one Ray
Serve call an event, plain and with `@serve.batch`. The seconds of a run are those of 1,000 rows.

Then 1, 2 and 4 replicas beside each other, one number of them after the other: they share one group. Four share four partitions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from features.progress import WHOLE, WHOLE_KEY
from features.ring import RingFormat
from features.rings import Rings, entity_key
from features.vectors import VectorReader
from infra.local.kafka import KafkaServer
from schemas import topics
from schemas.flights import ORIGINS, SERVICE
from schemas.settings import KafkaSettings
from serving import release_log
from serving.settings import ServingSettings
from tests.benchmarks.backlog import AIRCRAFT, CLOCK_MS, Backlogs, Way, requests
from tests.benchmarks.contenders import REPEATS, race, record, row, shown_ms
from tests.benchmarks.onnx_kinds import KINDS
from tests.benchmarks.peers import ROOT
from tests.benchmarks.raw_topics import create
from tests.benchmarks.scoring_work import Asked, ByHand, Work, matrix
from tests.conftest import stores_at
from tests.faults.stage import Worker
from tests.serving import model_folders

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from features.settings import StoreSettings
    from tests.benchmarks.contenders import Run

CASE, VERSION = "flights", "v0001"
SMALL = os.environ.get("BENCH") == "small"
REPEATED = 2 if SMALL else REPEATS
# Rows of a run.
BATCH = ServingSettings().batch_rows_max
BY_BATCH, BY_ONE, BY_CALL = (2_000, 100, 300) if SMALL else (20_000, 500, 2_000)
REPLICAS = {"ours": 1, "2 replicas": 2, "4 replicas": 4}
PACKAGES = ("confluent-kafka", "onnxruntime", "ray", "scikit-learn", "skl2onnx")
PEERS = {"each": "Serve handle", "batched": "@serve.batch"}


@dataclass
class Rig:
    """What the contenders run on."""

    kafka: KafkaSettings
    stores: StoreSettings
    folder: Path
    features: tuple[float, ...]


class Made(NamedTuple):
    """A model: its folder's parent, and what a process by hand is told."""

    name: str
    models: Path
    work: Work

    @property
    def told(self) -> str:
        """For a command line."""
        return json.dumps(self.work)


@pytest.fixture(scope="module")
def rig(jars: Path, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A broker of its own, a release, and a ring for every aircraft and origin; no worker yet."""
    folder = tmp_path_factory.mktemp("scoring")
    stores = stores_at(folder, redis_url).model_copy(update={"project": "scoring"})
    model_folders.plan().save(stores.plan_path)
    with KafkaServer(folder / "kafka", jars / "kafka") as server:
        kafka = KafkaSettings(bootstrap_servers=server.bootstrap_servers)
        topics.apply(kafka, CASE)
        release = release_log.first(CASE, CASE, VERSION, event_time_ms=CLOCK_MS, decided_by="bench")
        release_log.publish(kafka, release)
        yield Rig(kafka, stores, folder, _filled(stores))


def _filled(stores: StoreSettings) -> tuple[float, ...]:
    """Rings in Redis, all alike; what the scorer reads from them."""
    plan, rings = model_folders.plan(), Rings(stores)
    entities = {
        "origin_departures": ORIGINS,
        "aircraft_departures": [f"N{n:04}" for n in range(AIRCRAFT)],
    }
    for view in plan.views:
        ring = RingFormat(view).empty()
        for layout in view.layouts:
            tile = CLOCK_MS // layout.hop_ms
            ring[f"tile_{layout.hop_s}"][:, tile % layout.tiles] = tile
            ring[f"n_{layout.hop_s}"][:, tile % layout.tiles] = 5
            ring[f"partials_{layout.hop_s}"][:, :, tile % layout.tiles] = 5.0
        ring["clock_ms"] = CLOCK_MS - 60_000
        packed = ring.tobytes()
        rings.write((view.versioned, entity_key([name]), packed) for name in entities[view.name])
        rings.write([(view.versioned, WHOLE_KEY, WHOLE)])
    rings.close()
    reader = VectorReader(stores, plan, SERVICE)
    asked = {"origin": ["JFK"], "tailnum": ["N0001"]}
    read = reader.read(asked, np.array([CLOCK_MS])).values[0]
    reader.close()
    assert np.isfinite(read).all(), read
    return tuple(read.tolist())


def made(rig: Rig, kind: str, name: str) -> tuple[Made, list[float]]:
    """A model of a kind on disk, under a name, and what it says to the requests."""
    asked = [
        Asked(
            r.request_id,
            r.carrier,
            r.origin,
            r.distance_miles,
            r.scheduled_hour,
            r.scheduled_weekday,
        )
        for r in requests(BY_BATCH, "made")
    ]
    models = rig.folder / name
    models.mkdir()
    rows = matrix(asked, rig.features)
    folder = model_folders.write(models, VERSION, model=KINDS[kind](rows))
    work = Work(str(folder / "model.onnx"), rig.features)
    return Made(name, models, work), ByHand(work).scores(rows).tolist()


@contextmanager
def ours(rig: Rig, model: Made, *, rows: int, replicas: int = 1) -> Iterator[Way]:
    """So many scorers, with batches of one row or by default."""
    bounds = {"batch_bytes_max": 1} if rows == 1 else {}
    serving = ServingSettings(models_dir=str(model.models), **bounds)
    workers = [_scorer(rig, serving, slot) for slot in range(replicas)]
    try:
        size = BY_ONE if rows == 1 else BY_BATCH
        pids = tuple(worker.process.pid for worker in workers)
        yield Way(f"{CASE}.requests", f"{CASE}.results", pids, size)
    finally:
        for worker in workers:
            worker.stop()


def _scorer(rig: Rig, serving: ServingSettings, slot: int) -> Worker:
    sections = {"kafka": rig.kafka, "stores": rig.stores, "serving": serving}
    told = rig.folder / f"scorer{slot}.json"
    dumped = {name: section.model_dump(mode="json") for name, section in sections.items()}
    told.write_text(json.dumps({"case": CASE, "slot": slot} | dumped))
    command = ["tests.serving.scorer_process", str(told)]
    return Worker("scorer", rig.folder / f"scorer{slot}.log", command)


@contextmanager
def limit(rig: Rig, model: Made, *, rows: int) -> Iterator[Way]:
    """By hand."""
    source, sink = f"{model.name}.bare{rows}.in", f"{model.name}.bare{rows}.out"
    create(rig.kafka, source, sink)
    command = [sys.executable, "-m", "tests.benchmarks.bare_scoring", rig.kafka.bootstrap_servers]
    child = subprocess.Popen(
        [*command, source, sink, str(rows), model.told], cwd=ROOT, env=_environment()
    )
    try:
        yield Way(source, sink, (child.pid,), BY_ONE if rows == 1 else BY_BATCH)
    finally:
        child.kill()
        child.wait()


@contextmanager
def peers(rig: Rig, model: Made) -> Iterator[dict[str, Way]]:
    """Ray Serve, both ways; returns when they run."""
    ways = {
        way: Way(f"{model.name}.{way}.in", f"{model.name}.{way}.out", (), BY_CALL) for way in PEERS
    }
    names = [name for way in ways.values() for name in (way.source, way.sink)]
    create(rig.kafka, *names)
    servers = rig.kafka.bootstrap_servers
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.peer_scoring", servers]
    child = subprocess.Popen(
        [*command, model.told, *names], cwd=ROOT, stdout=subprocess.PIPE, env=_environment()
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        yield ways
    finally:
        child.terminate()
        child.wait()


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("kind", KINDS)
def test_bench_scoring(rig: Rig, kind: str) -> None:
    model, expected = made(rig, kind, kind)
    backlogs = Backlogs(rig.kafka, kind, expected)
    runs: dict[int, dict[str, list[Run]]] = {}
    for rows in (BATCH, 1):
        with ExitStack() as running:
            ways = {
                name: running.enter_context(way(rig, model, rows=rows))
                for name, way in (("ours", ours), ("limit", limit))
            }
            runs[rows] = race({n: backlogs.contender(w) for n, w in ways.items()}, REPEATED)
    with peers(rig, model) as asked:
        calls = {PEERS[way]: backlogs.contender(where) for way, where in asked.items()}
        theirs = race(calls, REPEATED)
    _record(f"scoring, {kind}, by the batch, 1,000 rows", runs[BATCH] | theirs)
    each = {PEERS["each"]: theirs[PEERS["each"]]}
    _record(f"scoring, {kind}, one by one, 1,000 rows", runs[1] | each)


@pytest.mark.timeout(1_200)
def test_bench_replicas(rig: Rig) -> None:
    model, expected = made(rig, "trees", "replicas")
    backlogs = Backlogs(rig.kafka, model.name, expected)
    runs: dict[str, list[Run]] = {}
    for name, replicas in REPLICAS.items():
        with ours(rig, model, rows=BATCH, replicas=replicas) as way:
            runs |= race({name: backlogs.contender(way)}, REPEATED)
    with limit(rig, model, rows=BATCH) as way:
        runs |= race({"limit": backlogs.contender(way)}, REPEATED)
    note = f"rows a second: {_rates(runs)}; one after the other, not by turns; two cores"
    record(row("f", "scoring, trees, replicas, 1,000 rows", runs, PACKAGES, note))


def _record(name: str, runs: dict[str, list[Run]]) -> None:
    """With the rows a second of each."""
    note = f"rows a second: {_rates(runs)}; CPU and memory of the peers are not counted; no GPU"
    record(row("f", name, runs, PACKAGES, note))


def _rates(runs: dict[str, list[Run]]) -> str:
    return ", ".join(f"{one} {1e6 / shown_ms(of):,.0f}" for one, of in runs.items())
