"""How fresh views are, by a real Redis."""

from __future__ import annotations

import time

import pytest

from features.freshness import freshness
from features.on_demand import Input, OnDemandView
from features.ring import RingFormat
from features.rings import entity_key
from features.row_views import RowView
from features.rows import Row, Rows
from features.settings import StoreSettings
from features.tile_stream import TileStream
from features.views import Plan
from tests.features.readings import START_MS, VIEW, event

FACTS = RowView("facts", "facts", ("sensor",), ("size",))
INPUTS = (Input(VIEW.name, "last_1h", "number"), Input("facts", "size", "number"))
MADE = OnDemandView("made", "m", "f", "0", "pandas", INPUTS, {}, ("both",))
OF_REQUEST = OnDemandView("asked", "m", "f", "0", "pandas", (), {"amount": "number"}, ("twice",))


@pytest.fixture
def own(stores: StoreSettings) -> StoreSettings:
    return stores.model_copy(update={"project": "freshness", "clock": "stream"})


def test_every_view_says_how_fresh_it_is(own: StoreSettings) -> None:
    plan = Plan(views=(VIEW,), row_views=(FACTS,), on_demand=(MADE, OF_REQUEST))
    assert all(one.latest_event_ms is None for one in freshness(plan, own).views)
    rows, fmt = Rows(own), RingFormat(VIEW)
    for sensor, at_ms in (("a", 5_000), ("b", 60_000)):
        ring = fmt.empty()
        fmt.apply(ring, 0, [r for _, r in TileStream(VIEW).push(event(at_ms, 1.0, sensor=sensor))])
        rows.write([(VIEW.versioned, entity_key([sensor]), ring.tobytes())])
    rows.advance_clock({VIEW.versioned: START_MS + 60_000})
    rows.offer("facts", [(entity_key(["a"]), Row(START_MS + 10_000, 0, {}))])
    found = freshness(plan, own)
    assert found.clock_ms == START_MS + 60_000
    windows, facts, made, of_request = found.views
    assert (windows.kind, windows.age_ms, windows.entities) == ("windows", 0, 2)
    assert (windows.newest_ms, windows.oldest_ms) == (START_MS + 60_000, START_MS + 5_000)
    assert windows.features == tuple(a.name for a in VIEW.aggregates)
    assert (facts.kind, facts.age_ms, facts.entities) == ("rows", 50_000, 1)
    # No fresher than the least fresh of what it is made of.
    assert (made.latest_event_ms, made.age_ms) == (START_MS + 10_000, 50_000)
    assert (of_request.latest_event_ms, of_request.age_ms) == (None, None)
    by_wall = freshness(plan, own.model_copy(update={"clock": "wall"}), entities_max=1)
    assert by_wall.clock_ms == pytest.approx(time.time() * 1000, abs=60_000)
    assert by_wall.views[0].entities == 1
    for name in (VIEW.versioned, "facts"):
        rows.delete(name)
    rows.close()
