"""What a run has come to so far, as anybody can read it: results, joined rows, control events."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from monitoring.windows import JoinedRow
from schemas.control import Alert, Candidate, ControlEvent, Release, RetrainingOrder, Verdict
from schemas.control_log import ControlLog, Entry
from schemas.settings import KafkaSettings

TOPICS = (
    "control.releases",
    "control.alerts",
    "control.retraining",
    "control.candidates",
    "control.verdicts",
)
BATCH = 5_000


class Answer(msgspec.Struct):
    """What is read of a result."""

    request_id: str
    version: str
    status: str
    epoch: int


@dataclass
class Control:
    """The control events of a run, by kind, in order."""

    entries: list[Entry] = field(default_factory=list)

    def add(self, entries: list[Entry]) -> None:
        """Take note."""
        self.entries += entries

    @property
    def events(self) -> list[ControlEvent]:
        """All."""
        return [entry.event for entry in self.entries]

    @property
    def alerts(self) -> list[Alert]:
        """All."""
        return [e for e in self.events if isinstance(e, Alert)]

    @property
    def orders(self) -> list[RetrainingOrder]:
        """All."""
        return [e for e in self.events if isinstance(e, RetrainingOrder)]

    @property
    def candidates(self) -> list[Candidate]:
        """All."""
        return [e for e in self.events if isinstance(e, Candidate)]

    @property
    def verdicts(self) -> list[Verdict]:
        """All."""
        return [e for e in self.events if isinstance(e, Verdict)]

    @property
    def releases(self) -> list[Release]:
        """All."""
        return [e for e in self.events if isinstance(e, Release)]


class Follower:
    """Reads along. A context manager."""

    def __init__(self, kafka: KafkaSettings, case: str) -> None:
        self._control_log = ControlLog(kafka, case, TOPICS)
        self._results = f"{case}.results"
        self._consumer = Consumer(
            kafka.client_config(
                group_id=f"{case}.follower",
                enable_auto_commit=False,
                isolation_level="read_committed",
                fetch_wait_max_ms=10,
            )
        )
        self._consumer.assign(
            [
                TopicPartition(topic, partition, OFFSET_BEGINNING)
                for topic in (self._results, f"{case}.joined")
                for partition in (0, 1)
            ]
        )
        # When an answer came, in seconds of the wall clock, beside it: what a benchmark measures.
        self.answers: dict[str, tuple[Answer, float]] = {}
        self.twice = 0
        self.joined: dict[str, JoinedRow] = {}
        self.control = Control()

    def __enter__(self) -> Self:
        self._control_log.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._control_log.__exit__(kind, error, trace)
        self._consumer.close()

    def look(self, timeout_s: float = 0.005) -> None:
        """Read what has come of results and joined rows."""
        for message in self._consumer.consume(BATCH, timeout_s):
            error = message.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
            elif message.topic() == self._results:
                answer = _answer(message.value() or b"")
                self.twice += answer.request_id in self.answers
                self.answers[answer.request_id] = answer, time.time()
            else:
                row = _joined(message.value() or b"")
                self.joined[row.request_id] = row

    def look_at_control(self, timeout_s: float = 0.01) -> Control:
        """Read what has come of control events."""
        self.control.add(self._control_log.poll(timeout_s))
        return self.control


_answer = msgspec.json.Decoder(Answer).decode
_joined = msgspec.json.Decoder(JoinedRow).decode
