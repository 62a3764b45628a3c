"""Feature vectors for a batch of requests: the scorer's hot path, one round trip to the online store a batch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from features.ring import Records, RingFormat
from features.rings import EntityKey, Rings, entity_key
from features.settings import StoreSettings
from features.tile_row import KeyValue
from features.tiles import Bools, Floats, Ints
from features.views import Plan, Service, View

NO_RING_AGE_MS = -1


class Vectors(NamedTuple):
    """What was read for a batch.

    Attributes:
        names: The features' full names, in the order of the columns of `values`.
        views: The views, in the order of the columns of `age_ms` and `ahead`.
        values: `[rows, features]`; null is NaN.
        age_ms: `[rows, views]`, the instant minus the entity's latest event (negative where the ring is ahead of
            it by that much, but never −1); −1 where there is no ring.
        ahead: `[rows, views]`, whether an event later than the row's instant is in its head tile.
        read_at_ms: Wall clock just after the store answered, so that what it held was ingested before.
        discarded: Rings that were not of the view's layout and counted as absent.
    """

    names: tuple[str, ...]
    views: tuple[str, ...]
    values: Floats
    age_ms: Ints
    ahead: Bools
    read_at_ms: int
    discarded: int


class _ViewReader:
    def __init__(self, view: View, service: Service) -> None:
        mine = [(i, f) for i, (v, f) in enumerate(service.features) if v == view.name]
        self.view = view
        self.format = RingFormat(view)
        self.columns = [i for i, _ in mine]
        self.features = [feature for _, feature in mine]

    def keys(self, entities: Mapping[str, Sequence[KeyValue]]) -> tuple[list[EntityKey], Ints]:
        """Each distinct key once, and for each row which of them; a row with a null key gets −1."""
        seen: dict[EntityKey, int] = {}
        columns = [entities[key.name] for key in self.view.join_keys]
        rows = [
            -1 if None in values else seen.setdefault(entity_key(values), len(seen))
            for values in zip(*columns, strict=True)
        ]
        return list(seen), np.array(rows, dtype=np.int64)


class VectorReader:
    """Reads the vectors of one service. Keep one a worker; not for sharing between threads."""

    def __init__(self, stores: StoreSettings, plan: Plan, service: str) -> None:
        self.service = plan.service(service)
        self.fingerprint = plan.service_fingerprint(service)
        self.join_keys = plan.join_keys(service)
        self._rings = Rings(stores)
        self._views = [_ViewReader(view, self.service) for view in plan.service_views(service)]

    def close(self) -> None:
        """Give the connection back."""
        self._rings.close()

    def stream_clock_ms(self) -> int | None:
        """The latest event time seen by any view; None before the first event."""
        return self._rings.clock()

    def read(self, entities: Mapping[str, Sequence[KeyValue]], as_of_ms: Ints) -> Vectors:
        """The vectors of a batch, each as of its own instant.

        Args:
            entities: Join key → its value in each row; None where a row has no such entity.
            as_of_ms: `[rows]` epoch ms.

        Raises:
            OnlineStoreUnavailable: the store did not answer in time.
        """
        asked = [(reader, *reader.keys(entities)) for reader in self._views]
        packed = self._rings.read_many([(reader.view.name, keys) for reader, keys, _ in asked])
        read_at_ms = time.time_ns() // 1_000_000
        shape = (len(as_of_ms), len(asked))
        values = np.empty((len(as_of_ms), len(self.service.features)))
        age_ms, ahead = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=bool)
        discarded = 0
        for position, ((reader, _, rows), held) in enumerate(zip(asked, packed, strict=True)):
            # The blank last ring is what rows without an entity (−1) read.
            records, unusable = reader.format.unpack([*held, None])
            discarded += unusable
            values[:, reader.columns] = reader.format.evaluate(
                records, rows, as_of_ms, reader.features
            )
            age_ms[:, position] = _age(records, rows, as_of_ms)
            ahead[:, position] = reader.format.ahead(records, rows, as_of_ms)
        views = self.service.views
        return Vectors(self.service.names, views, values, age_ms, ahead, read_at_ms, discarded)


def _age(records: Records, rows: Ints, as_of_ms: Ints) -> Ints:
    clock: Ints = records["clock_ms"][rows]
    age = as_of_ms - clock
    return np.where(clock < 0, NO_RING_AGE_MS, np.where(age == NO_RING_AGE_MS, -2, age))
