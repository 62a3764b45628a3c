"""Raw stream topic → `.valid`, or `.dlq`, exactly once. The one validator of what the lake, the tiles and the join count.

Requests that are feature events themselves are copied to their `.valid` twin too, into the partition they stand in, with
their own offset in a header: so what the tiles count can be told from what a scorer has consumed. The scorer judges
the same records with the same decoder, and it alone sends the refused ones to the dead letters.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from pipelines.transactions import Outgoing, Slot, TransactionalPipe
from pipelines.transactions import run as run_pipe
from schemas import topics
from schemas.decoding import Refusal, decode
from schemas.envelope import ORIGIN_OFFSET, headers_of
from schemas.quarantine import dead_letter

if TYPE_CHECKING:
    from confluent_kafka import Message

    from schemas.events import Event
    from schemas.settings import KafkaSettings
    from schemas.worker import WorkerContext

REPORT_INTERVAL_S = 1.0


class Intake:
    """Judges records by the contract of their topic, and counts.

    Args:
        contracts: Topic → contract.
        requests: Those of the topics that hold requests.
    """

    def __init__(
        self, contracts: Mapping[str, type[Event]], requests: Collection[str] = ()
    ) -> None:
        self._contracts = contracts
        self._requests = frozenset(requests)
        self.accepted = 0
        self.refused = 0
        self._last = (0, 0)

    def transform(self, batch: Sequence[Message]) -> list[Outgoing]:
        """One outgoing record for each that came, none for a refused request; no order and no duplicate is changed."""
        judged = [self._judged(message) for message in batch]
        outgoing = [record for record in judged if record is not None]
        accepted = sum(record.topic.endswith(topics.VALID_SUFFIX) for record in outgoing)
        self._last = (accepted, len(judged) - accepted)
        return outgoing

    def count(self) -> None:
        """Count the last batch: called once it is committed, so that a repeated one counts once."""
        self.accepted += self._last[0]
        self.refused += self._last[1]
        self._last = (0, 0)

    def _judged(self, message: Message) -> Outgoing | None:
        topic = str(message.topic())
        verdict = decode(self._contracts[topic], message.value(), message.timestamp()[1])
        if topic in self._requests:
            return None if isinstance(verdict, Refusal) else _copied(message)
        if isinstance(verdict, Refusal):
            dead = dead_letter(message, verdict)
            return Outgoing(dead.topic, dead.key, dead.value, dead.headers)
        valid = topic + topics.VALID_SUFFIX
        return Outgoing(valid, message.key(), message.value(), headers_of(message))


def _copied(message: Message) -> Outgoing:
    """A request as a feature event. Whatever a producer wrote into the header of its place is thrown away."""
    kept = [pair for pair in headers_of(message) if pair[0] != ORIGIN_OFFSET]
    return Outgoing(
        f"{message.topic()}{topics.VALID_SUFFIX}",
        message.key(),
        message.value(),
        [*kept, (ORIGIN_OFFSET, str(message.offset()).encode())],
        int(message.partition() or 0),
    )


def run(ctx: WorkerContext, kafka: KafkaSettings) -> None:
    """The worker: until stopped.

    Raises:
        SlotTaken: Another intake of this use case runs.
        KafkaUnavailable: The cluster is out of reach.
    """
    copied = {
        topic.name.removesuffix(topics.VALID_SUFFIX) for topic in topics.stage(ctx.case, "own")
    }
    requests = [t for t in topics.stage(ctx.case, "requests") if t.name in copied]
    raw = [*topics.stage(ctx.case, "raw"), *requests]
    slot = Slot(f"{ctx.case}.intake", f"{ctx.case}.intake.0", tuple(topic.name for topic in raw))
    contracts = {topic.name: topic.contract for topic in raw if topic.contract}
    intake = Intake(contracts, copied)
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
