"""Row h: from an alert to the first answer of the version that was trained for it, and from a rollback to the canary's last.

The real trainer, admission, scorer, intake and archiver, over a broker, a lake and LEDDrift (`tests.loop`); requests come at a
steady rate all the while. An alert is published with its order as the drift worker does; its candidate is fitted on the drifted
rows in the lake, so that the gate admits it. The clock stops when a committed answer is read. The limit of the first is a fit
of the same rows, ONNX, written and loaded; of the second, one record in a transaction until it is read. The peer is a script
that fits the same rows, and `serve deploy`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
from confluent_kafka import Producer

from features.views import Plan
from infra.local.kafka import KafkaServer
from pipelines import onnx_model
from pipelines.training_set import TrainingSet, training_set
from schemas.control import Alert, AlertKind, RetrainingOrder
from schemas.control_log import ControlLog
from schemas.settings import KafkaSettings
from serving import release_log
from serving.releases import with_canary
from tests.benchmarks.contenders import REPEATS, Contender, Run, race, record, row
from tests.benchmarks.peer_retrain import Scripted
from tests.benchmarks.steady import Steady
from tests.loop.crew import Crew
from tests.loop.known_case import OUTCOME_AFTER_ROWS, SINCE_ROWS, KnownCase, train
from tests.loop.known_run import KnownRun

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALL = os.environ.get("BENCH") == "small"
CASE = KnownCase("bench_led", "led")
WORKERS = ("intake", "scorer", "archiver", "trainer", "admission")
RATE = 250
ROLLBACKS = 4 if SMALL else 20
SENT = ceil((SINCE_ROWS + OUTCOME_AFTER_ROWS) / 250) * 250


class Loop:
    """A champion of the stream as it was, and a stream that has drifted since."""

    def __init__(self, run: KnownRun, crew: Crew, kafka: KafkaSettings, steady: Steady) -> None:
        self.run, self.kafka, self.steady = run, kafka, steady
        self.crew = crew
        self._numbers = count(1)
        self.since_ms, self.until_ms = CASE.at_ms(0), CASE.at_ms(SENT)

    def alerted(self) -> Run:
        """Seconds from the alert's record to the first answer of its candidate, which is then taken back."""
        asked_s = self._alert(next(self._numbers))
        epoch, version = self.steady.until_canary()
        answered_s = self.steady.first_of(version, epoch)
        self._roll_back(epoch)
        return Run(answered_s - asked_s, 0.0, 0.0)

    def _roll_back(self, epoch: int) -> None:
        """An operator's word, when admission has its transactional id back from whoever released before."""
        self._await_admission(epoch)
        release_log.rollback(self.kafka, CASE.name, reason="measured", decided_by="bench")
        self.steady.until_epoch(epoch + 1)
        self._await_admission(epoch + 1)

    def _await_admission(self, epoch: int) -> None:
        def read() -> bool:
            return int(self.crew.said("admission").get("epoch", 0)) >= epoch

        self.crew.until(f"admission at epoch {epoch}", read)

    def _alert(self, number: int) -> float:
        """Publish an alert and its order; returns when the broker had them."""
        alert = Alert(
            event_time_ms=self.until_ms,
            event_id=f"alert-{CASE.name}-{number}",
            case=CASE.name,
            decided_at_ms=time.time_ns() // 1_000_000,
            kinds=(AlertKind.CONCEPT_DRIFT,),
            window_start_ms=self.since_ms,
            window_end_ms=self.until_ms,
            rows=SENT,
            version=self.run.first,
            drifted=(),
            statistics={},
            metrics={},
            report="",
            acted_on=True,
        )
        order = RetrainingOrder(
            event_time_ms=self.until_ms,
            event_id=f"order-{alert.event_id}",
            case=CASE.name,
            decided_at_ms=alert.decided_at_ms,
            alert_id=alert.event_id,
            since_ms=self.since_ms,
            until_ms=self.until_ms,
            reason="bench",
        )
        with ControlLog(self.kafka, CASE.name, ("control.alerts",), f"{CASE.name}-drift") as log:
            log.publish(alert, order)
            while True:
                # A commit returns some milliseconds before it can be read.
                for entry in log.poll(0.05):
                    if entry.event.id == alert.event_id:
                        return entry.ingest_ms / 1_000

    def rolled_back(self) -> Run:
        """The 99th percentile of the seconds from a rollback's record to the last answer of its canary that is read."""
        return Run(float(np.percentile([self._rollback() for _ in range(ROLLBACKS)], 99)), 0.0, 0.0)

    def _rollback(self) -> float:
        now = release_log.current(self.kafka, CASE.name)
        assert now is not None
        stamp = release_log.stamp(now, "measured", "bench")
        tried = with_canary(now, candidate="v0002", share=0.1, salt=f"{now.epoch}", **stamp)
        release_log.publish(self.kafka, tried)
        self.steady.until_answered_by("v0002", tried.epoch)
        self._roll_back(tried.epoch)
        ordered_s = self.steady.released_s(tried.epoch + 1)
        return max(0.0, self.steady.last_of("v0002") - ordered_s)


@pytest.fixture(scope="module")
def loop(jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    """Everything at work, and the rows of a training in the lake."""
    folder = tmp_path_factory.mktemp("loop")
    with (
        Crew(folder, WORKERS) as crew,
        KafkaServer(folder / "kafka", jars / "kafka") as server,
    ):
        kafka = KafkaSettings(bootstrap_servers=server.bootstrap_servers)
        run = KnownRun(crew, kafka, CASE, 1, drift_at=0)
        run.prepare()
        crew.start(run.settings)
        crew.until("a scorer", lambda: int(crew.said("scorer").get("epoch", 0)) > 0)
        run.sender.send(SENT)
        run.await_lake()
        with Steady(run, crew, RATE) as steady:
            yield Loop(run, crew, kafka, steady)
        crew.stop()


def bare_fit(rows: TrainingSet, folder: Path) -> Contender:
    """Fit, convert, write, load, and one answer."""
    path, inputs = folder / "model.onnx", len(rows.inputs)
    first: NDArray[np.float32] = rows.holdout.matrix[:1]

    def work() -> None:
        estimator = train(rows.train.matrix, rows.train.labels)
        path.write_bytes(onnx_model.convert(estimator, inputs).SerializeToString())
        onnxruntime.InferenceSession(path.read_bytes()).run(None, {"input": first})

    return work


@contextmanager
def pointer(loop: Loop) -> Iterator[Contender]:
    """One record in a transaction, until a reader of committed records has it; the 99th percentile, as ours."""
    writer = f"{CASE.name}.pointer"
    with ControlLog(loop.kafka, CASE.name, ("control.releases",)) as reader:
        reader.read_all()
        producer = Producer(loop.kafka.client_config(transactional_id=writer, retry_backoff_ms=1))
        producer.init_transactions(10)

        def write() -> float:
            now = release_log.current(loop.kafka, CASE.name)
            assert now is not None
            began = time.perf_counter()
            producer.begin_transaction()
            producer.produce("control.releases", now.encode(), now.key)
            producer.commit_transaction(10)
            while not reader.poll(0.001):
                pass
            return time.perf_counter() - began

        def work() -> Run:
            return Run(float(np.percentile([write() for _ in range(ROLLBACKS)], 99)), 0.0, 0.0)

        yield work


@pytest.mark.timeout(1_800)
def test_bench_alert_to_canary(loop: Loop, tmp_path: Path) -> None:
    plan = Plan.load(loop.run.settings.stores.plan_path)
    stores = loop.run.settings.stores
    rows = training_set(CASE.name, plan, stores, loop.since_ms, loop.until_ms)
    told = (loop.run.settings.data / "settings.json", loop.since_ms, loop.until_ms)
    asked = rows.holdout.matrix[0].tolist()
    with Scripted(tmp_path / "scripted", loop.crew.sources, told, asked) as scripted:
        contenders: dict[str, Contender] = {
            "ours": loop.alerted,
            "limit": bare_fit(rows, tmp_path),
            "script and `serve deploy`": scripted.retrained,
        }
        runs = race(contenders, 2 if SMALL else REPEATS)
    sent, twice = loop.steady.tally()
    assert not twice
    note = f"{sent:,} requests at {RATE}/s meanwhile, none lost, none twice"
    name = f"loop, alert to the canary's first answer, {len(rows.train):,} rows"
    record(row("h", name, runs, ("scikit-learn", "skl2onnx", "onnxruntime", "ray"), note))


@pytest.mark.timeout(1_800)
def test_bench_rollback(loop: Loop) -> None:
    with pointer(loop) as limit:
        loop.alerted()
        runs = race({"ours": loop.rolled_back, "limit": limit}, 2 if SMALL else REPEATS)
    sent, twice = loop.steady.tally()
    assert not twice
    note = f"times are p99 of {ROLLBACKS}; {sent:,} requests at {RATE}/s meanwhile, none lost, none twice"
    name = "loop, rollback to the canary's last answer, p99"
    record(row("h", name, runs, ("confluent-kafka",), note))
