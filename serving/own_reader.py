"""The scorer's memory of the requests it consumed, where those are feature events (`features.own_events`).

After a takeover the newest records before the first one are read back from the log, so that, as a rule, nothing needs to be
waited for: what is not read back has long been in the rings.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from features.own_events import Own, OwnEvents
from schemas.decoding import Refusal, decode
from schemas.errors import HeadraceError

if TYPE_CHECKING:
    from schemas.events import Event
    from schemas.settings import KafkaSettings
    from serving.settings import ServingSettings

READ_TIMEOUT_S = 10.0
POLL_S = 0.005
_CHUNK = 2_000


class PastUnreadable(HeadraceError):
    """The requests before the first one cannot be read, so nobody can say what the features lack."""


class OwnReader:
    """Keeps `OwnEvents` in step with what a scorer consumes. Does nothing where no view of the service needs it."""

    def __init__(
        self,
        kafka: KafkaSettings,
        case: str,
        contract: type[Event],
        events: OwnEvents,
        settings: ServingSettings,
    ) -> None:
        self.events = events
        self._kafka, self._topic, self._contract = kafka, f"{case}.requests", contract
        self._back, self._settle_s = settings.own_events_back, settings.settle_timeout_ms / 1000
        self._left_s = 0.0

    def consume(
        self, verdicts: Iterable[tuple[Message, Event | Refusal]], owned: frozenset[int]
    ) -> None:
        """Remember a batch before its features are read; records that come again change nothing.

        Raises:
            PastUnreadable: A partition was taken over and its past cannot be read.
        """
        if not self.events.views:
            return
        self.events.forget(self.events.partitions - owned)
        # A wait that is under way when the next batch comes has had its time.
        self._left_s = 0.0
        for message, verdict in verdicts:
            partition, offset = int(message.partition() or 0), int(message.offset() or 0)
            if not self.events.follows(partition, offset):
                self._take_over(partition, offset)
            self._remember(message, verdict)

    def of(self, messages: Sequence[Message]) -> Own | None:
        """Where the requests of a batch stand; None where no view of the service asks."""
        if not self.events.views:
            return None
        places = np.array([(m.partition() or 0, m.offset() or 0) for m in messages], dtype=np.int64)
        return Own(self.events, places[:, 0], places[:, 1])

    def may_wait(self) -> bool:
        """Wait a moment for the rings, as long as the budget of the last takeover lasts."""
        if self._left_s <= 0:
            return False
        time.sleep(POLL_S)
        self._left_s -= POLL_S
        return True

    def _remember(self, message: Message, verdict: Event | Refusal) -> None:
        partition, offset = int(message.partition() or 0), int(message.offset() or 0)
        if isinstance(verdict, Refusal):
            self.events.passed(partition, offset)
        else:
            self.events.observe(partition, offset, verdict)

    def _take_over(self, partition: int, first: int) -> None:
        """Begin at `own_events_back` records before the first; with the whole log where it is no longer than that."""
        since = max(0, first - self._back)
        consumer = Consumer(
            self._kafka.client_config(
                group_id=f"{self._topic}.past",
                isolation_level="read_committed",
                enable_auto_commit=False,
                enable_partition_eof=True,
                auto_offset_reset="earliest",
                fetch_wait_max_ms=5,
            )
        )
        try:
            low, _ = consumer.get_watermark_offsets(
                TopicPartition(self._topic, partition), READ_TIMEOUT_S
            )
            since = max(since, low)
            # What retention has deleted came days ago; only a log whose beginning is known proves that nothing was.
            self.events.begin(partition, since, whole=since == 0)
            consumer.assign([TopicPartition(self._topic, partition, since)])
            self._read_back(consumer, partition, since, first)
        except KafkaException as error:
            raise self._unreadable(partition, str(error.args[0])) from error
        finally:
            consumer.close()
        self._left_s = self._settle_s

    def _read_back(self, consumer: Consumer, partition: int, at: int, first: int) -> None:
        deadline = time.monotonic() + READ_TIMEOUT_S
        while at < first:
            batch = consumer.consume(1, 0.1)
            for message in (*batch, *(consumer.consume(_CHUNK, 0) if batch else ())):
                # The end of the partition counts as its position, which is past every record before `first`.
                at = max(at, int(message.offset() or 0) + 1)
                if message.error() is None and int(message.offset() or 0) < first:
                    verdict = decode(self._contract, message.value(), message.timestamp()[1])
                    self._remember(message, verdict)
            if time.monotonic() > deadline:
                raise self._unreadable(partition, f"it stood at {at} of {first}")
        self.events.passed(partition, first - 1)

    def _unreadable(self, partition: int, came: str) -> PastUnreadable:
        return PastUnreadable(
            f"{self._topic}, partition {partition}",
            wanted="the requests before the first one",
            came=came,
            mend="Is the broker up (`headrace status`)?",
        )
