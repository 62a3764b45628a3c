"""The Feast `OnlineStore` plugin over `features.rings` and `features.rows`: `FeatureStore.get_online_features` answers.

Windowed views are read from the same rings by the same mathematics as the scorer's `VectorReader`, and never written: the
materializer is the single writer of rings, and a value pushed from elsewhere could not be told from a count of events.
Views of rows are written by whoever has rows (`materialize`, `push`, `write_to_online_store`), and the newest one wins.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

import msgspec
import numpy as np
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel
from feast.types import Int32, Int64
from pydantic import PositiveInt

from features import plan_files, rows
from features.ring import RingFormat
from features.rings import Rings, entity_key
from features.row_view_compiler import is_windowed, row_view_of
from features.row_views import RowView
from features.rows import Rows
from features.settings import StoreSettings
from features.tile_row import KeyValue
from features.views import View
from schemas.errors import HeadraceError

WRITE_ROWS_MAX = 5_000

Row = tuple[datetime | None, dict[str, Value] | None]


class OnlineWriteRefused(HeadraceError):
    """Feast was asked to push or materialize into rings, which only the stream's tiles may enter."""


class HeadraceOnlineStoreConfig(FeastConfigBaseModel):
    """What Feast's configuration says of this store; `feature_store` fills it in.

    The options are of views of rows read and written through Feast. Windows decay by event time when they are read, and
    the scorer and training sets honour ttl whatever is said here.

    Attributes:
        stores: Where the rings and rows are.
        serve_expired: Whether a row older than its view's ttl is answered with its values, as Feast's own stores do
            (feast#6821); by default its values are null.
        key_ttl_seconds: As in Feast's Redis store: Redis forgets a row so long after it was written, by the machine's
            clock and whatever the row's event time. None: never.
    """

    type: Literal["features.online_store.HeadraceOnlineStore"] = (
        "features.online_store.HeadraceOnlineStore"
    )
    stores: StoreSettings
    serve_expired: bool = False
    key_ttl_seconds: PositiveInt | None = None


class _Opened:
    """The plan and the connection of one set of settings."""

    def __init__(self, stores: StoreSettings) -> None:
        self.stores = stores
        self.plan_stamp = plan_files.stamp(stores.plan_path)
        # Views of rows need no plan: Feast hands their whole definition along.
        self.plan = plan_files.applied(stores.plan_path)
        self.rings = Rows(stores)
        self.row_views = {view.name: view for view in self.plan.row_views}
        self._formats: dict[str, RingFormat] = {}

    def outdated(self) -> bool:
        """Whether the plan was applied anew since; looking costs microseconds."""
        return plan_files.stamp(self.stores.plan_path) != self.plan_stamp

    def row_view(self, table: FeatureView | OnDemandFeatureView) -> RowView | None:
        """What a view of rows holds, None for a windowed view; the plan's word goes before Feast's."""
        held = self.row_views.get(table.name)
        return held or (None if is_windowed(table) else row_view_of(table))

    def format(self, view: View) -> RingFormat:
        """The ring format of a view, made once."""
        if view.name not in self._formats:
            self._formats[view.name] = RingFormat(view)
        return self._formats[view.name]

    def as_of_ms(self) -> int:
        """The wall clock or the stream's, by setting."""
        clock = self.rings.clock() if self.stores.clock == "stream" else None
        return time.time_ns() // 1_000_000 if clock is None else clock


class HeadraceOnlineStore(OnlineStore):
    """Feature values of rings as of the wall clock, or of the stream's clock where the settings say so."""

    @cached_property
    def _opened(self) -> dict[StoreSettings, _Opened]:
        return {}

    def _open(self, config: RepoConfig) -> _Opened:
        stores: StoreSettings = config.online_store.stores
        held = self._opened.get(stores)
        if held is None or held.outdated():
            self._opened[stores] = _Opened(stores)
        return self._opened[stores]

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """The latest event time and the values of each entity.

        An entity never seen has no time, and empty windows or no row; a row older than the view's ttl has its time, and
        nulls (or its values, by `serve_expired`).
        """
        opened = self._open(config)
        if of_rows := opened.row_view(table):
            served = config.online_store.serve_expired
            of_rows = msgspec.structs.replace(of_rows, ttl_s=0) if served else of_rows
            return _read_rows(opened, of_rows, entity_keys, requested_features)
        view = opened.plan.view(table.name)
        fmt = opened.format(view)
        names = list(requested_features or [a.name for a in view.aggregates])
        keys = [entity_key(_key_values(view, key)) for key in entity_keys]
        records, _ = fmt.unpack(opened.rings.read(view.versioned, keys))
        as_of = np.full(len(keys), opened.as_of_ms())
        values = fmt.evaluate(records, np.arange(len(keys)), as_of, names)
        integers = {f.name for f in table.features if f.dtype in (Int32, Int64)}
        return [
            (_time(clock), _protos(names, row, integers))
            for clock, row in zip(records["clock_ms"].tolist(), values.tolist(), strict=True)
        ]

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows of a view of rows; of one entity the newest stays, whatever the order of writes.

        Raises:
            OnlineWriteRefused: the view is windowed: see the module's text.
        """
        opened = self._open(config)
        view = opened.row_view(table)
        if view is None:
            raise OnlineWriteRefused(
                f"online store of view {table.name}",
                wanted="tile rows from the stream job",
                came=f"Feast wrote {len(data)} finished values",
                mend="Publish the events to the view's topic; the materializer does the rest.",
            )
        for start in range(0, len(data), WRITE_ROWS_MAX):
            some = data[start : start + WRITE_ROWS_MAX]
            packed = (_row(view, *one) for one in some)
            opened.rings.offer(
                view.stored, packed, forgotten_s=config.online_store.key_ttl_seconds or 0
            )
            if progress:
                progress(len(some))

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """`online_read`, in a thread: it is one round trip."""
        return await asyncio.to_thread(
            self.online_read, config, table, entity_keys, requested_features
        )

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """`online_write_batch`, in a thread."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        """Reads and writes may be awaited."""
        return SupportedAsyncMethods(read=True, write=True)

    def delete_entities(
        self, config: RepoConfig, table: FeatureView, entity_keys: list[EntityKey]
    ) -> int:
        """Forget what is held of entities, rows and rings alike. Returns how many there were.

        A ring comes back with the entity's next event; the lake and the topics keep their records.
        """
        opened = self._open(config)
        of_rows = opened.row_view(table)
        if of_rows:
            return opened.rings.forget(
                of_rows.stored, [_row_key(of_rows, key) for key in entity_keys]
            )
        view = opened.plan.view(table.name)
        keys = [entity_key(_key_values(view, key)) for key in entity_keys]
        return opened.rings.forget(view.versioned, keys)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],  # noqa: ARG002
        entities_to_delete: Sequence[Entity],  # noqa: ARG002
        entities_to_keep: Sequence[Entity],  # noqa: ARG002
        partial: bool,  # noqa: ARG002, FBT001
    ) -> None:
        """Forget the rings of removed views; new ones need no preparation."""
        self._forget(config, tables_to_delete)

    def teardown(
        self,
        config: RepoConfig,
        tables: Sequence[FeatureView],
        entities: Sequence[Entity],  # noqa: ARG002
    ) -> None:
        """Forget the rings of these views."""
        self._forget(config, tables)

    @staticmethod
    def _forget(config: RepoConfig, tables: Sequence[FeatureView]) -> None:
        if tables:
            stores: StoreSettings = config.online_store.stores
            rings, names = Rings(stores), {table.name for table in tables}
            windowed = {
                v.versioned for v in plan_files.followed(stores.plan_path) if v.name in names
            }
            for name in names | windowed:
                rings.delete(name)
            rings.close()


def _read_rows(
    opened: _Opened, view: RowView, entity_keys: list[EntityKey], names: list[str] | None
) -> list[Row]:
    found = opened.rings.newest(view.stored, [_row_key(view, key) for key in entity_keys])
    now_ms = opened.as_of_ms()
    wanted = list(names or view.fields)
    rows: list[Row] = []
    for row in found:
        if row is None:
            rows.append((None, None))
            continue
        fresh = not view.ttl_s or now_ms - row.event_ms <= view.ttl_s * 1000
        values = {n: _value(row.fields.get(n) if fresh else None) for n in wanted}
        rows.append((datetime.fromtimestamp(row.event_ms / 1000, tz=UTC), values))
    return rows


def _row(
    view: RowView,
    key: EntityKey,
    values: Mapping[str, Value],
    event_time: datetime,
    created: datetime | None,
) -> tuple[bytes, rows.Row]:
    fields = {n: v.SerializeToString() for n, v in values.items()}
    return _row_key(view, key), rows.Row(_ms(event_time), _ms(created or event_time), fields)


def _row_key(view: RowView, key: EntityKey) -> bytes:
    given: Mapping[str, Value] = dict(zip(key.join_keys, key.entity_values, strict=True))
    return entity_key([_plain(given[name]) for name in view.join_keys])


def _value(packed: bytes | None) -> Value:
    value = Value()
    if packed is not None:
        value.ParseFromString(packed)
    return value


def _ms(at: datetime) -> int:
    """Epoch milliseconds; a time without a zone is UTC, as Feast has it."""
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def _key_values(view: View, key: EntityKey) -> list[KeyValue]:
    given: Mapping[str, Value] = dict(zip(key.join_keys, key.entity_values, strict=True))
    return [_plain(given[join_key.name]) for join_key in view.join_keys]


def _plain(value: Value) -> KeyValue:
    kind = value.WhichOneof("val")
    plain: KeyValue = getattr(value, kind) if kind else None
    return plain


def _time(clock_ms: int) -> datetime | None:
    return datetime.fromtimestamp(clock_ms / 1000, tz=UTC) if clock_ms >= 0 else None


def _protos(names: Sequence[str], values: Sequence[float], integers: set[str]) -> dict[str, Value]:
    return {
        name: _proto(value, name in integers) for name, value in zip(names, values, strict=True)
    }


def _proto(value: float, whole: bool) -> Value:  # noqa: FBT001 - private
    if math.isnan(value):
        return Value()
    return Value(int64_val=int(value)) if whole else Value(double_val=value)
