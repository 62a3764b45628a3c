"""Faust's Kafka transport, reading only committed records, and committing what it has read of them.

Faust reads with `read_committed` only in its `exactly_once` mode, which loses joins (faust#323, #517); in
`at_least_once` mode it offers no setting for it. The consumer is made but not yet started when it passes here, and
aiokafka looks at the level when it starts, so it is set in between. A test aborts a transaction to hold this.

The end of each transaction is a marker among the offsets, which no consumer is given. Faust notes such a gap together with the
record behind it. Once that is acknowledged it is there twice, and the run of offsets that may be committed ends there: one
transaction a second was committed, however many there were, and the rest sorted anew each time (faust#606).
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

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:  # noqa: ANN401
        """Without the record that ends the gap, which is acknowledged by who takes it."""
        await super()._add_gap(tp, offset_from, offset_to - 1)


class CommittedTransport(Transport):
    """What `faust.App` asks for a consumer."""

    Consumer: ClassVar[type[Consumer]] = CommittedConsumer
