from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from infra.local.kafka import KafkaServer
from schemas import topics
from schemas.control import RetrainingOrder
from schemas.control_log import ControlLog, ControlLogUnavailable
from schemas.settings import KafkaSettings

TOPICS = ("control.retraining", "control.candidates")


@pytest.fixture(scope="module")
def broker(jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    with KafkaServer(tmp_path_factory.mktemp("kafka"), jars / "kafka") as server:
        settings = KafkaSettings(bootstrap_servers=server.bootstrap_servers)
        topics.create(settings, topics.CONTROL_TOPICS)
        yield settings


def order(name: str, case: str) -> RetrainingOrder:
    return RetrainingOrder(
        event_id=name,
        event_time_ms=1_370_000_000_000,
        case=case,
        decided_at_ms=1,
        alert_id="alert",
        since_ms=0,
        until_ms=1,
        reason="test",
    )


def read(kafka: KafkaSettings, case: str) -> list[str]:
    with ControlLog(kafka, case, TOPICS) as log:
        entries = log.read_all()
        assert log.caught_up
    assert [e.ingest_ms for e in entries] == sorted(e.ingest_ms for e in entries)
    return [e.event.event_id for e in entries]


def test_what_was_published_is_read_by_its_use_case_alone(broker: KafkaSettings) -> None:
    with ControlLog(broker, "mine", TOPICS, "writer.1") as log:
        log.publish(order("a", "mine"), order("b", "mine"))
        log.publish(order("c", "other"))
        assert [e.event.event_id for e in log.read_all()] == ["a", "b"]
        log.publish(order("d", "mine"))
        assert [e.event.event_id for e in log.poll(5)] == ["d"]
    assert read(broker, "mine") == ["a", "b", "d"]
    assert read(broker, "other") == ["c"]
    assert read(broker, "nobody") == []


def test_a_newer_writer_fences_the_older(broker: KafkaSettings) -> None:
    with ControlLog(broker, "fenced", TOPICS, "writer.2") as old:
        old.publish(order("first", "fenced"))
        with ControlLog(broker, "fenced", TOPICS, "writer.2") as new:
            new.publish(order("second", "fenced"))
            with pytest.raises(ControlLogUnavailable, match="publish"):
                old.publish(order("zombie", "fenced"))
    assert read(broker, "fenced") == ["first", "second"]


def test_garbage_is_passed_over(broker: KafkaSettings) -> None:
    producer = Producer(broker.client_config())
    for value in (b"{", b"{}", None):
        producer.produce("control.retraining", key="messy", value=value)
    producer.flush()
    with ControlLog(broker, "messy", TOPICS, "writer.3") as log:
        log.publish(order("good", "messy"))
    assert read(broker, "messy") == ["good"]


def test_a_missing_topic_is_said(broker: KafkaSettings) -> None:
    with (
        ControlLog(broker, "mine", ("control.unknown",)) as log,
        pytest.raises(ControlLogUnavailable, match="headrace topics apply"),
    ):
        log.read_all(3)


def test_an_unreachable_broker_is_said() -> None:
    nowhere = KafkaSettings(bootstrap_servers="127.0.0.1:1")
    with (
        ControlLog(nowhere, "mine", TOPICS) as log,
        pytest.raises(ControlLogUnavailable, match=r"127\.0\.0\.1:1"),
    ):
        log.read_all(1)
