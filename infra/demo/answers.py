"""Reads, as the replay runs, what comes back: results, dead letters and control events, committed ones only."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from schemas import control
from schemas.envelope import header
from schemas.settings import FETCH_WAIT_MS
from schemas.topics import CONTROL_TOPICS, stage

if TYPE_CHECKING:
    from types import TracebackType

    from confluent_kafka import Message

    from schemas.settings import KafkaSettings

BATCH = 2_000


class Answers:
    """A thread that reads; every attribute may be read by others at any time.

    Attributes:
        arrivals: Request id → wall clock of its first result, in seconds since the epoch.
        duplicates: Results after the first of their request.
        dead_letters: Dead-letter topic → records.
        dead_ids: The ids of refused records.
        joined: Rows of outcomes joined to their answers.
        alerts, orders, refusals, candidates, verdicts, releases: Control events, in order.
    """

    def __init__(self, kafka: KafkaSettings, case: str) -> None:
        self.arrivals: dict[str, float] = {}
        self.duplicates = 0
        self.dead_letters: Counter[str] = Counter()
        self.dead_ids: set[str] = set()
        self.joined = 0
        self.alerts: list[control.Alert] = []
        self.orders: list[control.RetrainingOrder] = []
        self.refusals: list[control.Brake] = []
        self.candidates: list[control.Candidate] = []
        self.verdicts: list[control.Verdict] = []
        self.releases: list[control.Release] = []
        self._kafka, self._case = kafka, case
        self._results, self._joined = f"{case}.results", f"{case}.joined"
        self._dlq = {t.name for t in stage(case, "dlq")}
        self._contracts = {t.name: t.contract for t in CONTROL_TOPICS}
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="answers", daemon=True)
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for(self, ids: set[str], timeout_s: float) -> set[str]:
        """Wait until every id has a result or a dead letter; returns those that have none by then."""
        deadline = time.monotonic() + timeout_s
        missing = self._missing(ids)
        while missing and (left_s := deadline - time.monotonic()) > 0:
            with self._changed:
                self._changed.wait(min(left_s, 0.05))
            missing = self._missing(missing)
            if self._error:
                raise self._error
        return missing

    @property
    def open_order(self) -> str | None:
        """The retraining that is under way: ordered, and neither admitted, failed, nor refused by the gate or a person."""
        if not self.orders:
            return None
        order = self.orders[-1].event_id
        failed = {c.order_id for c in self.candidates if c.error}
        judged = {v.order_id for v in self.verdicts}
        refused = {b.order_id for b in self.refusals}
        return None if order in failed | judged | refused else order

    @property
    def dead_letters_of_requests(self) -> int:
        """Requests that were refused."""
        return self.dead_letters[f"{self._case}.requests.dlq"]

    @property
    def release(self) -> control.Release | None:
        """What answers now."""
        return max(self.releases, key=lambda r: r.epoch, default=None)

    def _missing(self, ids: set[str]) -> set[str]:
        return {i for i in ids if i not in self.arrivals and i not in self.dead_ids}

    def _read(self) -> None:
        consumer = Consumer(
            dict(
                self._kafka.client_config(
                    group_id=f"{self._case}.demo.answers",
                    isolation_level="read_committed",
                    enable_auto_commit=False,
                    fetch_wait_max_ms=FETCH_WAIT_MS,
                )
            )
        )
        try:
            consumer.assign(self._beginnings(consumer))
            while not self._stop.is_set():
                # consume(n, timeout) waits its timeout out for n records, so the first is awaited alone.
                first = consumer.consume(1, 0.05)
                for message in first + consumer.consume(BATCH, 0) if first else ():
                    if not message.error():
                        self._take(message)
                with self._changed:
                    self._changed.notify_all()
        except Exception as error:  # noqa: BLE001 - raised again where the replay waits
            self._error = error
        finally:
            consumer.close()

    def _beginnings(self, consumer: Consumer) -> list[TopicPartition]:
        known = consumer.list_topics(timeout=10).topics
        names = [self._results, self._joined, *self._dlq, *self._contracts]
        return [TopicPartition(n, p, OFFSET_BEGINNING) for n in names for p in known[n].partitions]

    def _take(self, message: Message) -> None:
        topic = str(message.topic())
        if topic in self._contracts:
            self._take_control(topic, message.value())
            return
        identity = header(message, "ce_id") or ""
        if topic in self._dlq:
            self.dead_letters[topic] += 1
            self.dead_ids.add(identity)
        elif topic == self._joined:
            self.joined += 1
        elif identity in self.arrivals:
            self.duplicates += 1
        else:
            self.arrivals[identity] = time.time()

    def _take_control(self, topic: str, value: bytes | None) -> None:
        contract = self._contracts[topic]
        event = contract.model_validate_json(value) if contract and value else None
        match event:
            case control.Alert():
                self.alerts.append(event)
            case control.RetrainingOrder():
                self.orders.append(event)
            case control.Brake(kind=control.BrakeKind.REFUSE | control.BrakeKind.LAPSE):
                self.refusals.append(event)
            case control.Candidate():
                self.candidates.append(event)
            case control.Verdict():
                self.verdicts.append(event)
            case control.Release():
                self.releases.append(event)
