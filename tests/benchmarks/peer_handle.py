"""Row a's peer, behind Flink: consume committed events, ask a Ray Serve handle for each, produce what it answers.

Written as Ray's documentation has it: one `await handle.remote(...)` an event, as many at once as the deployment takes. It
is spared the features: the model is given a row of zeros.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import ray
from confluent_kafka import Message, Producer
from ray import serve

from tests.benchmarks.raw_topics import reading

OPEN_MAX = 256


@serve.deployment(
    num_replicas=1, max_ongoing_requests=OPEN_MAX, ray_actor_options={"num_cpus": 0.5}
)
class Model:
    """One decision a call."""

    def __init__(self, path: str, inputs: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options)
        self._row = np.zeros((1, inputs), dtype=np.float32)

    async def __call__(self, request: bytes) -> bytes:
        """A result of the request."""
        asked = msgspec.json.decode(request)
        scores = self._session.run(["probabilities"], {"input": self._row})[0]
        answer = {"request_id": asked["request_id"], "score": float(scores[0, 1])}
        return msgspec.json.encode(answer | {"status": "scored"})


async def forward(servers: str, source: str, sink: str, handle: Any) -> None:
    reader = reading(servers, source)
    writer = Producer({"bootstrap.servers": servers, "linger.ms": 0})
    room = asyncio.Semaphore(OPEN_MAX)
    open_: set[asyncio.Task[None]] = set()

    async def one(message: Message) -> None:
        answer = await handle.remote(message.value())
        writer.produce(sink, answer, message.key())
        writer.poll(0)
        room.release()

    while True:
        batch = await asyncio.to_thread(reader.consume, OPEN_MAX, 0.005)
        for message in batch:
            if message.error() is None:
                await room.acquire()
                task = asyncio.create_task(one(message))
                open_.add(task)
                task.add_done_callback(open_.discard)


def main() -> None:
    """Until killed; says `ready` when the deployment runs."""
    servers, source, sink, path, inputs = sys.argv[1:]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(proxy_location="Disabled")
    handle = serve.run(Model.bind(str(Path(path)), int(inputs)), route_prefix=None)  # type: ignore[attr-defined]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    asyncio.run(forward(servers, source, sink, handle))


if __name__ == "__main__":
    main()
