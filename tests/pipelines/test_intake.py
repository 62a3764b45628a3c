from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

from confluent_kafka import Producer

from pipelines import intake
from pipelines.payments_generator import World, generate
from schemas import topics
from schemas.decoding import Refusal, decode
from schemas.envelope import ORIGIN_OFFSET, headers_of
from schemas.payments import PaymentRequest
from schemas.worker import WorkerContext
from tests.pipelines import toy
from tests.pipelines.records import committed, eventually, produce, produce_events

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confluent_kafka import Message

    from schemas.settings import KafkaSettings

SEED = 20_130_601


def _headers(message: Message) -> dict[str, str]:
    found = {}
    for name, value in headers_of(message):
        assert isinstance(value, bytes)
        found[name] = value.decode()
    return found


def test_what_is_sound_passes_unchanged_and_the_rest_is_quarantined_whole(
    kafka: KafkaSettings,
) -> None:
    case = toy.register("intake_judges")
    topics.apply(kafka, case)
    good = [toy.reading(i) for i in range(200)]
    bad: dict[str, bytes | None] = {
        "not_json": b"{",
        "contract": b'{"event_id": "e", "station": "s", "level": "high", "event_time_ms": 1700000000000}',
        "null_value": None,
        "absurd_time": b'{"event_id": "e", "station": "s", "level": 1.0, "event_time_ms": 1}',
        # As large as the broker takes: with its headers it is larger than that.
        "too_large": b"x" * 1_030_000,
    }
    produce_events(kafka, f"{case}.readings", good)
    produce(kafka, f"{case}.readings", list(bad.items()))
    reports: list[Mapping[str, float | int | str]] = []
    stop = threading.Event()
    ctx = WorkerContext(case, stop, lambda counters: reports.append(dict(counters)))
    thread = threading.Thread(target=intake.run, args=(ctx, kafka))
    thread.start()
    try:
        wanted = {"accepted": len(good), "refused": len(bad), "aborted": 0}
        eventually(lambda: bool(reports) and reports[-1] == wanted)
    finally:
        stop.set()
        thread.join()

    valid = committed(kafka, f"{case}.readings.valid")
    assert sorted(m.value() or b"" for m in valid) == sorted(e.encode() for e in good)
    assert {_headers(m)["ce_id"] for m in valid} == {"x"}
    partition_of = {(m.key(), m.partition()) for m in valid}
    assert len(partition_of) == len({key for key, _ in partition_of})
    dead = {(m.key() or b"").decode(): m for m in committed(kafka, f"{case}.readings.dlq")}
    assert {reason: m.value() for reason, m in dead.items()} == bad
    for reason, message in dead.items():
        assert _headers(message)["headrace_reason"] == reason
        assert _headers(message)["headrace_topic"] == f"{case}.readings"


def test_every_event_passes_exactly_once_through_an_intake_that_is_killed_again_and_again(
    kafka: KafkaSettings,
) -> None:
    case = toy.register("intake_killed")
    topics.apply(kafka, case)
    events = [toy.reading(i) for i in range(6_000)]
    feeding = threading.Thread(target=_feed, args=(kafka, f"{case}.readings", [*events]))
    feeding.start()
    pauses = random.Random(SEED)
    for _ in range(3):
        worker = toy.worker("intake", case, kafka)
        time.sleep(pauses.uniform(1.2, 2.5))
        worker.kill()
        worker.wait()
    feeding.join()
    # The last worker has something left to do, however fast its predecessors were.
    events.append(toy.reading(len(events)))
    worker = toy.worker("intake", case, kafka)
    produce_events(kafka, f"{case}.readings", events[-1:])
    valid = f"{case}.readings.valid"
    try:
        eventually(lambda: len(committed(kafka, valid)) >= len(events))
    finally:
        worker.terminate()
        assert worker.wait(20) == 0
    found = [m.value() or b"" for m in committed(kafka, valid)]
    assert sorted(found) == sorted(e.encode() for e in events), f"seed {SEED}"
    by_key: dict[bytes | None, list[int]] = {}
    for message in committed(kafka, valid):
        event = toy.Reading.model_validate_json(message.value() or b"")
        by_key.setdefault(message.key(), []).append(event.event_time_ms)
    assert all(times == sorted(times) for times in by_key.values())


def _feed(kafka: KafkaSettings, topic: str, events: list[toy.Reading]) -> None:
    for start in range(0, len(events), 100):
        produce_events(kafka, topic, events[start : start + 100])
        time.sleep(0.08)


def test_both_judges_of_requests_agree_and_the_copy_says_where_the_request_stands(
    kafka: KafkaSettings,
) -> None:
    """The scorer and the intake see the same bytes; what one takes for an event, the other must."""
    case = "payments"
    topics.apply(kafka, case)
    good = [r.model_copy() for r in generate(World(1, 1_700_000_000_000, 300)).requests()]
    bad = [b"{", None, good[0].encode()[:-1] + b',"a":1}', b'{"card_id": "c1"}']
    raw = f"{case}.requests"
    produce_events(kafka, raw, good[:150])
    produce(kafka, raw, [(f"c{n}", value) for n, value in enumerate(bad)])
    produce_events(kafka, raw, good[150:])
    stop = threading.Event()
    ctx = WorkerContext(case, stop, lambda _: None)
    thread = threading.Thread(target=intake.run, args=(ctx, kafka))
    thread.start()
    try:
        eventually(lambda: len(committed(kafka, f"{raw}.valid")) >= len(good))
    finally:
        stop.set()
        thread.join()

    taken = {
        (m.partition(), m.offset()): m.value()
        for m in committed(kafka, raw)
        if not isinstance(decode(PaymentRequest, m.value(), m.timestamp()[1]), Refusal)
    }
    copied = {
        (m.partition(), int(_headers(m)[ORIGIN_OFFSET])): m.value()
        for m in committed(kafka, f"{raw}.valid")
    }
    assert copied == taken
    assert len(taken) == len(good)
    # The scorer alone answers for what is refused.
    assert committed(kafka, f"{raw}.dlq") == []


def test_a_place_that_a_producer_made_up_is_thrown_away(kafka: KafkaSettings) -> None:
    topic = "intake_forged.requests"
    topics.create(kafka, [topics.Topic(topic, PaymentRequest, "card")])
    producer = Producer(kafka.client_config())
    request = next(generate(World(1, 1_700_000_000_000, 30)).requests())
    for _ in range(3):
        producer.produce(topic, request.encode(), "c1", headers=[(ORIGIN_OFFSET, b"999")])
    assert producer.flush(10) == 0
    judge = intake.Intake({topic: PaymentRequest}, [topic])
    copies = judge.transform(committed(kafka, topic))
    assert [dict(copy.headers) for copy in copies] == [
        {ORIGIN_OFFSET: str(offset).encode()} for offset in range(3)
    ]
