"""Row f's peers: Ray Serve behind a consumer, a handle an event, plain and with `@serve.batch`.

As Ray's documentation has both. They are spared features and transaction; a batch may be as large as ours.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import ray
from ray import serve

from tests.benchmarks.peer_handle import OPEN_MAX, forward
from tests.benchmarks.scoring_work import ByHand, Work

BATCH = 256


@serve.deployment(
    num_replicas=1, max_ongoing_requests=OPEN_MAX, ray_actor_options={"num_cpus": 0.5}
)
class Each:
    """One event a call."""

    def __init__(self, told: str) -> None:
        self._by_hand = ByHand(Work.told(told))

    async def __call__(self, request: bytes) -> bytes:
        """Its result."""
        return self._by_hand.answers([request])[0]


@serve.deployment(
    num_replicas=1, max_ongoing_requests=OPEN_MAX, ray_actor_options={"num_cpus": 0.5}
)
class Batched:
    """One event a call, a batch a prediction."""

    def __init__(self, told: str) -> None:
        self._by_hand = ByHand(Work.told(told))

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.01)
    async def __call__(self, requests: list[bytes]) -> list[bytes]:
        """Their results."""
        return self._by_hand.answers(requests)


DEPLOYMENTS: dict[str, Any] = {"each": Each, "batched": Batched}


async def _forward(servers: str, ways: dict[str, tuple[str, str]], handles: dict[str, Any]) -> None:
    await asyncio.gather(
        *(forward(servers, source, sink, handles[way]) for way, (source, sink) in ways.items())
    )


def main() -> None:
    """Until killed; says `ready` when both deployments run."""
    servers, told, *topics = sys.argv[1:]
    ways = {way: (topics[n], topics[n + 1]) for way, n in zip(DEPLOYMENTS, (0, 2), strict=True)}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(proxy_location="Disabled")
    handles = {
        way: serve.run(DEPLOYMENTS[way].bind(told), name=way, route_prefix=None) for way in ways
    }
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    asyncio.run(_forward(servers, ways, handles))


if __name__ == "__main__":
    main()
