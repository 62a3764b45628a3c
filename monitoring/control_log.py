"""The control topics, read from their beginning: whoever decides knows everything that was decided before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from schemas.control import (
    Alert,
    Candidate,
    ControlEvent,
    Release,
    RetrainingOrder,
    Verdict,
)
from schemas.decoding import Refusal, decode

if TYPE_CHECKING:
    from schemas.settings import KafkaSettings

CONTRACTS: dict[str, type[ControlEvent]] = {
    "control.releases": Release,
    "control.alerts": Alert,
    "control.retraining": RetrainingOrder,
    "control.candidates": Candidate,
    "control.verdicts": Verdict,
}
BATCH_ROWS_MAX = 500

log = structlog.get_logger()


class ControlLog:
    """One use case's control events, in the order of each topic. Nothing is committed: every start reads all."""

    def __init__(self, kafka: KafkaSettings, case: str) -> None:
        self._case = case
        self._consumer = Consumer(
            kafka.client_config(
                # A group is demanded by the library, and never joined.
                group_id=f"{case}-control-log",
                isolation_level="read_committed",
                enable_auto_commit=False,
                # Positions never pass the transaction marker at a topic's end; this says that the end is reached.
                enable_partition_eof=True,
            )
        )
        self._consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING) for topic in CONTRACTS])
        self._ended: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def catch_up(self) -> Iterator[ControlEvent]:
        """Everything that is committed; blocks until each topic's end has been seen once. Call it first.

        Raises:
            KafkaException: The broker is out of reach, or a topic is missing.
        """
        while len(self._ended) < len(CONTRACTS):
            yield from self.poll(0.1)

    def poll(self, timeout_s: float = 0.0) -> Iterator[ControlEvent]:
        """What is new; waits at most `timeout_s` for the first."""
        for message in self._consumer.consume(BATCH_ROWS_MAX, timeout_s):
            event = self._decode(message)
            if event is not None and event.case == self._case:
                yield event

    def _decode(self, message: Message) -> ControlEvent | None:
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                self._ended.add(message.topic() or "")
                return None
            raise KafkaException(error)
        event = decode(CONTRACTS[message.topic() or ""], message.value(), message.timestamp()[1])
        if isinstance(event, Refusal):
            log.error(
                "control_event_refused",
                topic=message.topic(),
                offset=message.offset(),
                rule=event.rule,
                detail=event.detail,
            )
            return None
        return event
