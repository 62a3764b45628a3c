"""What holds the demo's replay, on a real broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from infra.demo.answers import Answers
from monitoring import brake
from monitoring.brake import Word
from schemas import topics
from schemas.control import BrakeKind
from tests.infra.test_loop_desk import ORDER
from tests.monitoring import rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemas.settings import KafkaSettings

CASE = "demo_answers"


@pytest.fixture
def broker(kafka: KafkaSettings) -> Iterator[KafkaSettings]:
    rig.register(CASE)
    topics.apply(kafka, CASE)
    yield kafka
    rig.unregister(CASE)


def test_an_order_that_a_person_refused_holds_the_replay_no_longer(broker: KafkaSettings) -> None:
    def order(name: str) -> None:
        made = ORDER.model_copy(update={"case": CASE, "event_id": name})
        rig.publish(broker, "control.retraining", made)

    def say(kind: BrakeKind, name: str) -> None:
        brake.pull(broker, CASE, rig.POLICY.loop, Word(kind, "ann", "test", name))

    with Answers(broker, CASE) as answers:
        order("a")
        rig.wait_until(lambda: answers.open_order == "a")
        say(BrakeKind.APPROVE, "a")
        order("b")
        rig.wait_until(lambda: answers.open_order == "b")
        say(BrakeKind.REFUSE, "b")
        rig.wait_until(lambda: answers.open_order is None)
