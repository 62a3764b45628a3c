"""Row f's limit: consume, decode, predict, encode, produce. At least once, no features are read, nothing is remembered."""

from __future__ import annotations

import sys

from confluent_kafka import Consumer, Message, Producer

from tests.benchmarks.raw_topics import reading
from tests.benchmarks.scoring_work import ByHand, Work


def main() -> None:
    """Until killed."""
    servers, source, sink, rows, told = sys.argv[1:]
    by_hand = ByHand(Work.told(told))
    reader = reading(servers, source)
    writer = Producer({"bootstrap.servers": servers, "acks": "all", "compression.type": "lz4"})
    while True:
        batch = _batch(reader, int(rows))
        answers = by_hand.answers([message.value() or b"" for message in batch])
        for message, answer in zip(batch, answers, strict=True):
            writer.produce(sink, answer, message.key(), int(message.partition() or 0))
        writer.poll(0)


def _batch(reader: Consumer, rows: int) -> list[Message]:
    """What is there once something is, up to so many."""
    while True:
        first = reader.poll(1.0)
        if first is not None:
            more = reader.consume(rows - 1, 0) if rows > 1 else []
            return [message for message in (first, *more) if message.error() is None]


if __name__ == "__main__":
    main()
