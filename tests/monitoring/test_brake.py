from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from monitoring import brake, drift_worker
from monitoring.brake import BrakeRefused, Word
from monitoring.policy import DAY_MS, HOUR_MS, LoopPolicy
from monitoring.settings import MonitoringSettings
from schemas import usecase
from schemas.control import Alert, Brake, BrakeKind, ControlEvent, RetrainingOrder
from schemas.control_log import ControlLog, ControlLogUnavailable
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext
from tests.monitoring import rig
from tests.monitoring.test_drift_worker import day, send
from tests.monitoring.test_loop import POLICY, T0_MS, alert, order


def publish(kafka: KafkaSettings, case: str, *events: ControlEvent) -> None:
    with ControlLog(kafka, case, (), f"{case}.test") as log:
        log.publish(*(event.model_copy(update={"case": case}) for event in events))


def events(kafka: KafkaSettings, case: str) -> list[ControlEvent]:
    with ControlLog(kafka, case, brake.TOPICS) as log:
        return [entry.event for entry in log.read_all()]


def words(kafka: KafkaSettings, case: str) -> list[Brake]:
    return [event for event in events(kafka, case) if isinstance(event, Brake)]


def test_words_are_numbered_and_one_that_means_nothing_is_not_published(
    kafka: KafkaSettings, case: str
) -> None:
    loop = brake.folded([], POLICY)
    found = alert(T0_MS, loop.decide(T0_MS, T0_MS + DAY_MS))
    proposed = order(found, approve_by_ms=T0_MS + 3 * DAY_MS)
    publish(kafka, case, found, proposed)
    pause = Word(BrakeKind.PAUSE, "ann", "late labels", length_ms=2 * DAY_MS)
    said = brake.pull(kafka, case, POLICY, pause)
    assert (said.sequence, said.until_ms) == (1, found.event_time_ms + 2 * DAY_MS)
    approve = Word(BrakeKind.APPROVE, "ann", "looked", proposed.event_id)
    said = brake.pull(kafka, case, POLICY, approve)
    assert (said.sequence, said.event_time_ms) == (2, proposed.event_time_ms)
    with pytest.raises(BrakeRefused, match="it is approved"):
        brake.pull(kafka, case, POLICY, approve)
    lapse = Word(BrakeKind.LAPSE, "drift", "", proposed.event_id)
    with pytest.raises(BrakeRefused, match="it is approved"):
        brake.pull(kafka, case, POLICY, lapse, T0_MS + 9 * DAY_MS)
    assert [w.kind for w in words(kafka, case)] == [BrakeKind.PAUSE, BrakeKind.APPROVE]


def test_of_two_who_approve_and_refuse_at_once_both_words_are_in_one_order(
    kafka: KafkaSettings, case: str
) -> None:
    loop = brake.folded([], POLICY)
    found = alert(T0_MS, loop.decide(T0_MS, T0_MS + DAY_MS))
    proposed = order(found, approve_by_ms=T0_MS + 3 * DAY_MS)
    publish(kafka, case, found, proposed)

    def say(kind: BrakeKind) -> None:
        word, generator = Word(kind, "x", "", proposed.event_id), Random(kind)
        for _ in range(9):
            try:
                brake.pull(kafka, case, POLICY, word, found.event_time_ms)
            except ControlLogUnavailable:
                time.sleep(generator.random())  # the other fenced this one
            except BrakeRefused:
                return

    both = [
        threading.Thread(target=say, args=(kind,)) for kind in (BrakeKind.APPROVE, BrakeKind.LAPSE)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(60)
    said = words(kafka, case)
    assert len(said) == 1, "an order is approved or lapsed, never both"
    assert said[0].sequence == 1


@pytest.fixture
def cautious(case: str, monkeypatch: pytest.MonkeyPatch) -> LoopPolicy:
    """The case's loop proposes, and waits half a day."""
    module = usecase.load("monitoring", case)
    policy = replace(rig.POLICY.loop, approval=True, approval_ms=12 * HOUR_MS)
    monkeypatch.setattr(module, "POLICY", replace(rig.POLICY, loop=policy))
    return policy


def test_nobody_approves_and_a_pause_orders_nothing(
    kafka: KafkaSettings, case: str, cautious: LoopPolicy, tmp_path: Path
) -> None:
    monitoring = MonitoringSettings(reports_dir=str(tmp_path / "reports"))
    rig.write_model(tmp_path / "models", "v1")

    def run(ctx: WorkerContext) -> None:
        drift_worker.run(ctx, kafka, monitoring, str(tmp_path / "models"))

    def said(kind: type[ControlEvent]) -> list[ControlEvent]:
        return [event for event in events(kafka, case) if isinstance(event, kind)]

    rig.publish(kafka, "control.releases", rig.release(case))
    send(kafka, case, day(0, shift=0.8) + day(1, shift=0.8)[:50])
    with rig.running(case, run):
        rig.wait_until(lambda: bool(said(RetrainingOrder)))
        # The stream's clock passes the half day, and the next window closes: it is held back by the cool-down.
        send(kafka, case, day(1, shift=0.8)[50:] + day(2, shift=0.8)[:60])
        rig.wait_until(lambda: bool(words(kafka, case)) and len(said(Alert)) == 2)
        brake.pull(kafka, case, cautious, Word(BrakeKind.PAUSE, "ann", "enough"))
        send(kafka, case, day(2, shift=0.8)[60:] + day(3, shift=0.8)[:60])
        rig.wait_until(lambda: len(said(Alert)) == 3)
    (proposed,) = said(RetrainingOrder)
    assert isinstance(proposed, RetrainingOrder)
    assert proposed.approve_by_ms == proposed.event_time_ms + 12 * HOUR_MS
    lapse, pause = words(kafka, case)
    assert (lapse.kind, lapse.event_time_ms) == (BrakeKind.LAPSE, proposed.approve_by_ms)
    assert (lapse.by, pause.by) == ("drift", "ann")
    held = [a.held_back_by for a in said(Alert) if isinstance(a, Alert)]
    assert held[0] is None
    assert (held[1] or "").startswith("cool-down until")
    assert held[2] == "pause by ann: enough"
