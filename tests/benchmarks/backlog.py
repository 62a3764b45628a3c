"""The load of row f: requests that appear all at once, and the clock until the last of them is answered, committed."""

from __future__ import annotations

import time
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from schemas.client import NO_LEADER_YET
from schemas.envelope import headers
from schemas.flights import CARRIERS, ORIGINS, FlightRequest
from schemas.settings import FETCH_WAIT_MS
from tests.benchmarks.contenders import Elsewhere, Run
from tests.benchmarks.raw_topics import PARTITIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from schemas.settings import KafkaSettings

AIRCRAFT = 2_000
CLOCK_MS = 1_370_000_000_000
# A run's seconds are those of so many rows: contenders differ by three orders, and so do their backlogs.
PER_ROWS = 1_000
GIVE_UP_S = 120.0
SCORES_DIFFER_MAX = 1e-6


class Way(NamedTuple):
    """A contender: where it takes requests, where it answers, in which processes, and how many are a run."""

    source: str
    sink: str
    pids: tuple[int, ...]
    rows: int


class Answer(msgspec.Struct):
    """What is compared of a result."""

    request_id: str
    status: str
    score: float | None


class Backlogs:
    """Backlogs for all contenders, whose rows are the same in every run, under other ids.

    Args:
        kafka: The cluster.
        name: Of the model; a request that another model had answered would be a repeat.
        expected: What the model says to the n-th request.
    """

    def __init__(self, kafka: KafkaSettings, name: str, expected: Sequence[float]) -> None:
        self._kafka, self._name, self._expected = kafka, name, expected
        self._runs = count(1)

    def contender(self, way: Way) -> Callable[[], Run]:
        """A run; its seconds are those of `PER_ROWS` rows."""
        return lambda: self.run(way)

    def run(self, way: Way) -> Run:
        """Raises if a request is not answered, answered twice, or with another score than the model's."""
        name = f"{self._name}{next(self._runs)}"
        reader = _reader(self._kafka, way.sink)
        held = _held(self._kafka, name, way)
        used = Elsewhere(*way.pids)
        began_s = time.perf_counter()
        held.commit_transaction(30)
        values: list[bytes] = []
        while len(values) < way.rows and time.perf_counter() - began_s < GIVE_UP_S:
            values += [m.value() or b"" for m in reader.consume(5_000, 0.005) if not m.error()]
        seconds = time.perf_counter() - began_s
        each = PER_ROWS / way.rows
        run = used.run(seconds)
        values += [m.value() or b"" for m in reader.consume(5_000, 0.2) if not m.error()]
        reader.close()
        self._check(name, values, way)
        return Run(run.seconds * each, run.cpu_s * each, run.peak_mb)

    def _check(self, name: str, values: Sequence[bytes], way: Way) -> None:
        answers = [msgspec.json.decode(value, type=Answer) for value in values]
        scores = {one.request_id: one.score for one in answers if one.status == "scored"}
        wanted = {f"{name}-{n}": float(self._expected[n]) for n in range(way.rows)}
        assert len(answers) == way.rows, f"{way.sink}: {len(answers)} answers to {way.rows}"
        assert scores.keys() == wanted.keys(), f"{way.sink}: others were scored than asked"
        differ = max(abs((scores[key] or 0.0) - score) for key, score in wanted.items())
        assert differ <= SCORES_DIFFER_MAX, f"{way.sink}: scores differ by {differ}"


def requests(rows: int, name: str) -> list[FlightRequest]:
    """The first so many of always the same, of one instant; only their ids depend on `name`."""
    ends = np.array([AIRCRAFT, len(ORIGINS), len(CARRIERS), 24, 7, 5_000])
    drawn = (np.random.default_rng(7).random((rows, len(ends))) * ends).astype(int).tolist()
    return [
        FlightRequest(
            request_id=f"{name}-{n}",
            event_time_ms=CLOCK_MS,
            carrier=CARRIERS[carrier],
            flight=12,
            tailnum=f"N{aircraft:04}",
            origin=ORIGINS[origin],
            dest="SFO",
            distance_miles=1.0 + miles,
            scheduled_hour=hour,
            scheduled_weekday=weekday,
        )
        for n, (aircraft, origin, carrier, hour, weekday, miles) in enumerate(drawn)
    ]


def _held(kafka: KafkaSettings, name: str, way: Way) -> Producer:
    """The requests in the log, with the headers of our client; the commit, which is the caller's, shows them all at once."""
    producer = Producer(
        kafka.client_config(
            transactional_id=f"backlog.{name}",
            transaction_timeout_ms=120_000,
            queue_buffering_max_messages=2_000_000,
        )
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    for request in requests(way.rows, name):
        said = headers(request, source="bench")
        producer.produce(way.source, request.encode(), request.key, headers=said)
    assert producer.flush(60) == 0
    return producer


def _reader(kafka: KafkaSettings, topic: str) -> Consumer:
    """Of what is committed from now on."""
    reader = Consumer(
        kafka.client_config(
            group_id="bench",
            enable_auto_commit=False,
            isolation_level="read_committed",
            fetch_wait_max_ms=FETCH_WAIT_MS,
        )
    )
    reader.assign([TopicPartition(topic, p, _end(reader, topic, p)) for p in range(PARTITIONS)])
    # The first fetch finds its way to the broker.
    reader.consume(1, 0.2)
    return reader


def _end(reader: Consumer, topic: str, partition: int) -> int:
    give_up_s = time.monotonic() + 10.0
    while True:
        try:
            return reader.get_watermark_offsets(TopicPartition(topic, partition), 10)[1]
        except KafkaException as error:
            # A topic that was created a moment ago.
            if error.args[0].code() not in NO_LEADER_YET or time.monotonic() > give_up_s:
                raise
            time.sleep(0.1)
