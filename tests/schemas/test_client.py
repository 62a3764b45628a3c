"""The producer's client against a real broker; a few lines of the test answer in the scorer's place."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, Producer

from schemas import topics
from schemas.client import Client, ResultTimeout
from schemas.envelope import headers
from schemas.flights import FlightRequest
from schemas.results import Result, Route, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemas.settings import KafkaSettings


def request(number: int) -> FlightRequest:
    return FlightRequest(
        event_time_ms=1_370_000_000_000 + number,
        request_id=f"client-{number}",
        carrier="UA",
        flight=1545,
        tailnum="N14228",
        origin="EWR",
        dest="IAH",
        distance_miles=1400.0,
        scheduled_hour=5,
        scheduled_weekday=5,
    )


def answer(asked: FlightRequest) -> Result:
    return Result(
        event_time_ms=asked.event_time_ms,
        request_id=asked.request_id,
        entity=asked.key,
        status=Status.SCORED,
        score=0.25,
        label=False,
        model="flights",
        version="v0001",
        route=Route.CHAMPION,
        epoch=1,
        features={},
        ages_ms={},
        read_at_ms=0,
        scored_at_ms=0,
        traceparent="",
    )


@pytest.fixture
def responder(kafka: KafkaSettings) -> Iterator[None]:
    topics.apply(kafka, "flights")
    stop = threading.Event()
    consumer = Consumer(
        dict(kafka.client_config(group_id="test.responder", auto_offset_reset="earliest"))
    )
    consumer.subscribe(["flights.requests"])
    producer = Producer(dict(kafka.client_config()))

    def respond() -> None:
        while not stop.is_set():
            for message in consumer.consume(100, 0.05):
                result = answer(FlightRequest.model_validate_json(message.value() or b""))
                producer.produce(
                    "flights.results", result.encode(), headers=headers(result, source="test")
                )
            producer.poll(0)
        producer.flush()
        consumer.close()

    thread = threading.Thread(target=respond)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("responder")
def test_answers_come_in_the_order_of_the_requests(kafka: KafkaSettings) -> None:
    with Client(kafka, case="flights") as client:
        results = client.ask_many([request(n) for n in range(20)], timeout_s=30)
    assert [r.request_id for r in results] == [f"client-{n}" for n in range(20)]


def test_no_answer_is_a_clear_error(kafka: KafkaSettings) -> None:
    topics.apply(kafka, "flights")
    with Client(kafka, case="flights") as client, pytest.raises(ResultTimeout, match="client-99"):
        client.ask(request(99), timeout_s=0.3)
