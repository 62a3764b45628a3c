"""One meaning, every executor: whatever the order of arrival, rings and DuckDB agree with the oracle."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import tiles
from features.batch import asked_rows, compute
from features.reference import features_as_of
from features.ring import RingFormat
from features.tile_stream import Emitted, TileStream
from tests.features.readings import (
    NAMES,
    START_MS,
    VIEW,
    assert_same,
    event,
    event_logs,
    instants,
    table,
)

FORMAT = RingFormat(VIEW)


def ring_of(rows: list[Emitted], sensor: str) -> np.ndarray:
    ring = FORMAT.empty()
    FORMAT.apply(ring, 0, [row for keys, row in rows if keys == (sensor,)])
    return ring


def ring_features(ring: np.ndarray, as_of_ms: int) -> dict[str, float]:
    values = FORMAT.evaluate(ring, np.array([0]), np.array([as_of_ms]), NAMES)
    return dict(zip(NAMES, values[0].tolist(), strict=True))


@given(log=event_logs(), seed=st.integers(0, 2**32))
def test_a_ring_forgets_order_repetition_and_replay(log: list[Any], seed: int) -> None:
    rows = TileStream(VIEW).push_all(log)
    dice = random.Random(seed)
    redelivered = rows + dice.choices(rows, k=len(rows)) if rows else []
    dice.shuffle(redelivered)
    once, again = ring_of(rows, "a"), ring_of(redelivered, "a")
    assert once.tobytes() == again.tobytes()
    assert ring_of(redelivered + rows, "a").tobytes() == once.tobytes()


@given(log=event_logs(), seed=st.integers(0, 2**32), wait_ms=st.integers(0, 7_200_000))
def test_rings_agree_with_the_oracle_whatever_the_order_of_arrival(
    log: list[Any], seed: int, wait_ms: int
) -> None:
    as_of = max((e["event_time_ms"] for e in log), default=START_MS) + wait_ms
    random.Random(seed).shuffle(log)
    ring = ring_of(TileStream(VIEW).push_all(log), "a")
    assert_same(ring_features(ring, as_of), features_as_of(VIEW, log, {"sensor": "a"}, as_of))


@given(log=event_logs(), as_of=instants)
def test_a_ring_that_is_ahead_holds_its_head_tile_whole(log: list[Any], as_of: int) -> None:
    ring = ring_of(TileStream(VIEW).push_all(log), "a")
    found = ring_features(ring, as_of)
    newest = max((e["event_time_ms"] for e in log if e["sensor"] == "a"), default=0)
    for layout in VIEW.layouts:
        head = as_of // layout.hop_ms
        mine = [a for a in VIEW.aggregates if a.hop_s == layout.hop_s]
        oldest = head - max(a.tiles for a in mine) + 1
        if newest // layout.hop_ms >= oldest + layout.tiles:
            continue  # the tail may have been overwritten
        whole = features_as_of(VIEW, log, {"sensor": "a"}, (head + 1) * layout.hop_ms - 1)
        names = {a.name for a in mine}
        assert_same({n: found[n] for n in names}, {n: whole[n] for n in names})


@settings(max_examples=40, deadline=None)
@given(log=event_logs(), asked=st.lists(st.tuples(st.sampled_from("abc"), instants), max_size=5))
def test_duckdb_agrees_with_the_oracle(log: list[Any], asked: list[tuple[str, int]]) -> None:
    found = batch_features(log, asked)
    for row, (sensor, as_of) in zip(found, asked, strict=True):
        assert_same(row, features_as_of(VIEW, log, {"sensor": sensor}, as_of))


@settings(max_examples=40, deadline=None)
@given(log=event_logs(), as_of=instants, known=st.integers(0, 40))
def test_as_known_at_leaves_out_what_came_later(log: list[Any], as_of: int, known: int) -> None:
    cutoff = (log[0]["ingest_ms"] if log else 0) + known
    found = batch_features(log, [("a", as_of)], [cutoff])[0]
    before = [e for e in log if e["ingest_ms"] <= cutoff]
    assert_same(found, features_as_of(VIEW, before, {"sensor": "a"}, as_of))


def batch_features(
    log: list[Any], asked: list[tuple[str, int]], cutoffs: list[int] | None = None
) -> list[dict[str, float | None]]:
    entities = pa.table(
        {
            "sensor": pa.array([s for s, _ in asked], pa.string()),
            "event_time_ms": pa.array([t for _, t in asked], pa.int64()),
        }
    )
    known = None if cutoffs is None else pa.chunked_array([cutoffs])
    found: list[dict[str, float | None]] = compute(
        VIEW, NAMES, table(log), asked_rows(VIEW, entities, known)
    ).to_pylist()
    return found


def test_a_broken_executor_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    log = [event(minute * 60_000, float(minute)) for minute in range(90)]
    as_of = log[-1]["event_time_ms"]
    ring = ring_of(TileStream(VIEW).push_all(log), "a")
    wanted = features_as_of(VIEW, log, {"sensor": "a"}, as_of)
    assert_same(ring_features(ring, as_of), wanted)
    right = tiles.in_window
    monkeypatch.setattr(
        tiles, "in_window", lambda index, head, width: right(index, head, width + 1)
    )
    with pytest.raises(AssertionError):
        assert_same(ring_features(ring, as_of), wanted)
