from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from infra.local.kafka import KafkaServer
from schemas.group_offsets import GroupOffsets, Hung
from schemas.settings import KafkaSettings
from tests.benchmarks.raw_topics import create

TIMEOUT_S = 1.0


@pytest.fixture
def broker(jars: Path, tmp_path: Path) -> Iterator[KafkaServer]:
    with KafkaServer(tmp_path / "kafka", jars / "kafka") as server:
        yield server


def test_a_broker_that_falls_silent_costs_the_timeout_and_the_next_producer_goes_on(
    broker: KafkaServer,
) -> None:
    kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
    create(kafka, "in")
    consumer = Consumer(kafka.client_config(group_id="group"))
    offsets, sender = [TopicPartition("in", 0, 7)], GroupOffsets(TIMEOUT_S)

    def begun() -> Producer:
        producer = Producer(kafka.client_config(transactional_id="one"))
        producer.init_transactions(30)
        producer.begin_transaction()
        return producer

    first = begun()
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGSTOP)
    began_s = time.monotonic()
    try:
        with pytest.raises(KafkaException) as raised:
            sender.send(first, offsets, consumer.consumer_group_metadata())
        waited_s = time.monotonic() - began_s
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    assert waited_s < TIMEOUT_S + 5, "it would wait for the socket's timeout, a minute, by itself"
    if isinstance(raised.value, Hung):
        assert sender.hung == 1
        assert any(thread.name == "timed-call" for thread in threading.enumerate())
    second = begun()
    sender.send(second, offsets, consumer.consumer_group_metadata())
    second.commit_transaction(10)
    assert consumer.committed([TopicPartition("in", 0)], 10)[0].offset == 7
    consumer.close()
