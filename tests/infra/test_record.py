"""The auditor and what verifies it, on a real broker."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Producer

from features.lake import Lake
from features.lake_schema import Coordinate, event_table, lake_schema
from features.settings import StoreSettings
from infra.record import judge
from infra.topic_scan import scan
from monitoring import auditor
from monitoring.audit_chain import GRACE_MS, Judgement, Wrong, link, sha256
from schemas import topics
from schemas.control import AuditRecord, Brake, BrakeKind, ControlEvent, KeyActKind, Release
from schemas.control_log import ControlLog, Entry
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext
from serving.key_record import KeyRecord, key_act
from tests.conftest import stores_at
from tests.monitoring import rig

CASE = "on_record"
WORKER = """
import sys, threading
from monitoring import auditor
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext
kafka, case = sys.argv[1:]
context = WorkerContext(case, threading.Event(), lambda counters: None)
auditor.run(context, KafkaSettings.model_validate_json(kafka))
"""
T0_MS = 1_370_131_200_000
WAIT_S = 30.0


@pytest.fixture
def broker(kafka: KafkaSettings) -> Iterator[KafkaSettings]:
    """With a use case of this file's own: its record is tampered with."""
    rig.register(CASE)
    topics.create(kafka, topics.CONTROL_TOPICS)
    yield kafka
    rig.unregister(CASE)


@pytest.fixture
def lake(tmp_path: Path) -> StoreSettings:
    return stores_at(tmp_path, "redis://127.0.0.1:1/0")


def release(epoch: int) -> Release:
    return Release(
        event_time_ms=T0_MS,
        event_id=f"release-{epoch}",
        case=CASE,
        decided_at_ms=1,
        epoch=epoch,
        model=CASE,
        champion="v0001",
        salt="s",
        reason="test",
        decided_by="test",
    )


def word(sequence: int, case: str = CASE) -> Brake:
    return Brake(
        event_time_ms=T0_MS,
        event_id=f"brake-{sequence}",
        case=case,
        decided_at_ms=1,
        sequence=sequence,
        kind=BrakeKind.PAUSE,
        by="ann",
        reason="Überprüfung",
    )


def publish(kafka: KafkaSettings, *events: ControlEvent) -> None:
    with ControlLog(kafka, CASE, (), "test.record") as log:
        log.publish(*events)


@contextmanager
def running(kafka: KafkaSettings) -> Iterator[list[int]]:
    """The auditor in a thread; yields the numbers of links that it reported."""
    links: list[int] = []
    stop = threading.Event()
    context = WorkerContext(CASE, stop, lambda told: links.append(int(told["links"])))
    thread = threading.Thread(target=auditor.run, args=(context, kafka))
    thread.start()
    try:
        yield links
    finally:
        stop.set()
        thread.join(WAIT_S)
        assert not thread.is_alive()


def await_links(links: list[int], count: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while not links or links[-1] < count:
        assert time.monotonic() < deadline, f"{links[-1:]} of {count} links"
        time.sleep(0.05)


def values(kafka: KafkaSettings) -> list[bytes]:
    return [m.value() or b"" for m in scan(kafka, "control.audit") if m.key() == CASE.encode()]


def kinds(told: Judgement) -> set[Wrong]:
    return {finding.kind for finding in told.findings}


def test_every_decision_is_recorded_once_over_restarts_and_tampering_is_found(
    broker: KafkaSettings, lake: StoreSettings, tmp_path: Path
) -> None:
    publish(broker, release(1), word(1), word(1, case="another"))
    with running(broker) as links:
        await_links(links, 2)
        publish(broker, release(2), word(2))
        await_links(links, 4)
    noted = KeyRecord(tmp_path / "acts.jsonl")
    noted.note(key_act(CASE, KeyActKind.ROTATE, "old", by="ann", reason="a year", signs="new"))
    assert [noted.send(broker) for _ in range(2)] == [1, 0]
    publish(broker, release(3))
    with running(broker) as links:
        await_links(links, 6)
    told = judge(broker, lake, CASE)
    assert (told.links, told.proved, told.waiting, told.findings) == (6, 6, 0, ())
    written = values(broker)
    assert '"key_id":"old"' in json.loads(written[4])["content"]
    assert told.head == sha256(written[-1])

    keep_in_lake(lake, written)
    assert judge(broker, lake, CASE, noted=(6, told.head[:12])).findings == ()
    assert kinds(judge(broker, lake, CASE, noted=(6, "0" * 12))) == {Wrong.HEAD}

    # What was decided a moment ago is too young to be missed.
    publish(broker, word(4))
    assert (judge(broker, lake, CASE).waiting, judge(broker, lake, CASE).findings) == (1, ())

    # A link by somebody else, which follows as it should, of an event that never was.
    invented = release(4)
    entry = Entry(invented, T0_MS, "control.releases", 99, invented.encode(), "headrace/operator")
    forge(broker, link(entry, 7, told.head))
    assert kinds(judge(broker, lake, CASE)) == {Wrong.FORGED}
    with running(broker) as links:
        await_links(links, 8)
    told = judge(broker, lake, CASE)
    assert [(f.kind, f.sequence) for f in told.findings] == [(Wrong.FORGED, 7)]


def keep_in_lake(stores: StoreSettings, written: list[bytes]) -> None:
    """As the archiver does."""
    table = topics.table_of(CASE)["control.audit"].table
    links = [AuditRecord.model_validate_json(value).model_dump() for value in written]
    rows = Lake(stores)
    rows.create(table, lake_schema(AuditRecord))
    places = [Coordinate(T0_MS, "control.audit", 0, n) for n in range(len(links))]
    offsets = {("control.audit", 0): len(links)}
    rows.append(table, event_table(AuditRecord, links, places), offsets)


def forge(kafka: KafkaSettings, record: AuditRecord) -> None:
    producer = Producer(kafka.client_config())
    producer.produce("control.audit", key=CASE, value=record.encode())
    assert producer.flush(10) == 0


def test_an_auditor_killed_at_random_moments_loses_and_repeats_nothing(
    broker: KafkaSettings, lake: StoreSettings
) -> None:
    seed = random.randrange(1_000)
    generator = random.Random(seed)
    begun = len(values(broker))
    newest = max((int(json.loads(v)["sequence"]) for v in values(broker)), default=0)
    numbers = iter(range(newest + 100, newest + 1_000))
    for _ in range(2):
        worker = subprocess.Popen([sys.executable, "-c", WORKER, broker.model_dump_json(), CASE])
        try:
            until_s = time.monotonic() + generator.uniform(1.5, 3.0)
            while time.monotonic() < until_s:
                publish(broker, word(next(numbers)), word(next(numbers)))
        finally:
            worker.kill()
            worker.wait()
    with running(broker) as links:
        await_caught_up(broker, links)
    mine = [json.loads(value) for value in values(broker)[begun:]]
    told = [one["content"] for one in mine]
    assert len(set(told)) == len(told) == next(numbers) - newest - 100, f"seed {seed}"
    assert kinds(judge(broker, lake, CASE)) <= {Wrong.FORGED}, "of the test before"


def await_caught_up(kafka: KafkaSettings, links: list[int]) -> None:
    """All words are in links."""
    with ControlLog(kafka, CASE, ("control.brake",)) as log:
        newest = log.read_all()[-1].event
    deadline = time.monotonic() + WAIT_S
    while newest.encode().decode() not in {json.loads(v)["content"] for v in values(kafka)}:
        assert time.monotonic() < deadline, f"{links[-1:]} links"
        time.sleep(0.2)


@pytest.mark.parametrize("topic", topics.CONTROL_TOPICS, ids=lambda topic: topic.name)
def test_every_control_event_has_a_place_in_the_lake(topic: topics.Topic) -> None:
    assert topic.contract is not None
    names = lake_schema(topic.contract).names
    assert len(set(names)) == len(names), "a field that the lake has a column of its own for"


def test_grace_is_longer_than_the_auditor_sleeps() -> None:
    assert GRACE_MS > 10_000 * auditor.POLL_S
