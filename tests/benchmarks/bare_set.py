"""Row c's limit: consume, decode, one pipelined SET an event. No framework, nothing kept, nothing merged."""

from __future__ import annotations

import sys

import msgspec
import redis
from confluent_kafka import Consumer

from schemas.settings import FETCH_WAIT_MS


def main() -> None:
    servers, topic, url = sys.argv[1:]
    config = {"bootstrap.servers": servers, "group.id": topic, "auto.offset.reset": "earliest"}
    reader = Consumer({**config, "fetch.wait.max.ms": FETCH_WAIT_MS})
    reader.subscribe([topic])
    store = redis.Redis.from_url(url)
    decode = msgspec.json.Decoder().decode
    while True:
        first = reader.poll(1)
        if first is None:
            continue
        pipeline = store.pipeline(transaction=False)
        for message in (first, *reader.consume(5_000, 0)):
            if message.error() is None:
                fields = decode(message.value() or b"")
                pipeline.set(f"bare:{fields['station']}", fields["level"])
        pipeline.execute()


if __name__ == "__main__":
    main()
