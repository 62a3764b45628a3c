from __future__ import annotations

import threading
from typing import Any

import pytest
from confluent_kafka import Producer

from schemas.settings import KafkaSettings
from serving import release_log
from serving.release_log import ReleaseRefused
from serving.releases import with_canary
from tests.serving.conftest import CLOCK_MS, Bench

STAMP: dict[str, Any] = {"event_id": "e", "event_time_ms": CLOCK_MS, "decided_at_ms": CLOCK_MS}
STAMP |= {"reason": "a test", "decided_by": "test"}


def test_nothing_is_in_force_before_the_first(bench: Bench) -> None:
    assert release_log.current(bench.kafka, "flights") is None
    with pytest.raises(ReleaseRefused, match="there is no release"):
        release_log.rollback(bench.kafka, "flights", reason="?", decided_by="test")


def test_releases_follow_one_another(bench: Bench) -> None:
    bench.release_first()
    first = release_log.current(bench.kafka, "flights")
    assert first is not None
    with pytest.raises(ReleaseRefused, match="v0001 answers alone"):
        release_log.rollback(bench.kafka, "flights", reason="?", decided_by="test")

    canary = with_canary(first, candidate="v0002", share=0.1, salt="v0002", **STAMP)
    release_log.publish(bench.kafka, canary)
    assert release_log.current(bench.kafka, "flights") == canary
    with pytest.raises(ReleaseRefused, match="epoch 3, the one after that in force"):
        release_log.publish(bench.kafka, canary)

    ended = release_log.rollback(bench.kafka, "flights", reason="worse", decided_by="ann")
    assert (ended.epoch, ended.champion, ended.canary) == (3, "v0001", None)
    assert ended.decided_by == "ann"
    assert release_log.current(bench.kafka, "flights") == ended


def test_what_is_no_release_is_passed_over(bench: Bench) -> None:
    bench.release_first()
    producer = Producer(bench.kafka.client_config())
    for value in (b"{", None, b"{}"):
        producer.produce(release_log.TOPIC, key="flights", value=value)
    producer.flush()
    now = release_log.current(bench.kafka, "flights")
    assert now is not None
    assert now.epoch == 1


def test_of_publishers_at_once_one_succeeds(bench: Bench) -> None:
    bench.release_first()
    first = release_log.current(bench.kafka, "flights")
    assert first is not None
    refused: list[ReleaseRefused] = []

    def publish(n: int) -> None:
        release = with_canary(first, candidate=f"v{n}", share=0.1, salt="s", **STAMP)
        try:
            release_log.publish(bench.kafka, release)
        except ReleaseRefused as error:
            refused.append(error)

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    now = release_log.current(bench.kafka, "flights")
    assert now is not None
    assert now.epoch == 2
    assert len(refused) == 2


def test_an_unreachable_broker_is_a_sentence() -> None:
    nowhere = KafkaSettings(bootstrap_servers="127.0.0.1:1")
    release_log_timeout_s = release_log.TIMEOUT_S
    assert release_log_timeout_s <= 10
    with pytest.raises(ReleaseRefused, match=r"no answer within .* Is the broker up"):
        release_log.current(nowhere, "flights")
