"""Commands over many keys, on one Redis or on a Redis Cluster.

One Redis takes them whole. In a cluster the keys of one command must share a slot, so commands are cut by slot and sent together,
one pipeline a node; they are not atomic then, and whatever says how far others have come is read before those others.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import redis
from hiredis import pack_command
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from features.settings import StoreSettings

# A node that is gone is looked for once: the budget of a read is short.
CLUSTER_RETRIES = 1


class ManyKeys:
    """The connections of one set of settings. Safe to share between threads.

    Attributes:
        client: For commands over one key, and for scans.
        clustered: Whether it is a cluster.
    """

    def __init__(self, stores: StoreSettings) -> None:
        self.clustered = stores.redis_cluster
        self.client: Any = _connect(stores)
        self._idle: deque[Any] = deque()

    def get(self, keys: Sequence[bytes], early: Collection[bytes] = ()) -> list[bytes | None]:
        """The values; `early` are those of the keys that must not be newer than the rest."""
        if not self.clustered:
            return self._mget(keys)
        found: dict[bytes, bytes | None] = {}
        for some in ([k for k in keys if k in early], [k for k in keys if k not in early]):
            if some:
                found |= zip(some, self.client.mget_nonatomic(some), strict=True)
        return [found[key] for key in keys]

    def _mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """MGET without what redis-py does around it, which is half of a small read's time; any trouble is left to redis-py."""
        # hiredis's stub knows of commands of one word only.
        command = pack_command(("MGET", *keys))  # type: ignore[arg-type]
        connections = self.client.connection_pool
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = connections.get_connection()
        found: list[bytes | None] | None = None
        try:
            connection.send_packed_command((command,), check_health=False)
            found = connection.read_response(disable_decoding=True)
        except (redis.ConnectionError, redis.TimeoutError):
            connection.disconnect()
        finally:
            if found is None:
                connections.release(connection)
            else:
                self._idle.append(connection)
        return list(self.client.mget(keys)) if found is None else found

    def set(self, values: Mapping[bytes, bytes]) -> None:
        """Replace values."""
        if self.clustered:
            self.client.mset_nonatomic(values)
        else:
            self.client.mset(values)

    def run(self, script: str, items: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[int]:
        """Run a script that answers one number a key; of each key, it and its arguments, all alike many."""
        if not self.clustered:
            keys = [key for key, _ in items]
            return list(self.client.register_script(script)(keys, _flat(items)))
        by_slot: dict[int, list[int]] = defaultdict(list)
        for place, (key, _) in enumerate(items):
            by_slot[self.client.keyslot(key)].append(place)
        with self.client.pipeline() as pipeline:
            for places in by_slot.values():
                some = [items[place] for place in places]
                keys = [key for key, _ in some]
                pipeline.execute_command("EVAL", script, len(keys), *keys, *_flat(some))
            answers = pipeline.execute()
        found = [0] * len(items)
        for places, answer in zip(by_slot.values(), answers, strict=True):
            for place, number in zip(places, answer, strict=True):
                found[place] = number
        return found

    def close(self) -> None:
        """Give the connections back."""
        self.client.close()


def _flat(items: Iterable[tuple[bytes, Sequence[bytes]]]) -> list[bytes]:
    return [argument for _, arguments in items for argument in arguments]


def _connect(stores: StoreSettings) -> redis.Redis | RedisCluster:
    password = stores.redis_password
    options: dict[str, Any] = {
        **_tls(stores),
        **({"username": stores.redis_user} if stores.redis_user else {}),
        **({"password": password.get_secret_value()} if password else {}),
        "socket_timeout": stores.redis_timeout_ms / 1000,
        "socket_connect_timeout": stores.redis_timeout_ms / 1000,
        "socket_keepalive": True,
    }
    if not stores.redis_cluster:
        return redis.Redis.from_url(stores.redis_url, **options)
    return RedisCluster.from_url(
        stores.redis_url, retry=Retry(NoBackoff(), CLUSTER_RETRIES), **options
    )


def _tls(stores: StoreSettings) -> dict[str, Any]:
    """The certificates to check a `rediss://` server by; a plain connection takes no such setting."""
    if not stores.redis_url.startswith("rediss://") or not stores.redis_ca_path:
        return {}
    return {"ssl_ca_certs": stores.redis_ca_path}
