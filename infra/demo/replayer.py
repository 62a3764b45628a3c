"""Replays a timeline through the topics, slice by slice, as fast as what was sent becomes readable and answered."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from confluent_kafka import Producer

from schemas.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from infra.demo.answers import Answers
    from infra.demo.barrier import Barrier
    from infra.demo.slices import Sent, Slice
    from schemas.settings import KafkaSettings

# The join follows in life by milliseconds. At 20,000 times life a second behind is half a day, and a canary's time would be over
# before its outcomes are counted.
JOINED_BEHIND_MAX = 300
# Longer than it takes to replace a killed replica, so that chaos costs latency and nothing else.
ANSWER_TIMEOUT_S = 120.0
VISIBLE_TIMEOUT_S = 120.0
WARM_UP_CHUNK = 500
FLUSH_TIMEOUT_S = 60.0


class Unanswered(HeadraceError):
    """Requests that the broker acknowledged were not answered in time."""


class Unjoined(HeadraceError):
    """Outcomes that were published were not joined to their answers in time."""


@dataclass
class Progress:
    """What the replay has done so far; written by the replayer, read by the live view."""

    began_ms: int = 0
    clock_ms: int = 0
    slices: int = 0
    events: int = 0
    requests: int = 0
    outcomes: int = 0
    malformed: int = 0
    barrier_s: list[float] = field(default_factory=list)
    answer_s: list[float] = field(default_factory=list)
    held_s: float = 0.0
    replay_s: float = 0.0
    began: float = field(default_factory=time.monotonic)
    sent_at: dict[str, float] = field(default_factory=dict)


class Replayer:
    """Produces slices; holds event time while `busy` says that a retraining is under way.

    In life a training takes a minute in which nothing happens; at 20,000 times life it would take two weeks of flights.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        barrier: Barrier,
        answers: Answers,
        *,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self.progress = Progress()
        self._barrier, self._answers, self._busy = barrier, answers, busy
        self._producer = Producer(
            dict(kafka.client_config(enable_idempotence=True, linger_ms=1, acks="all"))
        )
        self._failed: list[str] = []

    def warm_up(self, events: Sequence[Sent]) -> None:
        """Send events that no request asks about yet, so that the windows of the first ones are full."""
        for at in range(0, len(events), WARM_UP_CHUNK):
            chunk = events[at : at + WARM_UP_CHUNK]
            self._send(chunk)
            self._barrier.sent(chunk)
            self._barrier.wait(VISIBLE_TIMEOUT_S)
            self.progress.clock_ms = chunk[-1].time_ms

    def replay(
        self,
        slices: Iterable[Slice],
        between: Callable[[], None],
        held: Callable[[], None] = lambda: None,
    ) -> None:
        """Send every slice; `between` is called after each, and `held` at each turn of waiting, on this thread."""
        waiting: Sequence[Sent] = []
        progress = self.progress
        progress.began = time.monotonic()
        for piece in slices:
            progress.began_ms = progress.began_ms or piece.start_ms
            self._hold(held)
            self._send(piece.events)
            self._barrier.sent(piece.events)
            self._await_answers(waiting)
            self._await_joined()
            progress.barrier_s.append(self._barrier.wait(VISIBLE_TIMEOUT_S))
            self._send(piece.requests)
            waiting = piece.requests
            progress.clock_ms = piece.start_ms
            progress.slices += 1
            between()
        self._await_answers(waiting)
        progress.replay_s = time.monotonic() - progress.began

    def _hold(self, held: Callable[[], None]) -> None:
        began = time.monotonic()
        while self._busy():
            held()
            time.sleep(0.1)
        self.progress.held_s += time.monotonic() - began

    def _send(self, records: Sequence[Sent]) -> None:
        for record in records:
            self._producer.produce(
                record.topic,
                key=record.key,
                value=record.value,
                headers=record.headers,
                on_delivery=self._delivered,
            )
            if record.topic.endswith(".requests"):
                self.progress.sent_at[record.id] = time.time()
                self.progress.requests += 1
            else:
                self.progress.events += 1
                self.progress.outcomes += record.fields.get("request_id") in self.progress.sent_at
            self.progress.malformed += not record.fields
        if self._producer.flush(FLUSH_TIMEOUT_S) or self._failed:
            reason = self._failed[0] if self._failed else f"{len(self._producer)} still waiting"
            raise HeadraceError("replay", wanted="every record acknowledged by Kafka", came=reason)

    def _delivered(self, error: object, _: object) -> None:
        if error is not None:
            self._failed.append(str(error))

    def _await_answers(self, requests: Sequence[Sent]) -> None:
        began = time.monotonic()
        ids = {record.id for record in requests}
        missing = self._answers.wait_for(ids, ANSWER_TIMEOUT_S)
        if missing:
            raise Unanswered(
                "replay",
                wanted=f"an answer to every request within {ANSWER_TIMEOUT_S:.0f} s",
                came=f"{len(missing)} of {len(ids)} had none, {min(missing)} among them",
                mend="Look at the log of the scorer: `headrace logs scorer`.",
            )
        if requests:
            self.progress.answer_s.append(time.monotonic() - began)

    def _await_joined(self) -> None:
        """Wait until nearly every outcome of a request that was asked is joined to its answer."""
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while (behind := self.progress.outcomes - self._answers.joined) > JOINED_BEHIND_MAX:
            if time.monotonic() > deadline:
                raise Unjoined(
                    "replay",
                    wanted=f"all but {JOINED_BEHIND_MAX} outcomes joined within {ANSWER_TIMEOUT_S:.0f} s",
                    came=f"{behind} are not",
                    mend="Look at the log of the join: `headrace logs outcomes`.",
                )
            time.sleep(0.01)
