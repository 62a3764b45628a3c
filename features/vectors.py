"""Feature vectors for a batch of requests: the scorer's hot path, one round trip to the online store a batch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from features import own_fold
from features.own_events import Key, Own, OwnEvents
from features.progress import PROGRESS_KEY, WHOLE_KEY, Progress
from features.ring import NO_RING_AGE_MS, Records, RingFormat
from features.rings import EntityKey, Rings, entity_keys
from features.row_vectors import RowReader
from features.settings import StoreSettings
from features.tile_row import KeyValue
from features.tiles import Bools, Floats, Ints
from features.views import Plan, Service, View
from schemas.errors import HeadraceError

if TYPE_CHECKING:
    from features.on_demand import OnDemandView
    from features.on_demand_function import Column, Function
    from features.ring_kernel import RingKernel


class RowsUnread(HeadraceError):
    """A service has features that no vector can hold: the scorer must not start rather than serve nulls for them."""


class Vectors(NamedTuple):
    """What was read for a batch.

    Attributes:
        names: The features' full names, in the order of the columns of `values`.
        views: The views, in the order of the columns of `age_ms` and `ahead`.
        values: `[rows, features]`; null is NaN.
        age_ms: `[rows, views]`, the instant minus the entity's latest event (negative where the ring is ahead of
            it by that much, but never −1); −1 where there is no ring.
        ahead: `[rows, views]`, whether an event later than the row's instant is in its head tile, or, for views that own
            events are folded into, one after the row's request in its partition is in any.
        read_at_ms: Wall clock just after the store answered, so that what it held was ingested before.
        discarded: Rings that were not of the view's layout and counted as absent.
        unsettled: `[rows, views]`, whether events before the row's request may be missing: the view's rings were lost and are
            being rebuilt, or they have not come as far as the row's own partition.
    """

    names: tuple[str, ...]
    views: tuple[str, ...]
    values: Floats
    age_ms: Ints
    ahead: Bools
    read_at_ms: int
    discarded: int
    unsettled: Bools | None = None


class _ViewReader:
    def __init__(self, view: View, service: Service) -> None:
        mine = [(i, f) for i, (v, f) in enumerate(service.features) if v == view.name]
        self.view = view
        self.format = RingFormat(view)
        self.versioned = view.versioned
        # numba takes half a second, which only a reader of vectors need wait for.
        kernels = import_module("features.ring_kernel")
        self.kernel: RingKernel = kernels.RingKernel(self.format, mine)
        self._key_names = [key.name for key in view.join_keys]
        self.extra = [WHOLE_KEY, *([PROGRESS_KEY] if view.origin_offsets else [])]
        self.reached: dict[int, int] = {}

    def entities(self, entities: Mapping[str, Sequence[KeyValue]]) -> list[Key | None]:
        """The entity of each row; None where it has none."""
        columns = [entities[key.name] for key in self.view.join_keys]
        return [None if None in key else key for key in zip(*columns, strict=True)]

    def keys(self, entities: Mapping[str, Sequence[KeyValue]]) -> tuple[list[EntityKey], Ints]:
        """Each distinct key once, and for each row which of them; a row with a null key gets −1."""
        columns = [entities[name] for name in self._key_names]
        keys = entity_keys(columns)
        if not any(None in column for column in columns) and len(set(keys)) == len(keys):
            return keys, np.arange(len(keys))
        seen: dict[EntityKey, int] = {}
        rows = [
            -1 if None in values else seen.setdefault(key, len(seen))
            for key, values in zip(keys, zip(*columns, strict=True), strict=True)
        ]
        return list(seen), np.array(rows, dtype=np.int64)

    def fold(
        self,
        records: Records,
        entities: Mapping[str, Sequence[KeyValue]],
        as_of_ms: Ints,
        own: Own,
    ) -> tuple[Records, Bools]:
        """The rings of the rows with their own events, and which of them were ahead."""
        keys = self.entities(entities)
        marked = own_fold.settle(self.view, records, keys, own, as_of_ms)
        given = own_fold.pairs(self.view, keys, own, as_of_ms)
        own_fold.fold(self.view, records, given, as_of_ms)
        # A ring's clock knows of events that the fold has left out.
        clock = records["clock_ms"]
        records["clock_ms"] = np.where(marked, clock, np.minimum(clock, as_of_ms))
        return records, marked

    def unsettled(self, packed: bytes | None, own: Own) -> Bools:
        """Which rows' partitions hold events that are neither remembered nor surely in the rings."""
        progress = Progress.unpack(self.view, packed)
        reached = {int(p): progress.reached(int(p)) for p in np.unique(own.partitions)}
        behind = {p for p, offset in reached.items() if not own.events.settled(p, offset)}
        self.reached |= reached
        return np.isin(own.partitions, list(behind))


class VectorReader:
    """Reads the vectors of one service. Keep one a worker; not for sharing between threads."""

    def __init__(self, stores: StoreSettings, plan: Plan, service: str) -> None:
        """Nothing is contacted before the first read.

        Raises:
            RowsUnread: the service has features that are not numbers.
            FunctionChanged: the function of an on-demand view is not the one that was applied.
        """
        _refuse_texts(plan, service)
        self.service = plan.service(service)
        self._names = self.service.names
        self.fingerprint = plan.service_fingerprint(service)
        self.join_keys = plan.join_keys(service)
        self.entity_columns = plan.entity_columns(service)
        self.request_columns = plan.request_columns(service)
        self._rings = Rings(stores)
        self._views = [_ViewReader(view, self.service) for view in plan.service_views(service)]
        self._row_views = [RowReader(v, self.service) for v in plan.service_row_views(service)]
        windowed = [reader.view.name for reader in self._views]
        self._view_names = (*windowed, *(reader.view.name for reader in self._row_views))
        self._made = _Made(plan, service)

    @property
    def versions(self) -> tuple[str, ...]:
        """The version of each windowed view that it reads."""
        return tuple(reader.view.versioned for reader in self._views)

    def close(self) -> None:
        """Give the connection back."""
        self._rings.close()

    def stream_clock_ms(self) -> int | None:
        """The latest event time seen by any view; None before the first event."""
        return self._rings.clock()

    def clocks_ms(self) -> dict[str, int]:
        """View → the time of its newest event; without those that have seen none, or that no stream writes.

        Raises:
            OnlineStoreUnavailable: the store did not answer in time.
        """
        held = self._rings.clocks()
        stored = {reader.view.name: reader.versioned for reader in self._views}
        stored |= {reader.view.name: reader.view.stored for reader in self._row_views}
        return {view: held[name] for view, name in stored.items() if name in held}

    @property
    def views(self) -> tuple[str, ...]:
        """The views, in the order of the columns of `age_ms`."""
        return self._view_names

    def own_events(self) -> OwnEvents:
        """An empty memory of the requests that are feature events of this service's views."""
        return OwnEvents(reader.view for reader in self._views)

    def prune(self, own: OwnEvents) -> None:
        """Let the memory forget what every view's rings held at the last read."""
        mine = [reader.reached for reader in self._views if reader.view.origin_offsets]
        for partition in own.partitions:
            own.prune(partition, min((r.get(partition, -1) for r in mine), default=-1))

    def read(
        self,
        entities: Mapping[str, Sequence[KeyValue]],
        as_of_ms: Ints,
        own: Own | None = None,
        request: Mapping[str, Column] | None = None,
    ) -> Vectors:
        """The vectors of a batch, each as of its own instant.

        Args:
            entities: Join key → its value in each row; None where a row has no such entity.
            as_of_ms: `[rows]` epoch ms.
            own: Where the rows are requests that are feature events themselves: their place, and what was consumed
                up to them, which is folded in.
            request: `request_columns` → its value in each row, for on-demand views.

        Raises:
            OnlineStoreUnavailable: the store did not answer in time.
        """
        as_of_ms = np.ascontiguousarray(as_of_ms, dtype=np.int64)
        asked = [(reader, *reader.keys(entities)) for reader in self._views]
        of_rows = [(reader, *reader.keys(entities, len(as_of_ms))) for reader in self._row_views]
        # Progress and wholeness come with the rings, in one answer: what they say is true of them.
        packed = self._rings.read_many(
            [
                *((reader.versioned, [*keys, *reader.extra]) for reader, keys, _ in asked),
                *((reader.view.stored, keys) for reader, keys, _ in of_rows),
            ]
        )
        read_at_ms = time.time_ns() // 1_000_000
        shape = (len(as_of_ms), len(asked) + len(of_rows))
        values = np.empty((len(as_of_ms), len(self._names)))
        age_ms, ahead = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=bool)
        unsettled = np.zeros(shape, dtype=bool)
        discarded = 0
        for position, (reader, keys, rows) in enumerate(asked):
            held = packed[position]
            rings = held[: len(keys)]
            if not keys or -1 in rows:
                # The blank last ring is what rows without an entity (−1) read.
                rings = [*rings, None]
            records, unusable = reader.format.unpack(rings)
            discarded += unusable
            if not held[len(keys)]:
                unsettled[:, position] = True
            own_rows = own if reader.view.origin_offsets else None
            if own_rows is not None:
                records, marked = reader.fold(records[rows], entities, as_of_ms, own_rows)
                unsettled[:, position] |= reader.unsettled(held[-1], own_rows)
                rows = np.arange(len(rows))  # noqa: PLW2901 - each row has a ring of its own now
            reader.kernel.fill(records, rows, as_of_ms, position, (values, age_ms, ahead))
            if own_rows is not None:
                ahead[:, position] = marked
        for position, (of_row, _, rows) in enumerate(of_rows, start=len(asked)):
            found = of_row.read(packed[position], rows, as_of_ms)
            discarded += found.discarded
            values[:, of_row.columns], ahead[:, position] = found.values, found.ahead
            age_ms[:, position] = _age(found.clock_ms, as_of_ms)
        self._made.fill(values, request or {})
        names, views = self._names, self._view_names
        return Vectors(names, views, values, age_ms, ahead, read_at_ms, discarded, unsettled)


class _Made:
    """The columns of a service's vector that on-demand views make of the others and of the request."""

    def __init__(self, plan: Plan, service: str) -> None:
        views = plan.service_on_demand(service)
        self._names = plan.service(service).names
        made = {view.name for view in views}
        self._columns = [i for i, (v, _) in enumerate(plan.service(service).features) if v in made]
        self._functions = _functions(views)

    def fill(self, values: Floats, request: Mapping[str, Column]) -> None:
        if not self._functions:
            return
        given = {n: values[:, i] for i, n in enumerate(self._names) if i not in self._columns}
        for function in self._functions:
            made = function.evaluate({**given, **request}, len(values))
            for name, column in made.items():
                full = f"{function.view.name}__{name}"
                if full in self._names:
                    values[:, self._names.index(full)] = column


def _functions(views: Sequence[OnDemandView]) -> list[Function]:
    if not views:
        return []
    # pandas takes half a second, which a service without such views need not wait for.
    module = import_module("features.on_demand_function")
    return [module.Function(view) for view in views]


def _refuse_texts(plan: Plan, service: str) -> None:
    texts = [
        f"{view.name}:{field}"
        for view in plan.service_row_views(service)
        for owner, field in plan.service(service).features
        if owner == view.name and field in view.others
    ]
    if texts:
        raise RowsUnread(
            f"service {service}",
            wanted="numbers, which are all that a vector holds",
            came=f"{texts} are something else",
            mend="Leave them out, or read them through Feast's get_online_features.",
        )


def _age(clock: Ints, as_of_ms: Ints) -> Ints:
    age = as_of_ms - clock
    return np.where(clock < 0, NO_RING_AGE_MS, np.where(age == NO_RING_AGE_MS, -2, age))
