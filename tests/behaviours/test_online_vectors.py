"""Rings on a real Redis: what was written is what is read, in one round trip, as of any instant."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pytest

from features.reference import features_as_of
from features.ring import RingFormat
from features.rings import OnlineStoreUnavailable, Rings, entity_key
from features.settings import StoreSettings
from features.tile_stream import TileStream
from features.vectors import VectorReader
from tests.conftest import OnlineStore
from tests.features.readings import NAMES, PLAN, START_MS, VIEW, assert_same, event


@pytest.fixture
def lab(stores: StoreSettings, online: OnlineStore) -> Iterator[StoreSettings]:
    mine = online.of(stores).model_copy(update={"project": "test_online_vectors"})
    yield mine
    Rings(mine).delete(VIEW.versioned)


def fill(stores: StoreSettings, log: list[dict[str, object]]) -> None:
    fmt, rings = RingFormat(VIEW), Rings(stores)
    for sensor in ("a", "b"):
        ring = fmt.empty()
        rows = [row for keys, row in TileStream(VIEW).push_all(log) if keys == (sensor,)]
        fmt.apply(ring, 0, rows)
        rings.write([(VIEW.versioned, entity_key([sensor]), ring.tobytes())])


LOG = [event(i * 61_000, i / 4, sensor="ab"[i % 2], event_id=f"e{i:03}") for i in range(80)]


def test_vectors_are_the_oracles(lab: StoreSettings) -> None:
    fill(lab, LOG)
    reader = VectorReader(lab, PLAN, "lab_v1")
    latest = LOG[-1]["event_time_ms"]
    sensors, as_of = ["a", "b", "a", "c", None], latest + np.array([0, 1_000, 300_000, 0, 0])
    found = reader.read({"sensor": sensors}, as_of)
    assert found.values.shape == (5, len(NAMES))
    for position, sensor in enumerate(sensors):
        wanted = features_as_of(VIEW, LOG, {"sensor": sensor}, int(as_of[position]))
        assert_same(dict(zip(NAMES, found.values[position].tolist(), strict=True)), wanted)
    assert found.age_ms[:, 0].tolist() == [61_000, 1_000, 361_000, -1, -1]
    assert not found.ahead.any()
    reader.close()


def test_a_ring_ahead_of_the_request_is_told(lab: StoreSettings) -> None:
    fill(lab, LOG)
    reader = VectorReader(lab, PLAN, "lab_v1")
    found = reader.read({"sensor": ["b"]}, np.array([LOG[-1]["event_time_ms"] - 1]))
    assert found.ahead.tolist() == [[True]]
    assert found.age_ms[0, 0] != -1
    reader.close()


def test_an_empty_batch_is_an_empty_answer(lab: StoreSettings) -> None:
    reader = VectorReader(lab, PLAN, "lab_v1")
    assert reader.read({"sensor": []}, np.array([], dtype=np.int64)).values.shape == (0, len(NAMES))
    reader.close()


def test_rings_of_another_definition_count_as_absent(lab: StoreSettings) -> None:
    Rings(lab).write([(VIEW.versioned, entity_key(["a"]), b"of another day")])
    reader = VectorReader(lab, PLAN, "lab_v1")
    found = reader.read({"sensor": ["a"]}, np.array([START_MS]))
    assert (found.discarded, found.age_ms[0, 0]) == (1, -1)
    reader.close()


def test_the_streams_clock_never_goes_back(lab: StoreSettings) -> None:
    rings = Rings(lab)
    rings.delete(VIEW.versioned)
    assert rings.clock() is None
    rings.advance_clock({VIEW.versioned: 5_000, "other": 4_000})
    rings.advance_clock({VIEW.versioned: 3_000, "other": 6_000})
    assert rings.clock() == 6_000
    assert rings.clocks() == {VIEW.versioned: 5_000, "other": 6_000}
    rings.delete("other")
    assert rings.clock() == 5_000


def test_several_views_in_one_round_trip_keep_their_order(lab: StoreSettings) -> None:
    rings = Rings(lab)
    keys = [entity_key([name]) for name in ("x", "y", "z")]
    rings.write([("one", keys[0], b"1x"), ("two", keys[1], b"2y"), ("two", keys[2], b"2z")])
    assert rings.read_many([("one", keys[:2]), ("none", []), ("two", keys[1:])]) == [
        [b"1x", None],
        [],
        [b"2y", b"2z"],
    ]
    assert rings.delete("one") + rings.delete("two") == 3


def test_a_store_out_of_reach_says_where_and_what_to_do() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rings = Rings(StoreSettings(redis_url=f"redis://127.0.0.1:{port}/0", redis_timeout_ms=200))
    with pytest.raises(OnlineStoreUnavailable, match=f"{port}.*headrace status"):
        rings.read("view", [b"key"])


def test_entity_keys_are_canonical() -> None:
    assert entity_key(["N14228"]) == b'["N14228"]'
    assert entity_key(["a", 7]) == b'["a",7]'
