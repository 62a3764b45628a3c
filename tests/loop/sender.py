"""Rows of a known stream as requests and outcomes."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from confluent_kafka import Producer
from numpy.typing import NDArray

from schemas.envelope import raw_headers
from schemas.settings import KafkaSettings
from tests.loop.known_case import OUTCOME_AFTER_ROWS, KnownCase

Floats = NDArray[np.float64]


class Sender:
    """Sends rows in their order, under the names `r0`, `r1`, …

    Attributes:
        inputs, labels: The stream.
        sent: How many rows were sent.
        told: Of how many the outcome was, too.
    """

    def __init__(
        self, kafka: KafkaSettings, case: KnownCase, inputs: Floats, labels: Floats
    ) -> None:
        self._case, self.inputs, self.labels = case, inputs, labels
        self._producer = Producer(kafka.client_config(linger_ms=5))
        self.sent = self.told = 0

    def send(self, until: int) -> None:
        """Rows up to there, each with the outcome that is due by then; acknowledged."""
        case = self._case
        for row in range(self.sent, until):
            asked = case.request(f"r{row}", row, self.inputs[row])
            self._produce("requests", asked, asked["entity"])
            if row >= OUTCOME_AFTER_ROWS:
                done = row - OUTCOME_AFTER_ROWS
                told = case.outcome(f"r{done}", done, float(self.labels[done]))
                self._produce("outcomes", told, told["request_id"])
            self._producer.poll(0)
        assert self._producer.flush(30) == 0
        self.sent, self.told = until, until - OUTCOME_AFTER_ROWS

    def ask(self, until: int) -> None:
        """Requests alone, as soon as the broker takes them; the stream goes round."""
        for row in range(self.sent, until):
            asked = self._case.request(f"r{row}", row, self.inputs[row % len(self.inputs)])
            self._produce("requests", asked, asked["entity"])
        self._producer.poll(0)
        self.sent = max(self.sent, until)

    def _produce(self, stream: str, value: dict[str, Any], key: str) -> None:
        headers = raw_headers(
            event_id=value["request_id"],
            event_type=f"headrace.{stream}",
            event_time_ms=value["event_time_ms"],
            source="tests/loop",
            traceparent=None,
        )
        topic = f"{self._case.name}.{stream}"
        self._producer.produce(topic, msgspec.json.encode(value), key, headers=headers)
