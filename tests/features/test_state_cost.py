from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import redis

from features import row_stream
from features.ring import RingFormat
from features.rings import Rings, entity_key
from features.row_views import RowView
from features.rows import Rows
from features.state_cost import StateRefused, cost, refuse_costly, row_cost, tile_life_s
from infra.local.redis_server import RedisServer
from tests.features.readings import VIEW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from features.row_views import ColumnType
    from features.settings import StoreSettings

LATENESS_S = 86_400


@pytest.fixture
def alone(stores: StoreSettings, tmp_path: Path) -> Iterator[StoreSettings]:
    """A Redis in which nobody else frees memory meanwhile."""
    with RedisServer(tmp_path) as server:
        yield stores.model_copy(update={"redis_url": server.url})


def test_a_ring_costs_in_redis_what_is_said(alone: StoreSettings) -> None:
    rings, count = Rings(alone), 2_000
    client = redis.Redis.from_url(alone.redis_url)
    packed = RingFormat(VIEW).empty().tobytes()
    before = client.info("memory")["used_memory_dataset"]
    rings.write(("cost", entity_key([f"sensor-{n:06}"]), packed) for n in range(count))
    measured = (client.info("memory")["used_memory_dataset"] - before) / count
    rings.delete("cost")
    rings.close()
    client.close()
    assert cost(VIEW, LATENESS_S).ring_bytes == pytest.approx(measured, rel=0.15)


def test_a_row_costs_in_redis_what_is_said(alone: StoreSettings) -> None:
    kinds: dict[str, ColumnType] = {"limit": "double", "trips": "bigint", "city": "string"}
    view = RowView("facts", "facts", ("card",), tuple(kinds), topic="facts.valid", kinds=kinds)
    rows, count = Rows(alone), 2_000
    client = redis.Redis.from_url(alone.redis_url)
    before = client.info("memory")["used_memory_dataset"]
    events = [
        {"event_time_ms": 10**12, "ingest_ms": 10**12, "card": f"card-{n:06}"}
        | {"limit": n / 7, "trips": n * 100_000, "city": f"city {n:019}"}
        for n in range(count)
    ]
    rows.offer(view.stored, row_stream.rows_of(view, events))
    measured = (client.info("memory")["used_memory_dataset"] - before) / count
    rows.delete(view.stored)
    rows.close()
    client.close()
    said = row_cost(view)
    assert said.ring_bytes == pytest.approx(measured, rel=0.15)
    assert said.flink_bytes == 0


def test_a_row_beyond_the_limit_is_refused_as_a_ring_is() -> None:
    wide = RowView("wide", "wide", ("card",), tuple(f"field_{n}" for n in range(100)))
    assert [c.view for c in refuse_costly([], 0, 10_000, [wide])] == ["wide"]
    with pytest.raises(StateRefused, match="100 fields"):
        refuse_costly([], 0, 1_000, [wide])


def test_state_grows_with_window_lateness_and_hops() -> None:
    short, long = cost(VIEW, 0), cost(VIEW, LATENESS_S)
    assert short.ring_bytes == long.ring_bytes
    assert long.flink_bytes > short.flink_bytes
    assert len(long.arithmetic) == 1 + len(VIEW.layouts)
    assert long.gib_a_million[0] == pytest.approx(long.ring_bytes * 1e6 / 2**30)


def test_a_view_beyond_the_limit_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(StateRefused, match=r"tiles of 60 s x .* B"):
        refuse_costly([VIEW], LATENESS_S, 1_000)
    assert [c.view for c in refuse_costly([VIEW], LATENESS_S, 10**9)] == [VIEW.name]


def test_a_short_window_over_a_short_hop_is_not_kept_as_long_as_the_longest() -> None:
    short, long = VIEW.aggregates[0], msgspec.structs.replace(VIEW.aggregates[0], name="day")
    short = msgspec.structs.replace(short, window_s=600, hop_s=60)
    long = msgspec.structs.replace(long, window_s=86_400, hop_s=1_800)
    view = msgspec.structs.replace(VIEW, aggregates=(short, long))
    assert [tile_life_s(view, hop_s, 3_600) for hop_s in (60, 1_800)] == [4_200, 90_000]
    minute, half_hour = cost(view, 3_600).arithmetic[1:]
    # 4,200 s are 70 tiles, and one is being filled.
    assert "71 tiles of 60 s" in minute
    assert "51 tiles of 1800 s" in half_hour
