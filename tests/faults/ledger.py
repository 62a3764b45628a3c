"""What was sent and what Kafka acknowledged, on disk before anybody may rely on it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from confluent_kafka import KafkaError, Message, Producer

from schemas.settings import KafkaSettings

FLUSH_TIMEOUT_S = 60.0


class Sent(NamedTuple):
    """One record: its id in the ledger, and what Kafka is given."""

    id: str
    key: str | bytes | None
    value: bytes | None


class Ledger:
    """An fsynced log of records, one JSON line for `sent` and one for `acknowledged`.

    `sent` is on disk before the record leaves, `acknowledged` before `produce` returns: whatever is killed, the file
    says at least what was promised and at most what was tried.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        # How many records, by topic: one sent twice on purpose is two.
        self.sent: dict[str, int] = {}
        self.acknowledged: dict[str, dict[tuple[int, int], str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def produce(
        self,
        kafka: KafkaSettings,
        topic: str,
        records: Iterable[Sent],
        producer: Producer | None = None,
    ) -> None:
        """Send, and wait until every record was acknowledged; by a producer of its own, unless one is given.

        Raises:
            RuntimeError: Kafka refused a record, or did not answer in time.
        """
        batch = list(records)
        self._write({"sent": one.id, "topic": topic} for one in batch)
        self.sent[topic] = self.sent.get(topic, 0) + len(batch)
        producer = producer or idempotent(kafka)
        answers: list[tuple[str, int, int]] = []
        for one in batch:
            producer.produce(
                topic,
                one.value,
                one.key,
                headers=[("ce_id", b"x")],
                on_delivery=_into(answers, one),
            )
            producer.poll(0)
        left = producer.flush(FLUSH_TIMEOUT_S)
        if left or len(answers) != len(batch):
            raise RuntimeError(f"{topic}: {len(batch)} sent, {len(answers)} acknowledged")
        self._write({"acknowledged": i, "topic": topic, "at": [p, o]} for i, p, o in answers)
        self.acknowledged.setdefault(topic, {}).update({(p, o): i for i, p, o in answers})

    def intend(self, topic: str, ids: Sequence[str]) -> None:
        """Note what somebody else will send, before it leaves."""
        self._write({"sent": one, "topic": topic} for one in ids)
        self.sent[topic] = self.sent.get(topic, 0) + len(ids)

    def promised(self, topic: str, ids: Sequence[str]) -> None:
        """Note that somebody else was told it was acknowledged; where it lies is not known."""
        self._write({"acknowledged": one, "topic": topic} for one in ids)
        held = self.acknowledged.setdefault(topic, {})
        held.update({(-1, len(held) + n): one for n, one in enumerate(ids)})

    def _write(self, lines: Iterable[dict[str, object]]) -> None:
        self._file.writelines(json.dumps(line) + "\n" for line in lines)
        self._file.flush()
        os.fsync(self._file.fileno())


def idempotent(kafka: KafkaSettings) -> Producer:
    """Order per key must not depend on retries, and a retry must not be a second record."""
    return Producer(kafka.client_config(enable_idempotence=True))


def _into(
    answers: list[tuple[str, int, int]], one: Sent
) -> Callable[[KafkaError | None, Message], None]:
    def answered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            raise RuntimeError(f"{one.id}: {error.str()}")
        answers.append((one.id, int(message.partition() or 0), int(message.offset() or 0)))

    return answered
