"""A broker with the topics of flights, a plan, and models: what a scorer needs around it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from features.settings import StoreSettings
from infra.local.kafka import KafkaServer
from schemas import topics
from schemas.envelope import headers
from schemas.events import Event
from schemas.results import Result
from schemas.settings import KafkaSettings
from serving import release_log
from serving.scorer import Scorer
from serving.settings import ServingSettings
from tests.serving import model_folders

CASE = "flights"
CLOCK_MS = 1_370_000_000_000


@dataclass
class Bench:
    """A use case's topics, its models and its stores; `scorer()` runs a replica in a thread."""

    kafka: KafkaSettings
    stores: StoreSettings
    serving: ServingSettings
    models: Path
    failed: list[BaseException] = field(default_factory=list)

    def produce(self, requests: list[Event]) -> None:
        producer = Producer(self.kafka.client_config(linger_ms=5))
        for request in requests:
            producer.produce(
                f"{CASE}.requests",
                key=request.key,
                value=request.encode(),
                headers=headers(request, source="test"),
            )
        producer.flush()

    def read(self, topic: str) -> list[Message]:
        """Every committed record of a topic."""
        consumer = Consumer(
            self.kafka.client_config(
                group_id="reader", isolation_level="read_committed", enable_partition_eof=True
            )
        )
        found = []
        partitions = set(consumer.list_topics(topic, 10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
        while partitions:
            for message in consumer.consume(1, 10) + consumer.consume(1_000, 0):
                error = message.error()
                if error is None:
                    found.append(message)
                else:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    partitions.discard(message.partition() or 0)
        consumer.close()
        return found

    def results(self, topic: str = "results") -> list[Result]:
        """Every committed result; each passes its contract or the test fails."""
        return [Result.model_validate_json(m.value() or b"") for m in self.read(f"{CASE}.{topic}")]

    def await_count(self, topic: str, count: int, timeout_s: float = 30.0) -> list[Message]:
        """The topic's records once there are `count`."""
        deadline = time.monotonic() + timeout_s
        while len(found := self.read(topic)) < count and time.monotonic() < deadline:
            assert not self.failed, self.failed
            time.sleep(0.1)
        assert len(found) >= count, f"{len(found)} of {count} on {topic}"
        return found

    def release_first(self, champion: str = "v0001") -> None:
        release_log.publish(
            self.kafka,
            release_log.first(CASE, "flights", champion, event_time_ms=CLOCK_MS, decided_by="test"),
        )

    def release_second(self, champion: str) -> None:
        now = release_log.current(self.kafka, CASE)
        assert now is not None
        after = {"epoch": now.epoch + 1, "champion": champion, "event_id": "second"}
        release_log.publish(self.kafka, now.model_copy(update=after))

    @contextmanager
    def scorer(self, slot: int = 0) -> Iterator[Scorer]:
        """A replica in a thread; leaves cleanly, and hands on what it failed with."""
        stop = threading.Event()
        scorer = Scorer(CASE, self.kafka, self.stores, self.serving, slot=slot)

        def run() -> None:
            try:
                scorer.run(stop)
            except BaseException as error:
                self.failed.append(error)
                raise

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield scorer
        finally:
            stop.set()
            thread.join(30)
        assert not thread.is_alive()
        assert not self.failed, self.failed


def until(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def broker(jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    """A broker of this file's own: `flights.*` topics are emptied between its tests."""
    with KafkaServer(tmp_path_factory.mktemp("kafka"), jars / "kafka") as server:
        yield KafkaSettings(bootstrap_servers=server.bootstrap_servers)


@pytest.fixture
def bench(broker: KafkaSettings, stores: StoreSettings, tmp_path: Path) -> Bench:
    """Empty topics, a plan, and `v0001` on disk but not released."""
    _empty(broker)
    topics.apply(broker, CASE)
    mine = stores.model_copy(update={"plan_path": str(tmp_path / "plan.json")})
    model_folders.plan().save(mine.plan_path)
    models = tmp_path / "models"
    model_folders.write(models, "v0001")
    serving = ServingSettings(models_dir=str(models), session_timeout_ms=3_000)
    return Bench(broker, mine, serving, models)


def _empty(kafka: KafkaSettings) -> None:
    admin = AdminClient(kafka.client_config())
    mine = [name for name in admin.list_topics(timeout=10).topics if not name.startswith("_")]
    if mine:
        for future in admin.delete_topics(mine, operation_timeout=20).values():
            future.result(20)
        until(lambda: not set(mine) & set(admin.list_topics(timeout=10).topics))
        groups = [f"{CASE}.scorer"]
        for future in admin.delete_consumer_groups(groups).values():
            try:
                future.result(10)
            except Exception as error:
                if "GROUP_ID_NOT_FOUND" not in str(error):
                    raise
