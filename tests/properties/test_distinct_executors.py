"""Distinct values mean one thing to every executor, on both sides of the bound of what is counted exactly."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import own_fold
from features.batch import asked_rows, compute
from features.certify import certify
from features.lake_tiles import lake_tiles
from features.own_events import Own, OwnEvents
from features.parity import compare
from features.reference import features_as_of
from features.ring import RingFormat
from features.tile_row import TileRowDecoder, encode
from features.tile_stream import TileStream
from features.views import Aggregate, JoinKey, Plan, Service, View

START_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000
SPAN_MS = 3_600_000
VIEW = View(
    name="card_shops",
    topic="shop.requests.valid",
    table="shop_requests",
    event_id_field="event_id",
    join_keys=(JoinKey("card"),),
    columns={"card": "string", "shop": "string", "till": "bigint", "event_id": "string"},
    aggregates=(
        Aggregate("shops_5m", "shop", "count_distinct", 300, 60),
        Aggregate("shops_1h", "shop", "count_distinct", 3_600, 600),
        Aggregate("tills_1h", "till", "count_distinct", 3_600, 600),
        Aggregate("till_max_1h", "till", "max", 3_600, 600),
        Aggregate("events_1h", "event_id", "count", 3_600, 600),
    ),
    origin_offsets=True,
)
NAMES = tuple(a.name for a in VIEW.aggregates)
FORMAT = RingFormat(VIEW)
SCHEMA = pa.schema(
    {"event_time_ms": pa.int64(), "event_id": pa.string(), "card": pa.string()}
    | {"shop": pa.string(), "till": pa.int64(), "ingest_ms": pa.int64()}
    | {"kafka_partition": pa.int32(), "kafka_offset": pa.int64()}
)
Event = dict[str, Any]


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """From none to hundreds of events, in order of arrival, of few or of very many values."""
    dice = random.Random(draw(st.integers(0, 2**32)))
    shops, tills = draw(st.sampled_from([3, 70, 100_000])), draw(st.sampled_from([2, 2**60]))
    spread_ms = draw(st.sampled_from([50_000, SPAN_MS]))
    found = []
    for offset in range(draw(st.sampled_from([0, 1, 30, 64, 65, 66, 200, 400]))):
        shop = None if dice.random() < 0.05 else f"日{dice.randrange(shops)}"
        till = None if dice.random() < 0.05 else dice.randrange(-tills, tills)
        found.append(
            {
                "event_time_ms": START_MS + dice.randrange(spread_ms),
                "event_id": f"e{offset}",
                "card": dice.choice("aaab"),
                "shop": shop,
                "till": till,
                "ingest_ms": START_MS + SPAN_MS + offset,
                "kafka_partition": 0,
                "kafka_offset": offset,
            }
        )
    return found


instants = st.integers(0, SPAN_MS + 600_000).map(lambda n: START_MS + n)


def plain(values: Any) -> dict[str, float | None]:
    return {n: None if np.isnan(v) else float(v) for n, v in zip(NAMES, values, strict=True)}


def oracle(log: list[Event], as_of_ms: int) -> dict[str, float | None]:
    return features_as_of(VIEW, log, {"card": "a"}, as_of_ms)


def batch(log: list[Event], as_of_ms: int, cutoff_ms: int | None = None) -> dict[str, float | None]:
    entities = pa.table({"card": ["a", "never"], "event_time_ms": [as_of_ms, as_of_ms]})
    cutoff = None if cutoff_ms is None else pa.chunked_array([[cutoff_ms, cutoff_ms]])
    events = pa.Table.from_pylist(log, schema=SCHEMA)
    rows = asked_rows(VIEW, entities, cutoff)
    found: list[dict[str, float | None]] = compute(VIEW, NAMES, events, rows).to_pylist()
    assert found[1] == oracle([], as_of_ms)
    return found[0]


@settings(max_examples=12, deadline=None)
@given(log=logs(), as_of_ms=instants, known=st.integers(0, 400))
def test_duckdb_gives_the_oracles_number(log: list[Event], as_of_ms: int, known: int) -> None:
    assert batch(log, as_of_ms) == oracle(log, as_of_ms)
    cutoff_ms = START_MS + SPAN_MS + known
    before = [e for e in log if e["ingest_ms"] <= cutoff_ms]
    assert batch(log, as_of_ms, cutoff_ms) == oracle(before, as_of_ms)


@settings(max_examples=25, deadline=None)
@given(log=logs(), seed=st.integers(0, 2**32), wait_ms=st.integers(0, SPAN_MS))
def test_rings_give_the_oracles_number(log: list[Event], seed: int, wait_ms: int) -> None:
    """Through the text of a tile row, late, repeated and out of order."""
    as_of_ms = max((e["event_time_ms"] for e in log), default=START_MS) + wait_ms
    emitted = TileStream(VIEW).push_all(log)
    decoder, dice = TileRowDecoder(VIEW), random.Random(seed)
    rows = [decoder.of(encode(VIEW, keys, row)) for keys, row in emitted if keys == ("a",)]
    mine = [found[1] for found in rows if found]
    twice = mine + dice.choices(mine, k=len(mine)) if mine else []
    dice.shuffle(twice)
    ring, once = FORMAT.empty(), FORMAT.empty()
    FORMAT.apply(ring, 0, twice)
    FORMAT.apply(once, 0, mine)
    assert ring.tobytes() == once.tobytes()
    values = FORMAT.evaluate(ring, np.array([0]), np.array([as_of_ms]), NAMES)[0]
    assert plain(values) == oracle(log, as_of_ms)


@settings(max_examples=12, deadline=None)
@given(log=logs())
def test_tiles_of_the_lake_are_those_of_the_stream(log: list[Event]) -> None:
    since_ms = dict.fromkeys((60, 600), 0)
    decoder = TileRowDecoder(VIEW)
    rebuilt = map(decoder.of, lake_tiles(VIEW, pa.Table.from_pylist(log, schema=SCHEMA), since_ms))
    streamed = {(k, r.hop_s, r.tile): r for k, r in TileStream(VIEW).push_all(log)}
    found = {(k, r.hop_s, r.tile): r for k, r in filter(None, rebuilt)}
    assert found.keys() == streamed.keys()
    for place, row in found.items():
        held = streamed[place]
        assert (row.n, row.blocks) == (held.n, held.blocks)
        assert row.partials == pytest.approx(held.partials, nan_ok=True)


@settings(max_examples=25, deadline=None)
@given(log=logs(), share=st.floats(0, 1))
def test_own_events_are_folded_to_the_oracles_number(log: list[Event], share: float) -> None:
    """The ring has come as far as some event, the scorer has consumed all of them."""
    log = sorted(log, key=lambda e: e["event_time_ms"])
    for offset, one in enumerate(log):
        one["kafka_offset"] = offset
    come = int(len(log) * share)
    own = OwnEvents([VIEW])
    own.begin(0, 0, whole=True)
    for one in log:
        own.observe(0, one["kafka_offset"], SimpleNamespace(**one))
    ring = FORMAT.empty()
    held = [e for e in log[:come] if e["card"] == "a"]
    rows = [
        row._replace(source_offset=held[at // 2]["kafka_offset"])
        for at, (_, row) in enumerate(TileStream(VIEW).push_all(held))
    ]
    FORMAT.apply(ring, 0, rows)
    as_of = np.array([log[-1]["event_time_ms"] if log else START_MS])
    given_own = Own(own, np.array([0]), np.array([len(log)]))
    marked = own_fold.settle(VIEW, ring, [("a",)], given_own, as_of)
    own_fold.fold(VIEW, ring, own_fold.pairs(VIEW, [("a",)], given_own, as_of), as_of)
    values = FORMAT.evaluate(ring, np.array([0]), as_of, NAMES)[0]
    assert not marked.any()
    assert plain(values) == oracle(log, int(as_of[0]))


def test_hostile_streams_pass_the_bound_and_all_agree() -> None:
    verdict = certify(VIEW, range(12))
    assert verdict.differences == 0, verdict.smallest
    assert verdict.compared > 1_000


@settings(max_examples=10, deadline=None)
@given(log=logs(), seed=st.integers(0, 2**32))
def test_parity_finds_which_events_were_under_way(log: list[Event], seed: int) -> None:
    """Of each of two partitions the last arrivals may be missing; nothing else gives the value."""
    dice = random.Random(seed)
    plain_view = msgspec.structs.replace(VIEW, origin_offsets=False)
    as_of_ms = max((e["event_time_ms"] for e in log), default=START_MS)
    for one in log:
        one["kafka_partition"] = dice.randrange(2)
    parts = [[e for e in log if e["kafka_partition"] == p] for p in (0, 1)]
    shown = [e for part in parts for e in part[: len(part) - dice.randint(0, 3)]]
    read_at_ms = START_MS + SPAN_MS + len(log)
    right = features_as_of(plain_view, shown, {"card": "a"}, as_of_ms)
    plan = Plan((plain_view,), (Service("shop_v1", tuple((VIEW.name, n) for n in NAMES)),))
    events = {VIEW.table: pa.Table.from_pylist(log, schema=SCHEMA)}
    for wrong in (0.0, 0.25):
        served = {f"{VIEW.name}__{n}": [None if v is None else v + wrong] for n, v in right.items()}
        asked: dict[str, Any] = {"request_id": ["r"], "card": ["a"]}
        asked |= {"event_time_ms": [as_of_ms], "read_at_ms": [read_at_ms]}
        table = pa.table(asked | {n: pa.array(v, pa.float64()) for n, v in served.items()})
        report = compare(plan, "shop_v1", table, events)
        assert bool(report.unexplained) == bool(wrong)
