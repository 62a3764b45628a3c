"""A Redis Cluster of three nodes on loopback, from the same binary as the local stack's one Redis."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import redis

from infra.local import process
from infra.local.redis_server import RedisServer

NODES = 3
SLOTS = 16_384
# The nodes talk to each other on a port so much higher.
BUS = 10_000
FORMED_WITHIN_S = 30.0


class ClusterNode(RedisServer):
    """One node; alone it holds no slot."""

    def command(self) -> list[str]:
        return [*super().command(), "--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]


class RedisCluster:
    """Three nodes that share the slots. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [ClusterNode(folder / str(n), port=_port()) for n in range(NODES)]
        self._running = ExitStack()

    @property
    def url(self) -> str:
        """Any node's; clients learn the others from it."""
        return self.nodes[0].url

    def __enter__(self) -> Self:
        for node in self.nodes:
            self._running.enter_context(node)
        clients = [redis.Redis.from_url(node.url) for node in self.nodes]
        each = -(-SLOTS // NODES)
        for number, client in enumerate(clients):
            mine = range(number * each, min(SLOTS, (number + 1) * each))
            client.execute_command("CLUSTER ADDSLOTS", *mine)
            clients[0].execute_command("CLUSTER MEET", process.LOOPBACK, self.nodes[number].port)
        deadline_s = time.monotonic() + FORMED_WITHIN_S
        while not all(_formed(client) for client in clients):
            assert time.monotonic() < deadline_s, "the cluster did not form"
            time.sleep(0.1)
        for client in clients:
            client.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()


def _formed(client: redis.Redis) -> bool:
    told = client.execute_command("CLUSTER INFO")
    text = told if isinstance(told, dict) else _parsed(told)
    return text["cluster_state"] == "ok" and int(text["cluster_known_nodes"]) == NODES


def _parsed(told: bytes | str) -> dict[str, str]:
    text = told.decode() if isinstance(told, bytes) else told
    return dict(line.split(":", 1) for line in text.split() if ":" in line)


def _port() -> int:
    while (port := process.free_port()) + BUS > 65_535:
        pass
    return port
