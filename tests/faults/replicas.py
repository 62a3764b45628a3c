"""Scorers that a case hurts, and what must be true of all it asked once they have recovered."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from serving.settings import ServingSettings
from tests.faults import answers
from tests.faults import invariants as must
from tests.faults.stage import Stage, Worker
from tests.pipelines import toy
from tests.pipelines.records import committed

STATIONS = tuple(f"s{n}" for n in range(12))
AS_OF_MS = toy.START_MS
# A replica that is gone is known to be after so long; its open transaction ends after so long.
SESSION_TIMEOUT_MS = 2_000
TRANSACTION_TIMEOUT_MS = 5_000
STARTED_WITHIN_S = 90.0


class Replicas:
    """The topics, a model that `release` releases, and replicas of the case's scorer; nobody fills the features, which are all empty."""

    def __init__(
        self, stage: Stage, release: Callable[[Stage], Path] = answers.release, **changes: Any
    ) -> None:
        self._stage = stage
        stage.topics()
        self.serving = ServingSettings(
            models_dir=str(release(stage)),
            session_timeout_ms=SESSION_TIMEOUT_MS,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            **changes,
        )
        self.requests = f"{stage.case}.requests"
        self.results = f"{stage.case}.results"

    def start(self, *module: str, slot: int = 0, supervised: bool = True) -> Worker:
        """A replica; `module` is what runs instead of it, with its first arguments."""
        stage = self._stage
        sections = [s.model_dump_json() for s in (stage.rig.kafka, stage.stores, self.serving)]
        command = module or ("tests.faults.scored",)
        worker = stage.run("scorer", *command, stage.case, *sections, str(slot))
        worker.wanted = supervised
        return worker

    def asking(self, first: int = 0) -> answers.Asking:
        """Requests go on until the block ends."""
        return answers.Asking(self._stage, STATIONS, AS_OF_MS, first)

    def ask(self, count: int, first: int) -> None:
        """So many requests, acknowledged."""
        answers.ask(self._stage, STATIONS, AS_OF_MS, first, count)

    def finish(self, *, within: Callable[[], bool] | None = None) -> None:
        """Wait until all is answered, and check I1 to I8."""
        stage = self._stage
        done = within or (lambda: answers.answered(stage))
        stage.recovers("all answered", done, lambda: "requests are left")
        self.check()

    def lag(self) -> int:
        """Requests that are not committed as consumed."""
        return must.lag(self._stage, f"{self._stage.case}.scorer", self.requests)

    def check(self) -> None:
        """I1 to I8, of what is there now."""
        answers.check(self._stage)
        self.check_log()

    def check_log(self) -> None:
        """I6 and I7."""
        stage, left = self._stage, self.lag()
        stage.outcome.check("lag returns to 0", holds=not left, came=left)
        held = must.no_hanging_transaction(stage, self.requests, self.results)
        stage.outcome.check("no hanging transaction", holds=held)

    def offsets_agree(self) -> bool:
        """Whether exactly those requests have results that the committed offsets say were consumed."""
        consumer = Consumer(
            self._stage.rig.kafka.client_config(group_id=f"{self._stage.case}.scorer")
        )
        partitions = range(
            len(consumer.list_topics(self.requests).topics[self.requests].partitions)
        )
        places = consumer.committed([TopicPartition(self.requests, p) for p in partitions], 10)
        consumer.close()
        consumed = {p.partition: max(0, p.offset) for p in places}
        wanted = defaultdict(set)
        for message in committed(self._stage.rig.kafka, self.requests):
            partition = int(message.partition() or 0)
            if int(message.offset() or 0) < consumed[partition]:
                wanted[partition].add(answers.request_id(message))
        came = defaultdict(set)
        for message in committed(self._stage.rig.kafka, self.results):
            came[int(message.partition() or 0)].add(answers.request_id(message))
        return wanted == came


def dead_within(worker: Worker, within_s: float = STARTED_WITHIN_S) -> bool:
    """Wait until it has ended by itself; nobody starts it again meanwhile."""
    return _within(lambda: not worker.alive, within_s)


def stopped_within(worker: Worker, within_s: float = STARTED_WITHIN_S) -> bool:
    """Wait until it has stopped itself (SIGSTOP)."""
    stat = Path(f"/proc/{worker.process.pid}/stat")
    return _within(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", within_s)


def assigned_within(worker: Worker, within_s: float = STARTED_WITHIN_S) -> bool:
    """Wait until it has partitions."""
    return _within(lambda: worker.said("channel.assigned"), within_s)


def _within(condition: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
