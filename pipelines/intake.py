"""Raw stream topic → `.valid`, or `.dlq`, exactly once. The one validator of what the lake, the tiles and the join count."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipelines.transactions import Outgoing, Slot, TransactionalPipe
from pipelines.transactions import run as run_pipe
from schemas import topics
from schemas.decoding import Refusal, decode
from schemas.envelope import headers_of
from schemas.quarantine import dead_letter

if TYPE_CHECKING:
    from confluent_kafka import Message

    from schemas.events import Event
    from schemas.settings import KafkaSettings
    from schemas.worker import WorkerContext

REPORT_INTERVAL_S = 1.0


class Intake:
    """Judges records by the contract of their topic, and counts."""

    def __init__(self, contracts: Mapping[str, type[Event]]) -> None:
        self._contracts = contracts
        self.accepted = 0
        self.refused = 0
        self._last = (0, 0)

    def transform(self, batch: Sequence[Message]) -> list[Outgoing]:
        """One outgoing record for each that came; neither an order nor a duplicate is changed."""
        outgoing = [self._judged(message) for message in batch]
        refused = sum(record.topic.endswith(topics.DLQ_SUFFIX) for record in outgoing)
        self._last = (len(outgoing) - refused, refused)
        return outgoing

    def count(self) -> None:
        """Count the last batch: called once it is committed, so that a repeated one counts once."""
        self.accepted += self._last[0]
        self.refused += self._last[1]
        self._last = (0, 0)

    def _judged(self, message: Message) -> Outgoing:
        topic = str(message.topic())
        verdict = decode(self._contracts[topic], message.value(), message.timestamp()[1])
        if isinstance(verdict, Refusal):
            dead = dead_letter(message, verdict)
            return Outgoing(dead.topic, dead.key, dead.value, dead.headers)
        valid = topic + topics.VALID_SUFFIX
        return Outgoing(valid, message.key(), message.value(), headers_of(message))


def run(ctx: WorkerContext, kafka: KafkaSettings) -> None:
    """The worker: until stopped.

    Raises:
        SlotTaken: Another intake of this use case runs.
        KafkaUnavailable: The cluster is out of reach.
    """
    raw = topics.stage(ctx.case, "raw")
    slot = Slot(f"{ctx.case}.intake", f"{ctx.case}.intake.0", tuple(topic.name for topic in raw))
    intake = Intake({topic.name: topic.contract for topic in raw if topic.contract})
    pipe = TransactionalPipe(kafka, slot)
    reported_s = 0.0

    def committed() -> None:
        nonlocal reported_s
        intake.count()
        if time.monotonic() - reported_s >= REPORT_INTERVAL_S:
            reported_s = time.monotonic()
            ctx.report(
                {"accepted": intake.accepted, "refused": intake.refused, "aborted": pipe.aborted}
            )

    try:
        run_pipe(pipe, intake.transform, committed, ctx.stop)
    finally:
        pipe.close()
