"""Row d in its first form: the scorer's read of windowed features, beside the physical limit.

The limit is one bare MGET of the same packed values in the same run, without making a number of them. The other peers
and sizes of the row come with the feature platform; nothing is claimed beyond what is printed.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import pytest
import redis

from features import flights
from features.compiler import compile_repo
from features.ring import RingFormat
from features.rings import Rings, entity_key
from features.vectors import VectorReader
from schemas.flights import SERVICE
from tests.benchmarks.contenders import record

if TYPE_CHECKING:
    from collections.abc import Callable

    from features.settings import StoreSettings
    from features.views import Plan

ENTITIES = 10_000
REPEATS = 7
CALLS = 200
AS_OF_MS = 1_370_100_000_000


@pytest.fixture(scope="module")
def plan() -> Plan:
    return compile_repo(flights)[1]


@pytest.fixture(scope="module")
def filled(stores: StoreSettings, plan: Plan) -> StoreSettings:
    """A ring for every entity of every view; what is in it does not matter to the cost of reading it."""
    rings = Rings(stores)
    for view in plan.service_views(SERVICE):
        packed = RingFormat(view).empty().tobytes()
        keys = [entity_key([f"E{n}"]) for n in range(ENTITIES)]
        rings.write((view.versioned, key, packed) for key in keys)
    rings.close()
    return stores


def seconds_a_call(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        work()
    return (time.perf_counter() - began) / CALLS


@pytest.mark.parametrize("rows", [1, 10, 100])
def test_bench_online_read(filled: StoreSettings, plan: Plan, rows: int) -> None:
    reader = VectorReader(filled, plan, SERVICE)
    chosen = [f"E{n}" for n in np.random.default_rng(rows).choice(ENTITIES, rows, replace=False)]
    entities = {key.name: chosen for key in plan.join_keys(SERVICE)}
    as_of_ms = np.full(rows, AS_OF_MS)
    wanted = [
        f"{filled.project}:{view.versioned}:".encode() + entity_key([name])
        for view in plan.service_views(SERVICE)
        for name in chosen
    ]
    bare = redis.Redis.from_url(filled.redis_url)
    assert all(bare.mget(wanted)), "the limit must read what the reader reads"
    assert reader.read(entities, as_of_ms).age_ms.shape == (rows, len(reader.service.views))

    ours: list[float] = []
    limit: list[float] = []
    for repeat in range(REPEATS):
        # A B B A, so that a drifting machine is fair to both.
        for first in (repeat % 2 == 0, repeat % 2 == 1):
            if first:
                ours.append(seconds_a_call(lambda: reader.read(entities, as_of_ms)))
            else:
                limit.append(seconds_a_call(lambda: bare.mget(wanted)))
    ratios = [a / b for a, b in zip(ours[1:], limit[1:], strict=True)]
    record(
        {
            "row": "d",
            "name": f"online read, {rows} requests x {len(reader.service.features)} features",
            "ours_ms": round(1_000 * median(ours[1:]), 3),
            "limit_ms": round(1_000 * median(limit[1:]), 3),
            "ours_to_limit": round(median(ratios), 2),
            "spread": [round(min(ratios), 2), round(max(ratios), 2)],
            "peer": None,
            "versions": {name: version(name) for name in ("redis", "hiredis", "numpy")},
        }
    )
    bare.close()
    reader.close()
