"""Faust's Kafka transport, reading only committed records.

Faust reads with `read_committed` only in its `exactly_once` mode, which loses joins (faust#323, #517); in
`at_least_once` mode it offers no setting for it. The consumer is made but not yet started when it passes here, and
aiokafka looks at the level when it starts, so it is set in between. A test aborts a transaction to hold this.
"""

from __future__ import annotations

from typing import Any, ClassVar

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport


class CommittedConsumerThread(AIOKafkaConsumerThread):
    """Makes the aiokafka consumer."""

    def _create_worker_consumer(self, transport: Transport) -> Any:  # noqa: ANN401
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # noqa: SLF001
        return consumer


class CommittedConsumer(Consumer):
    """Faust's side of it."""

    def _new_consumer_thread(self) -> CommittedConsumerThread:
        return CommittedConsumerThread(self, loop=self.loop, beacon=self.beacon)


class CommittedTransport(Transport):
    """What `faust.App` asks for a consumer."""

    Consumer: ClassVar[type[Consumer]] = CommittedConsumer
