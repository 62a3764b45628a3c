from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from features.settings import StoreSettings
from infra.local.kafka import KafkaServer
from pipelines import training
from pipelines.training_set import Rows, TrainingSet
from schemas import topics
from schemas.control import Candidate, ControlEvent, Release, Verdict, VerdictKind
from schemas.control_log import ControlLog
from schemas.manifest import file_digest, folder_digest
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext
from serving import admission, release_log, signature
from serving.flights import CANARY_SHARE
from serving.registry import Registry
from serving.runtime import Expected
from serving.settings import AdmissionSettings, ServingSettings
from serving.trust import Trust
from tests.serving import model_folders

CASE = "flights"
CLOCK_MS = 1_370_000_000_000
WAIT_S = 60.0
WORKER = """
import sys, threading
from features.settings import StoreSettings
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext
from serving import admission
from serving.settings import ServingSettings
kafka, stores, serving = sys.argv[1:]
admission.run(
    WorkerContext("flights", threading.Event(), lambda counters: print(dict(counters), flush=True)),
    KafkaSettings.model_validate_json(kafka),
    StoreSettings.model_validate_json(stores),
    ServingSettings.model_validate_json(serving),
)
"""


@dataclass(frozen=True)
class World:
    """Versions v0001 (noisy champion), v0002 (better), v0003 (worse), and a plan that fits them."""

    stores: StoreSettings
    models: Path

    def candidate(self, version: str, order: str = "order-1") -> Candidate:
        folder = self.models / CASE / version
        return Candidate(
            event_id=f"candidate-{order}",
            event_time_ms=CLOCK_MS,
            case=CASE,
            decided_at_ms=1,
            order_id=order,
            model=CASE,
            version=version,
            folder=str(folder),
            digest=folder_digest(folder),
        )

    def judge(self, candidate: Candidate, *, suspended: bool = False) -> Verdict:
        first = release_log.first(CASE, CASE, "v0001", event_time_ms=CLOCK_MS, decided_by="test")
        now = first.model_copy(update={"suspended": suspended})
        return admission.judge(candidate, now, Registry(self.models), self.stores)


def rows(count: int, flipped: float, seed: int) -> Rows:
    """Labels follow the first input; a share of them is turned round."""
    rng = np.random.default_rng(seed)
    width = len(Expected.of(CASE, model_folders.plan()).inputs)
    matrix = rng.normal(size=(count, width)).astype(np.float32)
    matrix[rng.random(matrix.shape) < 0.05] = np.nan
    labels = np.nan_to_num(matrix[:, 0]) + 0.3 * rng.normal(size=count) > 0.3
    ids = np.array([f"r{i}" for i in range(count)], dtype=object)
    labels ^= rng.random(count) < flipped
    return Rows(matrix, labels, CLOCK_MS + np.arange(count, dtype=np.int64), ids)


def build(world: World, flipped: float) -> None:
    expected = Expected.of(CASE, model_folders.plan())
    made = TrainingSet(
        case=CASE,
        service=expected.service,
        inputs=expected.inputs,
        train=rows(3_000, flipped, seed=1),
        holdout=rows(2_000, 0.0, seed=2),
        since_ms=CLOCK_MS,
        until_ms=CLOCK_MS + 1,
        definitions=expected.definitions,
        snapshots={},
    )
    training.build(made, world.models)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    made = World(StoreSettings(plan_path=str(folder / "plan.json")), folder / "models")
    model_folders.plan().save(made.stores.plan_path)
    for flipped in (0.3, 0.0, 0.45):
        build(made, flipped)
    return made


@pytest.fixture(scope="module")
def broker(jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    with KafkaServer(tmp_path_factory.mktemp("kafka"), jars / "kafka") as server:
        kafka = KafkaSettings(bootstrap_servers=server.bootstrap_servers)
        topics.create(kafka, topics.CONTROL_TOPICS)
        yield kafka


class Running:
    """Admission in a thread."""

    def __init__(self, kafka: KafkaSettings, world: World) -> None:
        self._stop = threading.Event()
        context = WorkerContext(CASE, self._stop, lambda _: None)
        keys = world.models.parent / "keys"
        serving = ServingSettings(models_dir=str(world.models), trust_dir=str(keys / "trusted"))
        signing = AdmissionSettings(signing_key=str(keys / "admission.pem"), registry_uri="")
        arguments = (context, kafka, world.stores, serving, signing)
        self._thread = threading.Thread(target=admission.run, args=arguments)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


def publish(kafka: KafkaSettings, event: ControlEvent) -> None:
    with ControlLog(kafka, CASE, (), "test.author") as log:
        log.publish(event)


def gate_verdicts(kafka: KafkaSettings) -> list[Verdict]:
    with ControlLog(kafka, CASE, ("control.verdicts",)) as log:
        events = [e.event for e in log.read_all()]
    return [v for v in events if isinstance(v, Verdict) and v.event_id.startswith("gate-")]


def await_epoch(kafka: KafkaSettings, epoch: int) -> Release:
    deadline = time.monotonic() + WAIT_S
    while (now := release_log.current(kafka, CASE)) is None or now.epoch < epoch:
        assert time.monotonic() < deadline, f"epoch {epoch} never came: {now}"
        time.sleep(0.1)
    return now


def await_verdicts(kafka: KafkaSettings, count: int) -> list[Verdict]:
    deadline = time.monotonic() + WAIT_S
    while len(found := gate_verdicts(kafka)) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def await_end(kafka: KafkaSettings, order: str) -> list[Verdict]:
    """What was said of the end of an order's trial."""
    deadline = time.monotonic() + WAIT_S
    while True:
        with ControlLog(kafka, CASE, ("control.verdicts",)) as log:
            events = [e.event for e in log.read_all()]
        found = [v for v in events if isinstance(v, Verdict) and v.order_id == order]
        if ends := [v for v in found if v.verdict not in (VerdictKind.ADMIT, VerdictKind.REFUSE)]:
            return ends
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def guard(kind: VerdictKind, candidate: str, order: str) -> Verdict:
    return Verdict(
        event_id=f"guard-{order}",
        event_time_ms=CLOCK_MS + 5,
        case=CASE,
        decided_at_ms=1,
        verdict=kind,
        order_id=order,
        model=CASE,
        champion="v0001",
        candidate=candidate,
        champion_metrics={},
        candidate_metrics={},
        rows=500,
        reason="test",
    )


def test_a_better_candidate_is_admitted_with_its_evidence(world: World) -> None:
    verdict = world.judge(world.candidate("v0002"))
    assert verdict.verdict is VerdictKind.ADMIT
    assert verdict.rows == 2_000
    assert verdict.candidate_metrics["auc"] > verdict.champion_metrics["auc"] + 0.01
    resampled = {"auc", "log_loss", "brier"}
    assert verdict.candidate_metrics.keys() == resampled | {"auc_jittered", "auc_without_one"}
    assert verdict.intervals.keys() == resampled
    low, high = verdict.intervals["auc"]
    assert 0 < low < verdict.candidate_metrics["auc"] - verdict.champion_metrics["auc"] < high
    assert (verdict.order_id, verdict.champion, verdict.candidate) == ("order-1", "v0001", "v0002")


def test_a_worse_candidate_is_refused_by_name_of_the_metric(world: World) -> None:
    verdict = world.judge(world.candidate("v0003"))
    assert verdict.verdict is VerdictKind.REFUSE
    assert "auc" in verdict.reason


def test_a_candidate_as_good_may_try_where_the_champion_is_suspended(world: World) -> None:
    assert world.judge(world.candidate("v0001")).verdict is VerdictKind.REFUSE
    verdict = world.judge(world.candidate("v0001"), suspended=True)
    assert verdict.verdict is VerdictKind.ADMIT
    assert verdict.reason.startswith("the champion is suspended")


def test_training_and_serving_measure_the_same(world: World) -> None:
    verdict = world.judge(world.candidate("v0002"))
    said = Registry(world.models).manifest(CASE, "v0002").metrics
    for metric in ("auc", "log_loss", "brier"):
        assert verdict.candidate_metrics[metric] == pytest.approx(said[metric], abs=1e-6)


@pytest.mark.parametrize("digest", [None, "0" * 64])
def test_a_candidate_that_is_not_what_it_says_is_refused(world: World, digest: str | None) -> None:
    candidate = world.candidate("v0002").model_copy(update={"digest": digest})
    verdict = world.judge(candidate)
    assert verdict.verdict is VerdictKind.REFUSE
    assert "digest" in verdict.reason


def test_a_candidate_of_other_definitions_is_refused(world: World, tmp_path: Path) -> None:
    plan = model_folders.plan()
    wider = [msgspec.structs.replace(a, window_s=7_200) for a in plan.views[0].aggregates]
    changed = msgspec.structs.replace(plan.views[0], aggregates=tuple(wider))
    msgspec.structs.replace(plan, views=(changed, *plan.views[1:])).save(tmp_path / "plan.json")
    stores = world.stores.model_copy(update={"plan_path": str(tmp_path / "plan.json")})
    verdict = World(stores, world.models).judge(world.candidate("v0002"))
    assert verdict.verdict is VerdictKind.REFUSE
    assert "definitions" in verdict.reason


def test_a_conversion_that_differs_from_its_estimator_is_refused(
    world: World, tmp_path: Path
) -> None:
    """The reference rows carry the estimator's scores; a folder that is consistent otherwise does not help."""
    mine = World(world.stores, tmp_path)
    build(mine, 0.3)
    build(mine, 0.0)
    folder = tmp_path / CASE / "v0002"
    path = folder / "reference.parquet"
    held = pq.read_table(path)
    moved = held.set_column(
        held.column_names.index("score"), "score", [held["score"].to_numpy() * 0.99]
    )
    pq.write_table(moved, path)
    manifest = Registry(tmp_path).manifest(CASE, "v0002")
    files = manifest.files | {path.name: file_digest(path)}
    manifest.model_copy(update={"files": files}).write(folder)
    verdict = mine.judge(mine.candidate("v0002"))
    assert verdict.verdict is VerdictKind.REFUSE
    assert "estimator" in verdict.reason


def test_a_champion_that_cannot_be_measured_is_not_replaced_unseen(
    world: World, tmp_path: Path
) -> None:
    mine = World(world.stores, tmp_path)
    build(mine, 0.3)
    build(mine, 0.0)
    (tmp_path / CASE / "v0001" / "model.onnx").unlink()
    verdict = mine.judge(mine.candidate("v0002"))
    assert verdict.verdict is VerdictKind.REFUSE
    assert "champion's auc could not be measured" in verdict.reason
    assert verdict.champion_metrics == {}


def test_a_whole_turn(broker: KafkaSettings, world: World) -> None:
    """Refused, admitted and rolled back, by the guard and by a person, admitted and promoted; every step once, across restarts."""
    with Running(broker, world):
        publish(broker, world.candidate("v0003", "order-1"))
        # Nobody to compare with yet, so it waits; this release also fences the running worker.
        first = admission.bootstrap(broker, CASE, "v0001", event_time_ms=CLOCK_MS)
        assert admission.bootstrap(broker, CASE, "v0002", event_time_ms=CLOCK_MS) == first
        [refused] = await_verdicts(broker, 1)
        assert refused.verdict is VerdictKind.REFUSE
        assert release_log.current(broker, CASE) == first

        publish(broker, world.candidate("v0002", "order-2"))
        canary = await_epoch(broker, 2)
        # What is released can be loaded by whoever asks for a signature; what was refused bears none.
        trust = Trust(world.models.parent / "keys" / "trusted")
        assert signature.verify_whole(world.models / CASE / "v0002", trust)
        assert signature.signer(world.models / CASE / "v0003") is None
        assert (canary.champion, canary.canary) == ("v0001", "v0002")
        assert (canary.canary_share, canary.decided_by) == (CANARY_SHARE, "admission")
        publish(broker, guard(VerdictKind.ROLL_BACK, "v0002", "order-2"))
        rolled_back = await_epoch(broker, 3)
        assert (rolled_back.champion, rolled_back.canary) == ("v0001", None)

    # The same version is offered again: the old roll-back says nothing about this trial.
    publish(broker, world.candidate("v0002", "order-3"))
    with Running(broker, world):
        assert await_epoch(broker, 4).canary == "v0002"
        # What a person ends is said of the order, whose loop would wait for it for ever.
        release_log.rollback(broker, CASE, reason="complaints", decided_by="ann")
        [ended] = await_end(broker, "order-3")
        assert (ended.verdict, ended.reason) == (VerdictKind.ROLL_BACK, "by ann: complaints")
        publish(broker, world.candidate("v0002", "order-4"))
        assert await_epoch(broker, 6).canary == "v0002"
    with Running(broker, world):
        time.sleep(2)
        assert await_epoch(broker, 6).epoch == 6
        publish(broker, guard(VerdictKind.PROMOTE, "v0002", "order-4"))
        promoted = await_epoch(broker, 7)
        assert (promoted.champion, promoted.canary, promoted.canary_share) == ("v0002", None, 0.0)
    with Running(broker, world):
        time.sleep(2)
    assert await_epoch(broker, 7) == promoted
    ids = [v.event_id for v in gate_verdicts(broker)]
    assert len(ids) == len(set(ids)) == 4
    assert [len(await_end(broker, f"order-{n}")) for n in (2, 3, 4)] == [1, 1, 1]


def test_a_killed_admission_decides_once(broker: KafkaSettings, world: World) -> None:
    now = admission.bootstrap(broker, CASE, "v0001", event_time_ms=CLOCK_MS)
    before = {v.event_id for v in gate_verdicts(broker)}
    serving = ServingSettings(models_dir=str(world.models))
    arguments = [s.model_dump_json() for s in (broker, world.stores, serving)]
    publish(broker, world.candidate("v0003", "order-killed"))
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert worker.stdout is not None
    for line in worker.stdout:
        if "'waiting': 1" in line:
            break
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    with Running(broker, world):
        await_verdicts(broker, len(before) + 1)
        time.sleep(1)
    after = [v.event_id for v in gate_verdicts(broker) if v.event_id not in before]
    assert after == ["gate-candidate-order-killed"]
    assert release_log.current(broker, CASE) == now
