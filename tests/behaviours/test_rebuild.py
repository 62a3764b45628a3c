"""A store that was lost comes back from the lake, and nothing newer is lost by it."""

from __future__ import annotations

import random
import sys
from datetime import UTC, datetime, timedelta
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field
from feast.types import Float64, String
from feast.value_type import ValueType

from features.feast_store import apply, feature_store
from features.lake import Lake
from features.lake_schema import LAKE_COLUMNS
from features.lake_source import LakeSource
from features.rebuild import _offer, rebuild
from features.reference import features_as_of
from features.ring import RingFormat
from features.rings import Rings, entity_key
from features.tile_stream import TileStream
from features.vectors import VectorReader
from features.views import Plan
from tests.conftest import OnlineStore, stores_at
from tests.features.readings import NAMES, PLAN, SCHEMA, START_MS, VIEW, assert_same, event, table
from tests.pipelines import toy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from features.settings import StoreSettings
    from features.tile_row import TileRow

# Three hours of readings, of which the rings hold the last.
LOG = [
    event(i * 61_000, None if i % 7 == 0 else i / 4, sensor=f"s{i % 5}", event_id=f"e{i:03}")
    for i in range(180)
]
SENSORS = sorted({e["sensor"] for e in LOG})
LATEST_MS = max(e["event_time_ms"] for e in LOG)


@pytest.fixture
def lab(online: OnlineStore, tmp_path: Path) -> Iterator[StoreSettings]:
    mine = online.of(stores_at(tmp_path, online.url))
    mine = mine.model_copy(update={"project": "test_rebuild"})
    lake = Lake(mine)
    lake.create(VIEW.table, SCHEMA)
    shuffled = random.Random(7).sample(LOG, len(LOG))
    for start in range(0, len(LOG), 60):
        lake.append(VIEW.table, table(shuffled[start : start + 60]))
    yield mine
    Rings(mine).delete(VIEW.versioned)


def assert_right(stores: StoreSettings, log: list[dict[str, object]]) -> None:
    as_of = max(int(str(e["event_time_ms"])) for e in log)
    reader = VectorReader(stores, PLAN, "lab_v1")
    for wait_ms in (0, 250_000, 3_000_000):
        at = as_of + wait_ms
        found = reader.read({"sensor": SENSORS}, np.full(len(SENSORS), at))
        for sensor, values in zip(SENSORS, found.values, strict=True):
            wanted = features_as_of(VIEW, log, {"sensor": sensor}, at)
            assert_same(dict(zip(NAMES, values.tolist(), strict=True)), wanted)
    reader.close()


def test_lost_rings_come_back(lab: StoreSettings) -> None:
    told: list[tuple[str, int, int]] = []
    written = rebuild(PLAN, lab, progress=lambda *of: told.append(of))
    assert written == {VIEW.name: len(SENSORS)}
    assert told == [(VIEW.name, len(SENSORS), len(SENSORS))]
    assert_right(lab, LOG)


def test_again_changes_no_byte(lab: StoreSettings) -> None:
    keys = [entity_key([sensor]) for sensor in SENSORS]
    rebuild(PLAN, lab)
    once = Rings(lab).read(VIEW.versioned, keys)
    rebuild(PLAN, lab)
    assert Rings(lab).read(VIEW.versioned, keys) == once


def test_what_the_lake_does_not_have_yet_stays(lab: StoreSettings) -> None:
    newer = [event(LATEST_MS - START_MS + 1_000, 8.0, sensor=s, event_id=f"n{s}") for s in SENSORS]
    fmt, stream = RingFormat(VIEW), TileStream(VIEW)
    rows = stream.push_all([*LOG, *newer])
    for sensor in SENSORS:
        ring = fmt.empty()
        # Only of the newest tiles: the others were lost.
        mine = [r for k, r in rows if k == (sensor,) and r.clock_ms > LATEST_MS]
        fmt.apply(ring, 0, mine)
        Rings(lab).write([(VIEW.versioned, entity_key([sensor]), ring.tobytes())])
    rebuild(PLAN, lab)
    assert_right(lab, [*LOG, *newer])


def test_a_ring_that_changed_meanwhile_is_not_overwritten(lab: StoreSettings) -> None:
    rings = Rings(lab)
    rings.write([(VIEW.versioned, b"a", b"1"), (VIEW.versioned, b"b", b"1")])
    asked = [(b"a", b"1", b"2"), (b"b", b"0", b"2"), (b"c", None, b"2"), (b"a", None, b"3")]
    assert rings.replace(VIEW.versioned, asked) == [b"b", b"a"]
    assert rings.read(VIEW.versioned, [b"a", b"b", b"c"]) == [b"2", b"1", b"2"]


def test_a_tile_that_comes_while_its_ring_is_rebuilt_is_kept(lab: StoreSettings) -> None:
    tiles: dict[bytes, list[TileRow]] = {}
    late = event(LATEST_MS - START_MS + 1_000, 8.0, sensor="s0", event_id="late")
    for keys, row in TileStream(VIEW).push_all(LOG):
        tiles.setdefault(entity_key(keys), []).append(row)
    *_, (_, newest) = TileStream(VIEW).push(late)

    class Interrupted(Rings):
        times = 0

        def read(self, view: str, keys: Sequence[bytes]) -> list[bytes | None]:
            found = super().read(view, keys)
            self.times += 1
            if self.times == 1:
                ring = (fmt := RingFormat(VIEW)).empty()
                fmt.apply(ring, 0, [newest._replace(n=1_000)])
                self.write([(view, entity_key(["s0"]), ring.tobytes())])
            return found

    rings = Interrupted(lab)
    _offer(VIEW, rings, tiles)
    assert rings.times == 2
    fmt = RingFormat(VIEW)
    records, _ = fmt.unpack(rings.read(VIEW.versioned, [entity_key(["s0"])]))
    held = records[f"n_{newest.hop_s}"][0]
    assert held.max() == 1_000
    assert (held > 0).sum() > 1


def test_views_not_named_and_empty_tables_are_left_alone(lab: StoreSettings) -> None:
    assert rebuild(PLAN, lab, views=["another"]) == {}
    empty = lab.model_copy(update={"namespace": "empty"})
    Lake(empty).create(VIEW.table, SCHEMA)
    assert rebuild(PLAN, empty) == {VIEW.name: 0}


def test_rows_come_back(redis_url: str, tmp_path: Path) -> None:
    stores = stores_at(tmp_path, redis_url).model_copy(update={"project": "test_rebuild_rows"})
    toy.register("rebuilt")
    module = ModuleType("features.rebuilt")
    module.__spec__ = ModuleSpec(module.__name__, loader=None)
    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    facts = FeatureView(
        name="rebuilt_facts",
        entities=[shop],
        ttl=timedelta(),
        schema=[Field(name="shop", dtype=String), Field(name="rating", dtype=Float64)],
        source=LakeSource("rebuilt_facts"),
    )
    module.shop, module.facts = shop, facts  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    columns = [("shop", pa.string()), ("rating", pa.float64()), ("event_time_ms", pa.int64())]
    Lake(stores).create(
        "rebuilt_facts", pa.schema([*(pa.field(*c) for c in columns), *LAKE_COLUMNS])
    )
    apply("rebuilt", stores)
    store = feature_store(stores)
    now = datetime.now(tz=UTC)
    rows = pd.DataFrame(
        {"shop": ["x", "x"], "rating": [1.0, 2.0], "event_time": [now - timedelta(hours=1), now]}
    ).assign(event_time=lambda f: f.event_time.dt.as_unit("us"))
    store.write_to_offline_store("rebuilt_facts", rows)
    assert rebuild(Plan.load(stores.plan_path), stores, views=["rebuilt_facts"])[
        "rebuilt_facts"
    ] == (-1)
    answer = store.get_online_features(["rebuilt_facts:rating"], [{"shop": "x"}]).to_dict()
    assert answer["rating"] == [2.0]
    del sys.modules[module.__name__], sys.modules["schemas.rebuilt"]
