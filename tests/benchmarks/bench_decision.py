"""Row a: from a payment's instant to its committed answer, 1,000 a second; then more, until it breaks.

Ours is the whole way: the request is a feature event itself, goes through intake, four Flink jobs and the materializer into
the rings, and is scored exactly once on 35 columns (31 windows and two on-demand features of 4 inputs) by 150 trees. The
limit is a transactional echo. The peer is Flink with an exactly-once sink at one checkpoint a second, and one Ray Serve call
an event behind it; it is spared features and transaction.

Everything shares two cores: sender and reader are one process, the scorer a plain one (as fast as in a Ray Serve replica).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import pytest

from features.views import Plan
from infra.local.kafka import KafkaServer
from pipelines import deploy, onnx_model
from pipelines import payments as training
from pipelines.flink_jobs import submit
from pipelines.flink_sql import Job
from schemas import topics
from schemas.settings import FETCH_WAIT_MS, KafkaSettings
from serving import release_log
from serving.runtime import Expected
from serving.settings import ServingSettings
from tests.benchmarks.contenders import REPEATS, race, record, row
from tests.benchmarks.decisions import Decisions
from tests.benchmarks.peers import ROOT
from tests.benchmarks.raw_topics import create
from tests.conftest import stores_at
from tests.faults.stage import Worker
from tests.flink import running_flink
from tests.serving import model_folders

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from features.settings import StoreSettings
    from pipelines.settings import FlinkSettings

CASE, VERSION = "payments", "v0001"
RATE, SECONDS = 1_000, 10.0
# The broker's and Flink's JVMs compile for minutes, on the same two cores.
WARM_UP_S = 60.0
BEYOND = (500, 1_500, 2_000, 3_000, 4_000)
WAYS = {
    "ours": (f"{CASE}.requests", f"{CASE}.results"),
    "limit": ("echo.in", "echo.out"),
    "peer": ("peer.in", "peer.out"),
}
PEER = "Flink exactly once, Ray Serve handle"


@dataclass
class Rig:
    """What the contenders run on."""

    kafka: KafkaSettings
    stores: StoreSettings
    flink: FlinkSettings
    folder: Path
    model: Path
    inputs: int


@pytest.fixture(scope="module")
def rig(jars: Path, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Payments applied on engines of its own, with a model; no worker yet."""
    folder = tmp_path_factory.mktemp("decision")
    stores = stores_at(folder, redis_url).model_copy(update={"project": "decision"})
    with ExitStack() as running:
        flink = running.enter_context(running_flink(folder / "flink", jars, slots=6)).settings
        server = running.enter_context(KafkaServer(folder / "kafka", jars / "kafka"))
        kafka = KafkaSettings(bootstrap_servers=server.bootstrap_servers)
        topics.apply(kafka, CASE)
        deploy.apply(CASE, kafka, stores, flink)
        plan = Plan.load(stores.plan_path)
        inputs = len(Expected.of(CASE, plan).inputs)
        model = model_folders.write(
            folder / "models", VERSION, of=CASE, given=plan, model=trees(inputs)
        )
        release_log.publish(
            kafka,
            release_log.first(
                CASE, CASE, VERSION, event_time_ms=time.time_ns() // 1_000_000, decided_by="bench"
            ),
        )
        yield Rig(kafka, stores, flink, folder, model / "model.onnx", inputs)


def trees(inputs: int) -> object:
    """The use case's own estimator on made-up rows: what it costs does not depend on what it learnt."""
    dice = np.random.default_rng(1)
    matrix = dice.gamma(2.0, 20.0, (20_000, inputs)).astype(np.float32)
    fraud = matrix[:, 0] * matrix[:, 4] > np.quantile(matrix[:, 0] * matrix[:, 4], 0.95)
    return onnx_model.convert(training.train(matrix, fraud), inputs)


@contextmanager
def ours(rig: Rig) -> Iterator[None]:
    """Intake, materializer and scorer, each a process."""
    kafka, stores = rig.kafka.model_dump_json(), rig.stores.model_dump_json()
    serving = ServingSettings(models_dir=str(rig.folder / "models"))
    told = rig.folder / "scorer.json"
    sections = {"kafka": rig.kafka, "stores": rig.stores, "serving": serving}
    told.write_text(
        json.dumps(
            {"case": CASE, "slot": 0} | {n: s.model_dump(mode="json") for n, s in sections.items()}
        )
    )
    commands = {
        "intake": ["tests.pipelines.worker_process", "intake", CASE, kafka],
        "materializer": ["tests.pipelines.worker_process", "materializer", CASE, kafka, stores],
        "scorer": ["tests.serving.scorer_process", str(told)],
    }
    workers = [Worker(n, rig.folder / f"{n}.log", command) for n, command in commands.items()]
    try:
        yield
    finally:
        for worker in workers:
            worker.stop()


@contextmanager
def echo(rig: Rig) -> Iterator[None]:
    """The limit."""
    create(rig.kafka, *WAYS["limit"])
    command = [sys.executable, "-m", "tests.benchmarks.bare_echo", rig.kafka.bootstrap_servers]
    child = subprocess.Popen([*command, *WAYS["limit"]], cwd=ROOT)
    try:
        yield
    finally:
        child.kill()
        child.wait()


@contextmanager
def peer(rig: Rig) -> Iterator[None]:
    """Flink's job and Ray Serve; returns when both run."""
    source, sink = WAYS["peer"]
    create(rig.kafka, source, "peer.mid", sink)
    submit([passing(rig.kafka, source, "peer.mid")], rig.flink)
    servers = rig.kafka.bootstrap_servers
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.peer_handle", servers]
    child = subprocess.Popen(
        [*command, "peer.mid", sink, str(rig.model), str(rig.inputs)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        yield
    finally:
        child.terminate()
        child.wait()


def passing(kafka: KafkaSettings, source: str, sink: str) -> Job:
    """Every record as it is, exactly once, shown at each checkpoint."""
    place = (
        "'connector' = 'kafka', 'format' = 'raw', "
        f"'properties.bootstrap.servers' = '{kafka.bootstrap_servers}'"
    )
    read = f"'scan.startup.mode' = 'earliest-offset', 'properties.fetch.max.wait.ms' = '{FETCH_WAIT_MS}'"
    write = (
        "'sink.delivery-guarantee' = 'exactly-once', 'sink.transactional-id-prefix' = 'peer', "
        "'properties.transaction.timeout.ms' = '60000'"
    )
    tables = (
        f"CREATE TEMPORARY TABLE source (v BYTES) WITH ({place}, 'topic' = '{source}', {read})",
        f"CREATE TEMPORARY TABLE sink (v BYTES) WITH ({place}, 'topic' = '{sink}', {write})",
    )
    options = {
        "execution.checkpointing.interval": "1 s",
        "execution.buffer-timeout.interval": "1 ms",
        "parallelism.default": "1",
    }
    return Job("peer", options, tables, ("INSERT INTO sink SELECT v FROM source",))


@pytest.mark.timeout(1_800)
def test_bench_decision(rig: Rig) -> None:
    asked = Decisions(rig.kafka, WAYS)
    with ours(rig), echo(rig):
        for name in ("limit", "ours"):
            asked.contender(name, RATE, WARM_UP_S)()
        runs = race({n: asked.contender(n, RATE, SECONDS) for n in ("ours", "limit")})
        assert "unanswered" not in asked.statuses["ours", RATE]
        beyond = {rate: asked.contender("ours", rate, SECONDS) for rate in BEYOND}
        for work in beyond.values():
            work()
    with peer(rig):
        asked.contender("peer", RATE, SECONDS)()
        work = asked.contender("peer", RATE, SECONDS)
        runs[PEER] = [work()] * REPEATS  # type: ignore[list-item]
    shown = [asked.shown(name, RATE, REPEATS) for name in ("ours", "limit")]
    more = [f"{rate:,}/s: {asked.shown('ours', rate, 1)}" for rate in BEYOND]
    note = "; ".join(
        [
            "times are p99 of a payment; the peer ran once and is compared with our median",
            *shown,
            asked.shown("peer", RATE, 1),
            *more,
        ]
    )
    packages = ("confluent-kafka", "apache-flink", "ray", "onnxruntime")
    record(
        row(
            "a",
            f"decision, payments, {RATE:,}/s, p99",
            runs,
            {p: version(p) for p in packages},
            note,
        )
    )
