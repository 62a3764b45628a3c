"""The control topics as a log that a worker folds: read from the beginning, then followed; appended to in transactions.

The log is all the state there is. A worker that starts fences its predecessor, reads the whole log, and so knows what
has been decided already; what it decides goes out in one transaction, so that a crash leaves all of a decision or none.
Control events are few (some a day), so reading all of them is cheap.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from schemas.control import ControlEvent
from schemas.decoding import VALUE_BYTES_MAX, Refusal, decode
from schemas.envelope import header, headers
from schemas.errors import HeadraceError
from schemas.topics import CONTROL_TOPICS

if TYPE_CHECKING:
    from schemas.settings import KafkaSettings

CONTRACTS = {t.name: t.contract for t in CONTROL_TOPICS}
TOPIC_OF = {t.contract: t.name for t in CONTROL_TOPICS}
TIMEOUT_S = 30.0
# A decision is a handful of records: a transaction that is open longer belongs to a dead process.
TRANSACTION_TIMEOUT_MS = 8_000
BATCH = 500
# A link of the record quotes an event whole: its quotation marks take two bytes each, at worst all of it does.
BYTES_MAX = 3 * VALUE_BYTES_MAX
POLL_S = 0.2

log = structlog.get_logger()


class ControlLogUnavailable(HeadraceError):
    """Kafka did not take or give control events; the worker must start again and read anew."""


@dataclass(frozen=True)
class Entry:
    """A control event and when the broker appended it: the one clock that orders events of different writers.

    The rest is for the record: where it lies, its bytes, and who wrote it (`ce_source`).
    """

    event: ControlEvent
    ingest_ms: int
    topic: str = ""
    offset: int = -1
    value: bytes = b""
    source: str = ""


class ControlLog:
    """Control events of one use case. Use as a context manager, from one thread."""

    def __init__(
        self, kafka: KafkaSettings, case: str, topics: Sequence[str], writer: str | None = None
    ) -> None:
        """Nothing is contacted before `with`.

        Args:
            kafka: The cluster.
            case: Events of other use cases are passed over.
            topics: The control topics to read.
            writer: The transactional id to write under; the newest process that uses it fences all others. None
                only reads.
        """
        self._kafka = kafka
        self._case = case
        self._topics = topics
        self._writer = writer
        self._unread = set(topics)

    def __enter__(self) -> Self:
        if self._writer is not None:
            self._producer = Producer(self._producer_config(self._writer))
            # Before reading: this settles whatever a predecessor left open, so that the log read next is complete.
            with self._or_unavailable("fence its predecessor"):
                self._producer.init_transactions(TIMEOUT_S)
        self._consumer = Consumer(
            self._kafka.client_config(
                group_id=f"{self._case}.control",  # required by librdkafka; nothing is committed to it
                enable_auto_commit=False,
                enable_partition_eof=True,
                isolation_level="read_committed",
                fetch_wait_max_ms=50,
            )
        )
        self._consumer.assign([TopicPartition(t, 0, OFFSET_BEGINNING) for t in self._topics])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._consumer.close()
        if self._writer is not None:
            # A producer that was fenced warns that it cannot abort: the newer one has done so already.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                self._producer.close()

    @property
    def caught_up(self) -> bool:
        """Whether every topic has been read to its end once; decide nothing before."""
        return not self._unread

    def poll(self, timeout_s: float) -> list[Entry]:
        """The next events, in the order of each topic; empty when none came in time.

        Raises:
            ControlLogUnavailable: A topic is missing, or Kafka refused.
        """
        entries = []
        for message in self._consumer.consume(BATCH, timeout_s):
            error = message.error()
            if error is None:
                entry = self._entry(message)
                if entry is not None:
                    entries.append(entry)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's name
                self._unread.discard(str(message.topic()))
            elif error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART or error.fatal():
                raise self._unavailable("read its topics", error.str())
            else:
                # Brokers that restart are waited for; librdkafka reconnects by itself.
                log.warning("control_log.read", error=error.str())
        return entries

    def read_all(self, timeout_s: float = TIMEOUT_S) -> list[Entry]:
        """Everything up to the end of every topic.

        Raises:
            ControlLogUnavailable: The end was not reached in time.
        """
        entries: list[Entry] = []
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            entries += self.poll(POLL_S)
            if self.caught_up:
                return entries
        raise self._unavailable(
            "read its topics to their end", f"{timeout_s:.0f} s were not enough"
        )

    def publish(self, *events: ControlEvent) -> None:
        """Append all of the events, or none of them.

        Raises:
            ControlLogUnavailable: They may or may not be there: start again and read.
        """
        with self._or_unavailable("publish"):
            self._producer.begin_transaction()
            for event in events:
                self._producer.produce(
                    TOPIC_OF[type(event)],
                    key=event.key,
                    value=event.encode(),
                    headers=headers(event, source=f"headrace/{self._writer}"),
                )
            self._producer.commit_transaction(TIMEOUT_S)

    def _entry(self, message: Message) -> Entry | None:
        contract = CONTRACTS[str(message.topic())]
        assert contract is not None, message.topic()
        ingest_ms = message.timestamp()[1]
        event = decode(contract, message.value(), ingest_ms, BYTES_MAX)
        if isinstance(event, Refusal):
            log.warning("control_log.refused", topic=message.topic(), rule=event.rule)
            return None
        if not isinstance(event, ControlEvent) or event.case != self._case:
            return None
        return Entry(
            event,
            ingest_ms,
            str(message.topic()),
            message.offset() or 0,
            message.value() or b"",
            header(message, "ce_source") or "",
        )

    def _producer_config(self, writer: str) -> dict[str, str | int | float | bool]:
        return self._kafka.client_config(
            transactional_id=writer,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            retry_backoff_ms=1,
            acks="all",
        )

    @contextmanager
    def _or_unavailable(self, step: str) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            raise self._unavailable(step, error.args[0].str()) from error

    def _unavailable(self, step: str, came: str) -> ControlLogUnavailable:
        return ControlLogUnavailable(
            f"control topics of {self._case} on {self._kafka.bootstrap_servers}",
            wanted=f"{self._writer or 'a reader'} to {step}",
            came=came,
            mend="Is the broker up (`headrace status`), and were the topics made (`headrace topics apply`)?",
        )
