"""Row a's limit: consume, produce the same bytes, one transaction a batch. Nothing is decoded, read or scored."""

from __future__ import annotations

import sys

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from tests.benchmarks.raw_topics import reading

BATCH = 256
CALL_S = 10.0


def main() -> None:
    """Until killed."""
    servers, source, sink = sys.argv[1:]
    reader = reading(servers, source, enable_auto_commit=False, retry_backoff_ms=1)
    # As the scorer's producer is set, without what guards against a predecessor.
    writer = Producer(
        {
            "bootstrap.servers": servers,
            "retry.backoff.ms": 1,
            "transactional.id": source,
            "linger.ms": 0,
            "acks": "all",
        }
    )
    writer.init_transactions(CALL_S)
    while True:
        batch = [m for m in _batch(reader) if m.error() is None]
        if not batch:
            continue
        writer.begin_transaction()
        for message in batch:
            writer.produce(sink, message.value(), message.key(), int(message.partition() or 0))
        offsets = {m.partition(): int(m.offset() or 0) + 1 for m in batch}
        placed = [TopicPartition(source, int(p or 0), at) for p, at in offsets.items()]
        writer.send_offsets_to_transaction(placed, reader.consumer_group_metadata(), CALL_S)
        writer.commit_transaction(CALL_S)


def _batch(reader: Consumer) -> list[Message]:
    """What is there, once something is."""
    first = reader.poll(1.0)
    return [] if first is None else [first, *reader.consume(BATCH - 1, 0)]


if __name__ == "__main__":
    main()
