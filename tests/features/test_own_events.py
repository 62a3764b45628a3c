from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from features import own_fold
from features.own_events import Own, OwnEvents
from features.progress import Progress
from features.reference import features_as_of
from features.ring import RingFormat
from features.tile_row import SEPARATOR, TileRow
from features.views import Aggregate, Function, JoinKey, Layout, Partial, View

START_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000
# The shortest slack of the views below: four tiles of a minute, of which the head may be nearly over.
SLACK_MS = 180_000
FUNCTIONS: tuple[Function, ...] = (
    *("count", "sum", "mean", "min", "max"),
    *("std", "var", "first", "last"),
)


def _view(name: str, *keys: str) -> View:
    return View(
        name=name,
        topic="shop.requests.valid",
        table="shop_requests",
        event_id_field="event_id",
        join_keys=tuple(JoinKey(key) for key in keys),
        columns={"amount": "double", "event_id": "string", **dict.fromkeys(keys, "string")},
        aggregates=(
            *(Aggregate(f"{f}_5m", "amount", f, 300, 60) for f in FUNCTIONS),
            *(Aggregate(f"{f}_20m", "amount", f, 1_200, 300) for f in FUNCTIONS),
        ),
        origin_offsets=True,
    )


VIEWS = (_view("card", "card"), _view("card_merchant", "card", "merchant"))
Event = dict[str, Any]

numbers = st.integers(-4_000, 40_000).map(lambda n: n / 8)


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    """One partition's events in the order of their offsets, which have holes, and not of their times; ties are common."""
    drawn = draw(
        st.lists(
            st.tuples(
                st.integers(0, 12).map(lambda n: n * 15_000) | st.integers(0, 1_300_000),
                st.sampled_from("aaab"),
                st.sampled_from(["x", "y", None]),
                st.none() | numbers,
                st.integers(1, 3),
                st.integers(0, 999),
            ),
            min_size=4,
            max_size=25,
        )
    )
    offset, found = 0, []
    for index, (at_ms, card, merchant, amount, step, name) in enumerate(drawn):
        offset += step
        found.append(
            {
                "event_time_ms": START_MS + at_ms,
                "event_id": f"{name:03}-{index}",
                "card": card,
                "merchant": merchant,
                "amount": amount,
                "offset": offset,
            }
        )
    return found


def _key(view: View, event: Event) -> tuple[Any, ...]:
    return tuple(event[k.name] for k in view.join_keys)


def _rows(view: View, events: Sequence[Event]) -> list[list[TileRow]]:
    """What a job emits for one entity: tile by tile, the rows in the order of its events."""
    out = []
    for layout in view.layouts:
        tiles: dict[int, list[Event]] = {}
        for event in events:
            tiles.setdefault(event["event_time_ms"] // layout.hop_ms, []).append(event)
        for tile, mine in tiles.items():
            out.append([_row(layout, tile, mine[:n]) for n in range(1, len(mine) + 1)])
    return out


def _row(layout: Layout, tile: int, events: Sequence[Event]) -> TileRow:
    known = [e for e in events if e["amount"] is not None]
    known.sort(key=lambda e: (e["event_time_ms"], e["event_id"]))
    stamps = []
    for partial in layout.partials:
        if partial.kind in ("first", "last"):
            end = known[0 if partial.kind == "first" else -1] if known else None
            mark = f"{end['event_time_ms']:015d}{SEPARATOR}{end['event_id']}" if end else ""
            stamps.append(mark)
    return TileRow(
        hop_s=layout.hop_s,
        tile=tile,
        n=len(events),
        partials=tuple(_partial(p, [e["amount"] for e in known]) for p in layout.partials),
        clock_ms=max(e["event_time_ms"] for e in events),
        source_offset=max(e["offset"] for e in events),
        source_partition=0,
        stamps=tuple(stamps),
    )


def _partial(partial: Partial, values: list[float]) -> float:
    match partial.kind:
        case "count":
            return float(len(values))
        case "sum":
            return math.fsum(values)
        case "sumsq":
            return math.fsum(v * v for v in values)
    if not values:
        return math.nan
    ends = {"first": values[0], "last": values[-1], "min": min(values), "max": max(values)}
    return ends[partial.kind]


def _remembered(events: Sequence[Event], **bounds: int) -> OwnEvents:
    own = OwnEvents(VIEWS, **bounds)
    own.begin(0, 0, whole=True)
    for event in events:
        own.observe(0, event["offset"], SimpleNamespace(**event))
    return own


def _served(
    view: View, ring: Any, own: OwnEvents, requests: Sequence[Event]
) -> tuple[Any, list[bool]]:
    """Values and marks of requests of one entity, all read from one ring."""
    kept = RingFormat(view)
    records = np.repeat(ring, len(requests))
    as_of = np.array([r["event_time_ms"] for r in requests], dtype=np.int64)
    offsets = np.array([r["offset"] for r in requests], dtype=np.int64)
    asked = Own(own, np.zeros(len(requests), dtype=np.int64), offsets)
    keys = [_key(view, r) for r in requests]
    marked = own_fold.settle(view, records, keys, asked, as_of)
    pairs = own_fold.pairs(view, keys, asked, as_of)
    own_fold.fold(view, records, pairs, as_of)
    names = [a.name for a in view.aggregates]
    values = kept.evaluate(records, np.arange(len(requests)), as_of, names)
    return values, marked.tolist()


@settings(max_examples=300, deadline=None)
@given(streams(), st.data())
def test_ring_and_own_events_are_the_whole_stream(stream: list[Event], data: st.DataObject) -> None:
    """However far each tile has come, and out of step with each other, a request that is not marked sees what it must."""
    view = data.draw(st.sampled_from(VIEWS))
    known = sorted({found for e in stream if None not in (found := _key(view, e))})
    assume(known)
    entity = data.draw(st.sampled_from(known))
    mine = [e for e in stream if _key(view, e) == entity]
    consumed = data.draw(st.just(len(stream)) | st.integers(1, len(stream)))
    kept_rows = data.draw(st.sampled_from([25, 2]))
    own = _remembered(stream[:consumed], rows_max=kept_rows)
    requests = [e for e in stream[:consumed] if _key(view, e) == entity]
    kept = RingFormat(view)
    ring = kept.empty()
    # The job may be behind the scorer, or, where the scorer has a backlog, ahead of it.
    newest = data.draw(st.sampled_from([consumed, len(stream)]))
    emitted = _rows(view, [e for e in stream[:newest] if e in mine])
    # What is forgotten is in the rings: that is what `settled` asks for.
    floor = stream[consumed - kept_rows - 1]["offset"] if consumed > kept_rows else -1
    applied = []
    for rows in emitted:
        least = sum(row.source_offset <= floor for row in rows)
        some = data.draw(st.just(least) | st.integers(least, len(rows)))
        applied += [rows[:some]] if some else []
    for rows in sorted(applied, key=lambda rows: rows[-1].tile):
        kept.apply(ring, 0, rows)

    values, marked = _served(view, ring, own, requests)

    in_ring = max((row.source_offset for rows in applied for row in rows), default=-1)
    for row, request in enumerate(requests):
        before = [e for e in mine if e["offset"] <= request["offset"]]
        key = {k.name: request[k.name] for k in view.join_keys}
        if marked[row]:
            # Only what the scorer has not consumed, or has forgotten, keeps a tile from being built anew; and what came
            # so late that its slot belongs to another tile is lost.
            unknown = in_ring > stream[consumed - 1]["offset"] or len(own) < consumed
            newest_ms = max(e["event_time_ms"] for e in mine)
            assert unknown or newest_ms - request["event_time_ms"] > SLACK_MS
            continue
        expected = features_as_of(view, before, key, request["event_time_ms"])
        for name, value in zip(expected, values[row], strict=True):
            wanted = expected[name]
            if wanted is None:
                assert math.isnan(value), (name, value)
            else:
                assert value == pytest.approx(wanted, rel=1e-9, abs=1e-9), name


def test_a_burst_before_the_rings_know_of_it_counts_from_one() -> None:
    burst = [
        {
            "event_time_ms": START_MS + n // 5,
            "event_id": f"e{n}",
            "card": "a",
            "merchant": "x",
            "amount": 1.0,
            "offset": 7 + n,
        }
        for n in range(50)
    ]
    values, marked = _served(VIEWS[0], RingFormat(VIEWS[0]).empty(), _remembered(burst), burst)
    assert not any(marked)
    count = [a.name for a in VIEWS[0].aggregates].index("count_5m")
    assert values[:, count].tolist() == list(range(1, 51))


def test_what_is_forgotten_must_be_proven_to_be_in_the_rings() -> None:
    events = [
        {
            "event_time_ms": START_MS,
            "event_id": f"e{n}",
            "card": "a",
            "merchant": None,
            "amount": None,
            "offset": n,
        }
        for n in range(10)
    ]
    own = _remembered(events, rows_max=4, rows_kept=2)
    assert len(own) == 4
    assert not own.settled(0, 4)
    assert own.settled(0, 5)
    own.prune(0, 7)
    assert [e.offset for e in own.of("card", ("a",))] == [8, 9]
    assert not own.settled(0, 6)
    assert own.settled(0, 7)
    own.prune(0, 100)
    assert len(own) == 2
    assert own.follows(0, 10)
    assert own.follows(0, 3)
    assert not own.follows(0, 12)
    own.forget([0])
    assert len(own) == 0
    assert not own.settled(0, 1_000)
    own.begin(0, 50, whole=False)
    assert not own.settled(0, 49)
    assert own.settled(0, 50)


def test_progress_is_that_of_the_slowest_hop() -> None:
    view = VIEWS[0]
    progress = Progress.unpack(view, None)
    assert progress.reached(0) == -1
    progress.advance([TileRow(60, 1, 1, (), 0, 9, 0)])
    assert progress.reached(0) == -1
    progress.advance([TileRow(300, 1, 1, (), 0, 5, 0), TileRow(300, 1, 1, (), 0, 3, 0)])
    again = Progress.unpack(view, progress.pack())
    assert again.reached(0) == 5
    assert again.reached(1) == -1
    assert Progress.unpack(view, b"{").reached(0) == -1
