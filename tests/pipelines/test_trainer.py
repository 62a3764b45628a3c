from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.settings import StoreSettings
from infra.local.kafka import KafkaServer
from pipelines import trainer, training, training_work
from pipelines.lineage import FILE
from pipelines.settings import PipelineSettings
from pipelines.train_process import NICENESS, Job
from pipelines.trainer import OpenOrders, built_for
from pipelines.training_child import TrainingChild
from schemas import topics
from schemas.control import Brake, BrakeKind, Candidate, ControlEvent, DataAccess, RetrainingOrder
from schemas.control_log import ControlLog, Entry
from schemas.manifest import MANIFEST_FILE, Manifest, folder_digest, versions
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext
from tests.pipelines import training_rows
from tests.pipelines.january import SINCE_MS, UNTIL_MS, lake

CASE = "flights"
WAIT_S = 120.0
WORKER = """
import sys, threading
from features.settings import StoreSettings
from pipelines import trainer
from pipelines.settings import PipelineSettings
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext
kafka, stores, models = sys.argv[1:]
trainer.run(
    WorkerContext("flights", threading.Event(), lambda counters: print(dict(counters), flush=True)),
    KafkaSettings.model_validate_json(kafka),
    StoreSettings.model_validate_json(stores),
    PipelineSettings(),
    models,
)
"""


@pytest.fixture(scope="module")
def broker(jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    """A broker of this file's own: the control topics are its state."""
    with KafkaServer(tmp_path_factory.mktemp("kafka"), jars / "kafka") as server:
        kafka = KafkaSettings(bootstrap_servers=server.bootstrap_servers)
        topics.create(kafka, topics.CONTROL_TOPICS)
        yield kafka


@pytest.fixture(scope="module")
def january(tmp_path_factory: pytest.TempPathFactory) -> StoreSettings:
    return lake(tmp_path_factory.mktemp("january"))


def order(name: str, since_ms: int = SINCE_MS, until_ms: int = UNTIL_MS) -> RetrainingOrder:
    return RetrainingOrder(
        event_id=f"order-{name}",
        event_time_ms=UNTIL_MS,
        case=CASE,
        decided_at_ms=1,
        alert_id=f"alert-{name}",
        since_ms=since_ms,
        until_ms=until_ms,
        reason="test",
    )


def candidate(name: str) -> Candidate:
    return Candidate(
        event_id=f"candidate-{name}",
        event_time_ms=UNTIL_MS,
        case=CASE,
        decided_at_ms=1,
        order_id=f"order-{name}",
        model=CASE,
        version=None,
        folder=None,
        digest=None,
    )


def publish(kafka: KafkaSettings, *events: ControlEvent) -> None:
    with ControlLog(kafka, CASE, (), "test.orders") as log:
        log.publish(*events)


def answers(kafka: KafkaSettings, name: str) -> list[Candidate]:
    with ControlLog(kafka, CASE, ("control.candidates",)) as log:
        found = [e.event for e in log.read_all()]
    return [c for c in found if isinstance(c, Candidate) and c.order_id == f"order-{name}"]


def accesses(kafka: KafkaSettings, name: str) -> list[DataAccess]:
    with ControlLog(kafka, CASE, ("control.access",)) as log:
        found = [e.event for e in log.read_all()]
    return [a for a in found if isinstance(a, DataAccess) and a.order_id == f"order-{name}"]


def await_answer(kafka: KafkaSettings, name: str) -> Candidate:
    deadline = time.monotonic() + WAIT_S
    while not (found := answers(kafka, name)):
        assert time.monotonic() < deadline, f"no candidate for {name}"
        time.sleep(0.2)
    return found[0]


class Running:
    """The worker in a thread; `said` is what it reported."""

    def __init__(self, kafka: KafkaSettings, stores: StoreSettings, models: Path) -> None:
        self.said: list[str] = []
        self.stop = threading.Event()
        context = WorkerContext(CASE, self.stop, lambda c: self.said.append(str(c["training"])))
        arguments = (context, kafka, stores, PipelineSettings(), str(models))
        self._thread = threading.Thread(target=trainer.run, args=arguments)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


def of_january(stores: StoreSettings, models: Path, order_id: str | None = None) -> Job:
    return Job(
        case=CASE,
        stores=stores,
        models_dir=str(models),
        since_ms=SINCE_MS,
        until_ms=UNTIL_MS,
        order_id=order_id,
    )


def proposal(name: str) -> RetrainingOrder:
    return order(name).model_copy(update={"approve_by_ms": UNTIL_MS})


def word(name: str, kind: BrakeKind) -> Brake:
    return Brake(
        event_id=f"brake-{name}",
        event_time_ms=UNTIL_MS,
        case=CASE,
        decided_at_ms=1,
        sequence=1,
        kind=kind,
        order_id=None if kind in (BrakeKind.PAUSE, BrakeKind.RESUME) else f"order-{name}",
        by="ann",
        reason="test",
    )


events = st.lists(
    st.one_of(
        st.sampled_from("abc").map(order),
        st.sampled_from("de").map(proposal),
        st.sampled_from("abcde").map(candidate),
        st.builds(word, st.sampled_from("abcde"), st.sampled_from(BrakeKind)),
    ),
    max_size=16,
)


@given(events)
def test_open_is_what_was_ordered_and_neither_answered_nor_refused(
    said: list[RetrainingOrder | Candidate | Brake],
) -> None:
    orders = OpenOrders()
    for event in said:
        orders.fold([Entry(event, 0)])
    ordered = {e.event_id for e in said if isinstance(e, RetrainingOrder)}
    words = [e for e in said if isinstance(e, Brake)]
    done = {e.order_id for e in said if isinstance(e, Candidate)}
    done |= {str(e.order_id) for e in words if e.kind in (BrakeKind.REFUSE, BrakeKind.LAPSE)}
    approved = {e.order_id for e in words if e.kind is BrakeKind.APPROVE}
    waiting = {f"order-{name}" for name in "de"} - approved
    assert orders.count == len(ordered - done)
    first = orders.first()
    assert (first is None) == (not ordered - done - waiting)
    assert first is None or first.event_id in ordered - done - waiting
    answered = {e.order_id for e in said if isinstance(e, Candidate)}
    assert orders.dismissed == done - answered


def test_an_order_becomes_a_candidate_once(
    broker: KafkaSettings, january: StoreSettings, tmp_path: Path
) -> None:
    gone = {"version": "v0009"}
    publish(broker, order("plain").model_copy(update=gone))
    told = january.model_copy(update={"lineage_dir": str(tmp_path / "lineage")})
    with Running(broker, told, tmp_path) as worker:
        made = await_answer(broker, "plain")
    (read,) = accesses(broker, "plain")
    assert (read.by, read.since_ms, read.until_ms) == ("trainer", SINCE_MS, UNTIL_MS)
    assert read.snapshots == Manifest.read(tmp_path / "flights" / "v0001").snapshots
    lines = (tmp_path / "lineage" / FILE).read_text().splitlines()
    assert [json.loads(line)["eventType"] for line in lines] == ["START", "COMPLETE"]
    folder = tmp_path / "flights" / "v0001"
    assert (made.version, made.folder, made.error) == ("v0001", str(folder), None)
    assert made.digest == folder_digest(folder)
    assert made.metrics["auc"] > 0.7
    assert "since the manifest of v0009 cannot be read" in (folder / "card.md").read_text()
    assert any("fitting" in said for said in worker.said)
    publish(broker, order("plain"))
    with Running(broker, january, tmp_path):
        time.sleep(2)
    assert len(answers(broker, "plain")) == 1
    assert versions(tmp_path, "flights") == ["v0001"]


def test_an_order_on_nothing_is_answered_with_the_reason(
    broker: KafkaSettings, january: StoreSettings, tmp_path: Path
) -> None:
    publish(broker, order("nothing", until_ms=SINCE_MS + 1))
    with Running(broker, january, tmp_path):
        made = await_answer(broker, "nothing")
    assert made.version is None
    assert "there are none" in str(made.error)
    assert not list(tmp_path.glob("flights/*"))


def test_a_process_waits_for_the_next_order_and_one_that_died_is_replaced(
    broker: KafkaSettings, january: StoreSettings, tmp_path: Path
) -> None:
    nothing = {"until_ms": SINCE_MS + 1}
    with Running(broker, january, tmp_path):
        ready = training_processes(1)
        publish(broker, order("ready").model_copy(update=nothing))
        await_answer(broker, "ready")
        psutil.wait_procs(ready, timeout=20)
        (dead,) = training_processes(1)
        assert dead not in ready
        dead.kill()
        publish(broker, order("after").model_copy(update=nothing))
        assert "there are none" in str(await_answer(broker, "after").error)
    training_processes(0)


def training_processes(count: int) -> list[psutil.Process]:
    """Those of this process, once there are so many of them."""
    deadline = time.monotonic() + WAIT_S
    while True:
        mine = psutil.Process().children()
        found = [p for p in mine if "pipelines.train_process" in cmdline(p)]
        if len(found) == count:
            return found
        assert time.monotonic() < deadline, f"{len(found)} training processes"
        time.sleep(0.05)


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def test_what_is_proposed_waits_for_approval_and_what_is_refused_is_not_trained(
    broker: KafkaSettings, january: StoreSettings, tmp_path: Path
) -> None:
    nothing = {"until_ms": SINCE_MS + 1, "approve_by_ms": UNTIL_MS}
    publish(broker, *(order(name).model_copy(update=nothing) for name in ("refused", "waiting")))
    publish(broker, word("refused", BrakeKind.APPROVE), word("refused", BrakeKind.REFUSE))
    with Running(broker, january, tmp_path) as worker:
        while not worker.said:
            time.sleep(0.1)
        assert not answers(broker, "waiting")
        publish(broker, word("waiting", BrakeKind.APPROVE))
        await_answer(broker, "waiting")
    assert not answers(broker, "refused")


def test_a_refusal_ends_the_training_and_nothing_is_left_of_it(
    broker: KafkaSettings, january: StoreSettings, tmp_path: Path
) -> None:
    told = january.model_copy(update={"lineage_dir": str(tmp_path / "lineage")})
    with Running(broker, told, tmp_path) as worker:
        (child,) = training_processes(1)
        publish(broker, order("unwanted"))
        await_said(worker, "as of each request")
        # It stands still, so that it cannot be done before it is refused.
        child.suspend()
        training_work.keep(
            training_work.place(tmp_path, CASE, "order-unwanted"), training_rows.training_set()
        )
        training.build(training_rows.training_set(), tmp_path, order_id="order-unwanted")
        publish(broker, word("unwanted", BrakeKind.REFUSE))
        psutil.wait_procs([child], timeout=WAIT_S)
        (spare,) = training_processes(1)
        assert spare != child
    assert not answers(broker, "unwanted")
    assert versions(tmp_path, CASE) == []
    assert not list((tmp_path / CASE / training_work.FOLDER).iterdir())
    lines = (tmp_path / "lineage" / FILE).read_text().splitlines()
    assert json.loads(lines[-1])["eventType"] == "ABORT"


def test_what_was_finished_for_an_order_that_was_refused_after_a_crash_is_removed(
    broker: KafkaSettings, january: StoreSettings, tmp_path: Path
) -> None:
    publish(broker, order("late"), word("late", BrakeKind.REFUSE))
    publish(broker, order("served"), candidate("served"), word("served", BrakeKind.REFUSE))
    for name in ("late", "served"):
        training.build(training_rows.training_set(), tmp_path, order_id=f"order-{name}")
    with Running(broker, january, tmp_path) as worker:
        while not worker.said:
            time.sleep(0.1)
    assert versions(tmp_path, CASE) == ["v0002"]


def await_said(worker: Running, text: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not any(text in said for said in worker.said):
        assert time.monotonic() < deadline, f"{worker.said[-5:]}"
        time.sleep(0.02)


def test_a_version_that_was_finished_before_the_crash_is_published_not_trained_again(
    broker: KafkaSettings, january: StoreSettings, tmp_path: Path
) -> None:
    job = of_january(january, tmp_path, order_id="order-finished")
    context = WorkerContext(CASE, threading.Event(), lambda _: None)
    assert trainer.train(job, PipelineSettings(), context) == ("v0001", None)
    publish(broker, order("finished"))
    (tmp_path / CASE / "v0002").mkdir()
    (tmp_path / CASE / "v0003").mkdir()
    (tmp_path / CASE / "v0003" / MANIFEST_FILE).write_text("{", encoding="utf-8")
    with Running(broker, january, tmp_path) as worker:
        assert await_answer(broker, "finished").version == "v0001"
    assert not any(worker.said)
    assert built_for(tmp_path, "flights", "order-other") is None


def test_a_killed_worker_leaves_no_process_and_its_order_is_answered_after(
    broker: KafkaSettings, january: StoreSettings, tmp_path: Path
) -> None:
    arguments = [broker.model_dump_json(), january.model_dump_json(), str(tmp_path)]
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    publish(broker, order("killed"))
    assert worker.stdout is not None
    for line in worker.stdout:
        if "as of each request" in line:
            break
    children = psutil.Process(worker.pid).children()
    assert [child.nice() for child in children] == [min(19, psutil.Process().nice() + NICENESS)]
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    _gone, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert answers(broker, "killed") == []
    with Running(broker, january, tmp_path):
        assert await_answer(broker, "killed").version is not None
    assert len(versions(tmp_path, "flights")) == 1


def test_a_training_that_takes_too_long_is_given_up(january: StoreSettings, tmp_path: Path) -> None:
    job = of_january(january, tmp_path)
    context = WorkerContext(CASE, threading.Event(), lambda _: None)
    version, error = trainer.train(job, PipelineSettings(training_timeout_s=0.1), context)
    assert version is None
    assert "not done after" in str(error)


def test_a_stopped_worker_leaves_its_order_open(
    broker: KafkaSettings, january: StoreSettings, tmp_path: Path
) -> None:
    publish(broker, order("stopped"))
    with Running(broker, january, tmp_path) as worker:
        deadline = time.monotonic() + WAIT_S
        while not any(worker.said):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert answers(broker, "stopped") == []


def test_a_process_that_ends_with_its_worker_fails_nothing(
    january: StoreSettings, tmp_path: Path
) -> None:
    """A signal may go to both at once; the order stays open."""
    job = of_january(january, tmp_path)
    stopped = threading.Event()
    context = WorkerContext(CASE, stopped, lambda _: None)
    child = TrainingChild(CASE, 1)
    (process,) = training_processes(1)
    assert os.getpgid(process.pid) != os.getpgid(0)
    process.terminate()
    process.wait(20)
    stopped.set()
    assert trainer.train(job, PipelineSettings(), context, child=child) == (None, None)
