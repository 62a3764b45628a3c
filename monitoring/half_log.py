"""Where waiting halves survive a restart: one compacted topic of the outcome join, read back by the join itself.

Not a Faust table: recovering one races the seek to the committed offsets, and the first records after a restart can be
dropped for good (faust#596; here 42 of 4,000 joins after a kill -9). An app without tables resumes in the right order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

if TYPE_CHECKING:
    from monitoring.halves import Change
    from schemas.settings import KafkaSettings

BATCH_ROWS_MAX = 2_000
POLL_S = 0.2


class HalfLog:
    """Changes to the waiting halves: request id → encoded half, null where it no longer waits."""

    def __init__(self, topic: Any, kafka: KafkaSettings) -> None:  # noqa: ANN401 - Faust has no types
        self._topic = topic
        self._kafka = kafka

    async def write(self, partition: int, change: Change) -> Awaitable[Any]:
        """Append one change.

        Returns:
            Done when the broker has it.
        """
        request_id, value = change
        delivery: Awaitable[Any] = await self._topic.send(
            key=request_id.encode(), value=value, partition=partition
        )
        return delivery

    async def read(self, partition: int) -> dict[str, bytes]:
        """The halves that wait in one partition; the event loop goes on meanwhile.

        Raises:
            KafkaException: The broker is out of reach.
        """
        await self._topic.maybe_declare()
        return await asyncio.to_thread(self._read, partition)

    def _read(self, partition: int) -> dict[str, bytes]:
        name = self._topic.get_topic_name()
        consumer = Consumer(
            self._kafka.client_config(
                group_id=name,  # demanded by librdkafka; never joined, nothing is committed to it
                enable_auto_commit=False,
                enable_partition_eof=True,
            )
        )
        consumer.assign([TopicPartition(name, partition, OFFSET_BEGINNING)])
        halves: dict[str, bytes] = {}
        try:
            while not _fold(halves, consumer.consume(BATCH_ROWS_MAX, POLL_S)):
                pass
        finally:
            consumer.close()
        return halves


def _fold(halves: dict[str, bytes], messages: list[Message]) -> bool:
    """Apply changes in their order; true at the partition's end."""
    for message in messages:
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's name
                return True
            raise KafkaException(error)
        request_id, value = (message.key() or b"").decode(), message.value()
        if value is None:
            halves.pop(request_id, None)
        else:
            halves[request_id] = value
    return False
