"""Row d: the online read, {10, 50, 200} features × {1, 10, 100, 500} entities.

The limit is a bare MGET of one packed vector an entity, as finished values. `rings` is a bare MGET of what our reader
reads instead: windows that go on without a write need their tiles. Feast's own Redis store holds the same values as
finished features, regular and as precomputed vectors; only for the entities that are asked for, the others are ours.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import pytest
import redis

from features.ring import RingFormat
from features.rings import Rings, entity_key
from features.vectors import VectorReader
from tests.benchmarks import wide
from tests.benchmarks.contenders import Contender, race, record, row, times
from tests.benchmarks.peers import Peer

if TYPE_CHECKING:
    from pathlib import Path

    from feast import FeatureStore

    from features.settings import StoreSettings
    from features.tiles import Floats
    from features.views import Plan, View

ROWS = (1, 10, 100, 500)
ASKED = 2_000
CHUNK = 5_000


class Filled(NamedTuple):
    """The store with a ring and a packed vector for every entity."""

    stores: StoreSettings
    case: str
    plan: Plan
    store: FeatureStore
    bare: redis.Redis


def filled(stores: StoreSettings, features: int, entities: int) -> Filled:
    from features import feast_store  # noqa: PLC0415 - Feast's ten seconds

    case = wide.register(features)
    feast_store.apply(case, stores)
    plan = feast_store.plan(case, stores)[0]
    bare = redis.Redis.from_url(stores.redis_url)
    bare.flushall(asynchronous=True)
    rings, view = Rings(stores), plan.view(case)
    names = [feature for _, feature in plan.service(case).features]
    for start in range(0, entities, CHUNK):
        records = some_rings(view, start)
        now_ms = np.full(CHUNK, time.time_ns() // 1_000_000)
        values = RingFormat(view).evaluate(records, np.arange(CHUNK), now_ms, names)
        numbered = range(start, start + CHUNK)
        keys = [entity_key([f"E{n}"]) for n in numbered]
        rings.write((view.versioned, k, r.tobytes()) for k, r in zip(keys, records, strict=True))
        bare.mset({f"packed:{n}": v.tobytes() for n, v in zip(numbered, values, strict=True)})
    rings.close()
    return Filled(stores, case, plan, feast_store.feature_store(stores), bare)


def some_rings(view: View, seed: int) -> np.ndarray:
    """Whole rings, every slot of them in use up to today."""
    dice, records = np.random.default_rng(seed), RingFormat(view).empty(CHUNK)
    for layout in view.layouts:
        head = time.time_ns() // 1_000_000 // layout.hop_ms
        tiles = head - np.arange(layout.tiles)
        records[f"tile_{layout.hop_s}"][:, tiles % layout.tiles] = tiles
        records[f"n_{layout.hop_s}"] = 5
        partials = records[f"partials_{layout.hop_s}"]
        for place, partial in enumerate(layout.partials):
            made = dice.normal(size=(CHUNK, layout.tiles))
            partials[:, place] = {"count": 5 + 0 * made, "sumsq": 50 + made}.get(partial.kind, made)
        records["clock_ms"] = head * layout.hop_ms
    return records


@pytest.mark.timeout(900)
@pytest.mark.parametrize("features", [10, 50, 200])
def test_bench_online_read(stores: StoreSettings, features: int, tmp_path: Path) -> None:
    held = filled(stores, features, 100_000)
    dice = np.random.default_rng(features)
    asked = {n: dice.choice(ASKED, n, replace=False).tolist() for n in ROWS}
    calls = {n: max(2, min(100, 20_000 // (n * features))) for n in ROWS}
    names = [feature for _, feature in held.plan.service(held.case).features]
    first = [vectors(held, range(start, start + 500)) for start in range(0, ASKED, 500)]
    frame = pd.DataFrame(np.concatenate(first), columns=names)
    frame.insert(0, "station", [f"E{n}" for n in range(ASKED)])
    frame["event_timestamp"] = pd.Timestamp.now(tz="UTC")
    frame.to_parquet(tmp_path / "values.parquet")
    options = {
        "folder": str(tmp_path),
        "project": f"peer{features}",
        "redis": stores.redis_url.removeprefix("redis://").partition("/")[0],
        "features": names,
        "asked": asked,
        "calls": calls,
    }
    with Peer("peer_online", **options) as peer:
        for n in ROWS:
            contenders = mine(held, asked[n], calls[n])
            for kind in ("feast", "feast-precomputed"):
                peer.ask(f"answer {kind} {n}")
                theirs = pd.read_parquet(tmp_path / "answer.parquet").to_numpy()
                assert np.array_equal(theirs, vectors(held, asked[n]), equal_nan=True), kind
                contenders[kind] = peer.contender(f"{kind} {n}")
            versions = peer.ask("versions") | {"redis": str(held.bare.info()["redis_version"])}
            name = f"online read, {n} entities x {features} features, of 100,000"
            record(row("d", name, race(contenders), versions, calls=calls[n]))


@pytest.mark.timeout(900)
def test_bench_online_read_of_ten_times_the_entities(stores: StoreSettings) -> None:
    held = filled(stores, 10, 1_000_000)
    asked = np.random.default_rng(1).choice(1_000_000, 100, replace=False).tolist()
    name = "online read, 100 entities x 10 features, of 1,000,000"
    runs = race(mine(held, asked, 20))
    record(row("d", name, runs, ("redis", "hiredis", "numpy", "feast"), calls=20))
    held.bare.flushall(asynchronous=True)


def mine(held: Filled, asked: list[int], calls: int) -> dict[str, Contender]:
    """Our two reads, the limit, and what lies between."""
    reader = VectorReader(held.stores, held.plan, held.case)
    entities = {"station": [f"E{n}" for n in asked]}
    now_ms = np.full(len(asked), time.time_ns() // 1_000_000)
    view = held.plan.view(held.case)
    packed = [f"packed:{n}" for n in asked]
    rings = [
        f"{held.stores.project}:{view.versioned}:".encode() + entity_key([f"E{n}"]) for n in asked
    ]
    service = held.store.get_feature_service(held.case)

    def limit() -> Floats:
        found = np.frombuffer(b"".join(held.bare.mget(packed)))
        return found.reshape(len(asked), -1)

    def through_feast() -> Floats:
        answer = held.store.get_online_features(features=service, entity_rows=entities)
        found = answer.to_dict()
        return np.array([found[f] for _, f in held.plan.service(held.case).features], float).T

    assert np.array_equal(limit(), reader.read(entities, now_ms).values, equal_nan=True)
    assert np.array_equal(limit(), through_feast(), equal_nan=True)
    assert all(held.bare.mget(rings))
    return {
        "ours": times(lambda: reader.read(entities, now_ms), calls),
        "limit": times(limit, calls),
        "rings": times(lambda: held.bare.mget(rings), calls),
        "ours through Feast": times(
            lambda: held.store.get_online_features(features=service, entity_rows=entities), calls
        ),
    }


def vectors(held: Filled, asked: range | list[int]) -> Floats:
    packed = held.bare.mget([f"packed:{n}" for n in asked])
    return np.frombuffer(b"".join(packed)).reshape(len(packed), -1)
