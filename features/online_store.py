"""The Feast `OnlineStore` plugin over `features.rings`, so that `FeatureStore.get_online_features` answers.

It reads the same rings by the same mathematics as the scorer's `VectorReader`. It never writes: the materializer is
the single writer of rings, and a value pushed from elsewhere could not be told from a count of events.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

import numpy as np
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel
from feast.types import Int32, Int64

from features.ring import RingFormat
from features.rings import Rings, entity_key
from features.settings import StoreSettings
from features.tile_row import KeyValue
from features.views import Plan, View
from schemas.errors import HeadraceError

Row = tuple[datetime | None, dict[str, Value] | None]


class OnlineWriteRefused(HeadraceError):
    """Feast was asked to push or materialize into rings, which only the stream's tiles may enter."""


class HeadraceOnlineStoreConfig(FeastConfigBaseModel):
    """What Feast's configuration says of this store; `feature_store` fills it in."""

    type: Literal["features.online_store.HeadraceOnlineStore"] = (
        "features.online_store.HeadraceOnlineStore"
    )
    stores: StoreSettings


class _Opened:
    """The plan and the connection of one set of settings."""

    def __init__(self, stores: StoreSettings) -> None:
        self.stores = stores
        self.plan = Plan.load(stores.plan_path)
        self.rings = Rings(stores)
        self._formats: dict[str, RingFormat] = {}

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
        if stores not in self._opened:
            self._opened[stores] = _Opened(stores)
        return self._opened[stores]

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """The latest event time and the values of each entity; one never seen has no time, and empty windows."""
        opened = self._open(config)
        view = opened.plan.view(table.name)
        fmt = opened.format(view)
        names = list(requested_features or [a.name for a in view.aggregates])
        keys = [entity_key(_key_values(view, key)) for key in entity_keys]
        records, _ = fmt.unpack(opened.rings.read(view.name, keys))
        as_of = np.full(len(keys), opened.as_of_ms())
        values = fmt.evaluate(records, np.arange(len(keys)), as_of, names)
        integers = {f.name for f in table.features if f.dtype in (Int32, Int64)}
        return [
            (_time(clock), _protos(names, row, integers))
            for clock, row in zip(records["clock_ms"].tolist(), values.tolist(), strict=True)
        ]

    def online_write_batch(
        self,
        config: RepoConfig,  # noqa: ARG002 - Feast's interface
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,  # noqa: ARG002
    ) -> None:
        """Always refused: see the module's text.

        Raises:
            OnlineWriteRefused: always.
        """
        raise OnlineWriteRefused(
            f"online store of view {table.name}",
            wanted="tile rows from the stream job",
            came=f"Feast wrote {len(data)} finished values",
            mend="Publish the events to the view's topic; the materializer does the rest.",
        )

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
            rings = Rings(config.online_store.stores)
            for table in tables:
                rings.delete(table.name)
            rings.close()


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
