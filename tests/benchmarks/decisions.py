"""The load of row a: payments at a steady rate, each with its instant, and the clock from there to its committed answer."""

from __future__ import annotations

import gc
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

from pipelines.payments_generator import World, generate
from schemas.settings import FETCH_WAIT_MS
from tests.benchmarks.contenders import Run
from tests.benchmarks.raw_topics import PARTITIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from schemas.settings import KafkaSettings
    from tests.benchmarks.contenders import Contender

# What is not answered by then counts with the time that was waited for it.
GIVE_UP_S = 15.0
_SETTLED_S = 0.2
Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


class Answer(msgspec.Struct):
    """What the clock needs of a result."""

    request_id: str
    status: str = ""


class Decisions:
    """Asks one way after the other; every request of a run is answered once, or the run is void.

    Args:
        kafka: The cluster.
        ways: Contender → topic of requests, topic of answers.
    """

    def __init__(self, kafka: KafkaSettings, ways: Mapping[str, tuple[str, str]]) -> None:
        self._kafka, self._ways = kafka, ways
        self._seeds = count(1)
        self.latencies_ms: dict[tuple[str, int], list[Floats]] = {}
        self.statuses: dict[tuple[str, int], dict[str, int]] = {}

    def contender(self, name: str, rate: int, seconds: float) -> Contender:
        """A run of this way; its "seconds" are the 99th percentile."""

        def work() -> Run:
            latencies = self.run(name, rate, seconds)
            self.latencies_ms.setdefault((name, rate), []).append(1000 * latencies)
            return Run(float(np.percentile(latencies, 99)), 0.0, 0.0)

        return work

    def run(self, name: str, rate: int, seconds: float) -> Floats:
        """Seconds from each request's instant to its committed answer in this process."""
        source, sink = self._ways[name]
        rows = int(rate * seconds)
        payments = list(generate(World(next(self._seeds), 0, rows, rate)).rows())
        tally, reader = Tally(payments), self._reader(sink)
        producer = Producer(self._kafka.client_config(linger_ms=0))
        gc.disable()
        try:
            _drive(payments, rate, producer, source, reader, tally)
        finally:
            gc.enable()
            reader.close()
        self.statuses[name, rate] = tally.statuses
        return tally.seen_s - np.arange(rows) / rate

    def _reader(self, topic: str) -> Consumer:
        """Of what is committed from now on."""
        reader = Consumer(
            self._kafka.client_config(
                group_id="bench",
                enable_auto_commit=False,
                isolation_level="read_committed",
                fetch_wait_max_ms=FETCH_WAIT_MS,
            )
        )
        ends = [
            reader.get_watermark_offsets(TopicPartition(topic, p), 10)[1] for p in range(PARTITIONS)
        ]
        reader.assign([TopicPartition(topic, p, end) for p, end in enumerate(ends)])
        # The first fetch finds its way to the broker.
        reader.consume(1, _SETTLED_S)
        return reader

    def shown(self, name: str, rate: int, repeats: int) -> str:
        """Percentiles over the runs that count, and how they were answered."""
        runs = np.concatenate(self.latencies_ms[name, rate][-repeats:])
        p50, p95, p99, p999 = np.percentile(runs, [50, 95, 99, 99.9])
        told = ", ".join(f"{n:,} {status}" for status, n in self.statuses[name, rate].items())
        return (
            f"{name} p50 {p50:,.1f}, p95 {p95:,.1f}, p99 {p99:,.1f}, p99.9 {p999:,.1f} ms"
            f" (last run: {told})"
        )


class Tally:
    """What came back, and when."""

    def __init__(self, payments: Sequence[Mapping[str, Any]]) -> None:
        self._place = {row["request_id"]: index for index, row in enumerate(payments)}
        self._decode = msgspec.json.Decoder(Answer).decode
        self.seen_s = np.full(len(payments), np.nan)
        self.statuses: dict[str, int] = {}
        self.left = len(payments)

    def saw(self, value: bytes, now_s: float) -> None:
        """One answer; another run's late one is not this run's."""
        answer = self._decode(value)
        index = self._place.get(answer.request_id)
        if index is None:
            return
        assert np.isnan(self.seen_s[index]), f"{answer.request_id} was answered twice"
        self.seen_s[index] = now_s
        self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
        self.left -= 1

    def give_up(self, now_s: float) -> None:
        """Nothing more is waited for."""
        if self.left:
            self.statuses["unanswered"] = self.left
            self.seen_s[np.isnan(self.seen_s)] = now_s


def _drive(
    payments: Sequence[dict[str, Any]],
    rate: int,
    producer: Producer,
    source: str,
    reader: Consumer,
    tally: Tally,
) -> None:
    """Send each at its instant, and see what comes back, in one loop of about a millisecond."""
    encode, last_s = msgspec.json.encode, len(payments) / rate + GIVE_UP_S
    began, began_ms, sent = time.perf_counter(), time.time_ns() // 1_000_000, 0
    while tally.left and (now := time.perf_counter() - began) < last_s:
        due = min(len(payments), int(now * rate) + 1)
        for index in range(sent, due):
            row = payments[index]
            row["event_time_ms"] = began_ms + index * 1000 // rate
            producer.produce(source, encode(row), row["card_id"])
        sent = due
        producer.poll(0)
        for message in reader.consume(1_000, 0.001):
            assert message.error() is None, message.error()
            tally.saw(message.value() or b"", time.perf_counter() - began)
    tally.give_up(time.perf_counter() - began)
