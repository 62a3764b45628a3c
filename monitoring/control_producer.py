"""Decisions go out whole: the events of one decision in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from confluent_kafka import Producer

from schemas.control import Alert, ControlEvent, RetrainingOrder, Verdict
from schemas.envelope import headers

if TYPE_CHECKING:
    from schemas.settings import KafkaSettings

TOPICS: Mapping[type[ControlEvent], str] = {
    Alert: "control.alerts",
    RetrainingOrder: "control.retraining",
    Verdict: "control.verdicts",
}
TIMEOUT_S = 15.0


class ControlProducer:
    """The one writer of a role's decisions: a new one fences the one before (a zombie's transaction is aborted).

    Any error of Kafka is raised and ends the worker; ids are deterministic, so the next start decides alike.
    """

    def __init__(self, kafka: KafkaSettings, *, case: str, role: str) -> None:
        self._source = f"headrace/{case}/{role}"
        self._producer = Producer(
            kafka.client_config(
                transactional_id=f"{case}-{role}",
                transaction_timeout_ms=10_000,
                retry_backoff_ms=1,
                linger_ms=0,
            )
        )
        self._producer.init_transactions(TIMEOUT_S)

    def publish(self, *events: ControlEvent) -> None:
        """Publish all or none; returns when they are committed."""
        self._producer.begin_transaction()
        for event in events:
            self._producer.produce(
                TOPICS[type(event)],
                value=event.encode(),
                key=event.key,
                headers=headers(event, source=self._source),
            )
        self._producer.commit_transaction(TIMEOUT_S)
