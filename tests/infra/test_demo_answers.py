"""What holds the demo's replay, on a real broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from infra.demo.answers import Answers
from schemas import topics
from schemas.control import Brake, BrakeKind, ControlEvent, RetrainingOrder
from schemas.control_log import ControlLog
from tests.monitoring import rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemas.settings import KafkaSettings

CASE = "demo_answers"
AT_MS = rig.T0_MS


@pytest.fixture
def broker(kafka: KafkaSettings) -> Iterator[KafkaSettings]:
    rig.register(CASE)
    topics.create(kafka, topics.table_of(CASE).values())
    yield kafka
    rig.unregister(CASE)


def publish(kafka: KafkaSettings, event: ControlEvent) -> None:
    topic = "control.brake" if isinstance(event, Brake) else "control.retraining"
    with ControlLog(kafka, CASE, (topic,), f"{CASE}.test") as log:
        log.publish(event)


def order(name: str) -> RetrainingOrder:
    return RetrainingOrder(
        event_id=name,
        event_time_ms=AT_MS,
        case=CASE,
        decided_at_ms=AT_MS,
        alert_id="alert",
        since_ms=0,
        until_ms=1,
        reason="test",
    )


def word(sequence: int, kind: BrakeKind, order_id: str) -> Brake:
    return Brake(
        event_id=f"{CASE}-{sequence}",
        event_time_ms=AT_MS,
        case=CASE,
        decided_at_ms=AT_MS,
        sequence=sequence,
        kind=kind,
        order_id=order_id,
        by="ann",
        reason="test",
    )


def test_an_order_that_a_person_refused_holds_the_replay_no_longer(broker: KafkaSettings) -> None:
    with Answers(broker, CASE) as answers:
        publish(broker, order("a"))
        rig.wait_until(lambda: answers.open_order == "a")
        publish(broker, word(1, BrakeKind.APPROVE, "a"))
        publish(broker, order("b"))
        rig.wait_until(lambda: answers.open_order == "b")
        publish(broker, word(2, BrakeKind.REFUSE, "b"))
        rig.wait_until(lambda: answers.open_order is None)
