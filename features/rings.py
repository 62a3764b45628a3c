"""Rings in Redis, and the stream's clock.

A ring is the value of `<project>:<view>.<version>:<entity key>`, where the entity key is the JSON array of the join keys'
values in the view's order, without spaces: `headrace:aircraft_departures.5a3e91c4:["N14228"]`. "View" below is
`View.versioned`. The stream's clock is the sorted set
`<project>:clock`, one member a view, whose score is the latest event time that the view has seen.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate, islice
from typing import Any

import msgspec
import redis
from redis.exceptions import RedisClusterException

from features.many_keys import ManyKeys
from features.settings import StoreSettings
from features.tile_row import KeyValue
from schemas.errors import HeadraceError

EntityKey = bytes
_encode = msgspec.json.Encoder().encode

# Pairs of what must be held ('' for nothing) and what shall be; the answer is of each key whether it was replaced.
_REPLACE = """
local replaced = {}
for i, key in ipairs(KEYS) do
  replaced[i] = 0
  if (redis.call('GET', key) or '') == ARGV[2 * i - 1] then
    redis.call('SET', key, ARGV[2 * i])
    replaced[i] = 1
  end
end
return replaced
"""


class OnlineStoreUnavailable(HeadraceError):
    """Redis did not answer, or refused."""


def _is_entity(key: EntityKey) -> bool:
    """Whether it is an entity's, and not a word that says something of the whole view."""
    return key.startswith(b"[")


def _words(asked: Sequence[tuple[str, Sequence[EntityKey]]], flat: Sequence[bytes]) -> set[bytes]:
    """Those of the full keys that are not an entity's."""
    keys = [key for _, mine in asked for key in mine]
    return {full for key, full in zip(keys, flat, strict=True) if not _is_entity(key)}


def entity_key(values: Sequence[KeyValue]) -> EntityKey:
    """The canonical key of an entity, equal for equal values in whatever process it is made."""
    return _encode(values)


def entity_keys(columns: Sequence[Sequence[KeyValue]]) -> list[EntityKey]:
    """The keys of many entities, from a column for each join key."""
    return list(map(_encode, zip(*columns, strict=True)))


class Rings:
    """Reads and writes packed rings. Safe to share between threads, not between processes.

    Every method is one round trip (in a cluster one to each node, and one more where views say how far they have come) and
    raises `OnlineStoreUnavailable` when Redis does not answer in time.
    """

    def __init__(self, stores: StoreSettings) -> None:
        self._where = f"online store at {stores.redis_shown}"
        self._prefix = f"{stores.project}:".encode()
        self._stores = stores

    @cached_property
    def _many(self) -> ManyKeys:
        """Connected when first used: a cluster is asked for its slots then."""
        return ManyKeys(self._stores)

    @property
    def _redis(self) -> Any:  # noqa: ANN401 - of one Redis or of a cluster
        return self._many.client

    def close(self) -> None:
        """Give the connections back."""
        if "_many" in self.__dict__:
            self._many.close()

    def read(self, view: str, keys: Sequence[EntityKey]) -> list[bytes | None]:
        """The rings of one view, None where there is none."""
        return self.read_many([(view, keys)])[0]

    def read_many(
        self, asked: Sequence[tuple[str, Sequence[EntityKey]]]
    ) -> list[list[bytes | None]]:
        """The rings of several views in one round trip, in the order asked."""
        flat: list[bytes] = []
        for view, keys in asked:
            prefix = self._key(view, b"")
            flat += [prefix + key for key in keys]
        if not flat:
            return [[] for _ in asked]
        with self._reported():
            many = self._many
            found = many.get(flat, _words(asked, flat) if many.clustered else ())
        if len(asked) == 1:
            return [found]
        ends = list(accumulate(len(keys) for _, keys in asked))
        return [found[e - len(keys) : e] for e, (_, keys) in zip(ends, asked, strict=True)]

    def write(self, items: Iterable[tuple[str, EntityKey, bytes]]) -> int:
        """Replace rings: (view, key, packed). Returns how many."""
        values = {self._key(view, key): packed for view, key, packed in items}
        if values:
            with self._reported():
                self._many.set(values)
        return len(values)

    def replace(
        self, view: str, items: Sequence[tuple[EntityKey, bytes | None, bytes]]
    ) -> list[EntityKey]:
        """Write (key, held, packed) where still `held` is there. Returns the keys where something else was."""
        if not items:
            return []
        pairs = [(self._key(view, key), (held or b"", packed)) for key, held, packed in items]
        with self._reported():
            replaced = self._many.run(_REPLACE, pairs)
        return [key for (key, _, _), done in zip(items, replaced, strict=True) if not done]

    def entities(self, view: str, at_most: int) -> list[EntityKey]:
        """The keys of a view's entities, as many as wanted, in no order; for a person's eye, not for the hot path."""
        prefix = self._key(view, b"")
        with self._reported():
            found = islice(self._redis.scan_iter(prefix + b"*", count=1000), at_most)
            return [key.removeprefix(prefix) for key in found]

    def delete(self, view: str) -> int:
        """Forget all rings of a view and its clock; for a definition that was removed."""
        with self._reported():
            keys = list(self._redis.scan_iter(self._key(view, b"*"), count=1000))
            self._redis.zrem(self._clock_key, view)
            return int(self._redis.delete(*keys)) if keys else 0

    def generation(self) -> bytes | None:
        """What `begin_generation` wrote last; None where the store has lost its memory since, or never had one."""
        with self._reported():
            found: bytes | None = self._redis.get(self._prefix + b"generation")
        return found

    def begin_generation(self) -> bytes:
        """Mark the store as it is now; the mark is lost together with the rings. Returns it."""
        mark = uuid.uuid4().hex.encode()
        with self._reported():
            self._redis.set(self._prefix + b"generation", mark)
        return mark

    def advance_clock(self, clocks: Mapping[str, int]) -> None:
        """Move the clocks of views (view → epoch ms) forward; a clock never goes back."""
        if clocks:
            with self._reported():
                self._redis.zadd(self._clock_key, dict(clocks), gt=True)

    def clock(self) -> int | None:
        """The stream's clock, ms: the latest event time over all views; None before the first event."""
        with self._reported():
            latest = self._redis.zrange(self._clock_key, 0, 0, desc=True, withscores=True)
        return int(latest[0][1]) if latest else None

    def clocks(self) -> dict[str, int]:
        """The clock of each view, ms."""
        with self._reported():
            held = self._redis.zrange(self._clock_key, 0, -1, withscores=True)
        return {name.decode(): int(score) for name, score in held}

    @property
    def _clock_key(self) -> bytes:
        return self._prefix + b"clock"

    def _key(self, view: str, key: EntityKey) -> bytes:
        return self._prefix + view.encode() + b":" + key

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, RedisClusterException) as error:
            raise OnlineStoreUnavailable(
                self._where,
                wanted="an answer in time",
                came=f"{type(error).__name__}: {error}",
                mend="Look at `headrace status`; is Redis up and has it memory?",
            ) from error
