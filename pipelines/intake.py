"""Raw stream topic → `.valid`, or `.dlq`, exactly once. The one validator of what the lake, the tiles and the join count.

Requests that are feature events themselves are copied to their `.valid` twin too, into the partition they stand in, with
their own offset in a header: so what the tiles count can be told from what a scorer has consumed. The scorer judges
the same records with the same decoder, and it alone sends the refused ones to the dead letters.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from features import plan_files
from features.lateness import Lateness
from features.views import Plan, PlanUnreadable
from pipelines.pace import COPIES, PROMPT
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

log = structlog.get_logger()


class Intake:
    """Judges records by the contract of their topic, and counts.

    Args:
        contracts: Topic → contract.
        requests: Those of the topics that hold requests.
        lateness: Told the event times of what passed.
    """

    def __init__(
        self,
        contracts: Mapping[str, type[Event]],
        requests: Collection[str] = (),
        lateness: Lateness | None = None,
    ) -> None:
        self._contracts = contracts
        self._requests = frozenset(requests)
        self._lateness = lateness or Lateness(Plan(), 0)
        self.accepted = 0
        self.refused = 0
        self._last = (0, 0)
        self._passed_ms: dict[tuple[str, int], list[int]] = {}

    def transform(self, batch: Sequence[Message]) -> list[Outgoing]:
        """One outgoing record for each that came, none for a refused request; no order and no duplicate is changed."""
        self._passed_ms = defaultdict(list)
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
        for (topic, partition), times_ms in self._passed_ms.items():
            self._lateness.note(topic, partition, times_ms)
        self._passed_ms = {}

    def _judged(self, message: Message) -> Outgoing | None:
        topic = str(message.topic())
        verdict = decode(self._contracts[topic], message.value(), message.timestamp()[1])
        if isinstance(verdict, Refusal):
            if topic in self._requests:
                return None
            dead = dead_letter(message, verdict)
            return Outgoing(dead.topic, dead.key, dead.value, dead.headers)
        valid = topic + topics.VALID_SUFFIX
        self._passed_ms[valid, int(message.partition() or 0)].append(verdict.event_time_ms)
        if topic in self._requests:
            return _copied(message)
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


class _Applied:
    """The plan that is applied, looked at once a report: it is written, and changes, while an intake runs."""

    def __init__(self, path: str | None, lateness: Lateness) -> None:
        self._path = Path(path) if path else None
        self._lateness = lateness
        self._stamp: plan_files.Stamp | None = None

    def look(self) -> None:
        if self._path is None or not self._path.exists():
            return
        stamp = plan_files.stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._lateness.follow(Plan.load(self._path))
        except PlanUnreadable as error:
            # Of another version; `apply` is about to replace it, and events pass whoever counts them.
            log.warning("late events are not counted", cause=str(error))


def run(
    ctx: WorkerContext,
    kafka: KafkaSettings,
    plan_path: str | None = None,
    lateness_s: int = 86_400,
) -> None:
    """The worker: until stopped.

    Args:
        ctx: What every worker is given.
        kafka: The cluster.
        plan_path: The applied plan, for whose views late events are counted; None counts none.
        lateness_s: The allowed lateness.

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
    lateness = Lateness(Plan(), lateness_s)
    applied = _Applied(plan_path, lateness)
    intake = Intake(contracts, copied, lateness)
    pipe = TransactionalPipe(kafka, slot, COPIES if copied else PROMPT)
    reported_s = 0.0

    def committed() -> None:
        nonlocal reported_s
        intake.count()
        if time.monotonic() - reported_s >= REPORT_INTERVAL_S:
            reported_s = time.monotonic()
            applied.look()
            counted = {"accepted": intake.accepted, "refused": intake.refused}
            ctx.report({**counted, "aborted": pipe.aborted, **lateness.counters})

    applied.look()
    try:
        run_pipe(pipe, intake.transform, committed, ctx.stop)
    finally:
        pipe.close()
