from __future__ import annotations

import pytest

from features.ring import RingFormat
from features.rings import Rings, entity_key
from features.settings import StoreSettings
from features.tile_stream import TileStream
from features.view_summary import BINS, summarize
from tests.features.readings import START_MS, VIEW, event

HOUR_MS = 3_600_000


@pytest.fixture
def own(stores: StoreSettings) -> StoreSettings:
    return stores.model_copy(update={"project": "summary"})


def test_distribution_and_freshness_of_what_would_be_served(own: StoreSettings) -> None:
    assert summarize(VIEW, own).entities == 0
    rings, fmt = Rings(own), RingFormat(VIEW)
    written = []
    for number in range(10):
        at_ms = 0 if number == 9 else 2 * HOUR_MS - number * 1_000
        ring = fmt.empty()
        rows = TileStream(VIEW).push(event(at_ms, float(number), sensor=f"s{number}"))
        fmt.apply(ring, 0, [row for _, row in rows])
        written.append((VIEW.versioned, entity_key((f"s{number}",)), ring.tobytes()))
    rings.write([*written, (VIEW.versioned, entity_key(("other layout",)), b"short")])
    rings.advance_clock({VIEW.versioned: START_MS + 2 * HOUR_MS})
    summary = summarize(VIEW, own)
    assert (summary.entities, summary.clock_ms) == (10, START_MS + 2 * HOUR_MS)
    assert (summary.age_p50_ms, summary.idle_share) == (4_500, 0.1)
    by_name = {one.feature: one for one in summary.features}
    last = by_name["last_1h"]
    assert (last.known, last.nulls) == (9, 1)
    assert (last.quantiles[0], last.quantiles[2], last.quantiles[4]) == (0.0, 4.0, 8.0)
    assert len(last.histogram) == BINS
    assert sum(last.histogram) == 9
    assert by_name["std_1h"].known == 0
    assert by_name["std_1h"].quantiles == ()
    assert summarize(VIEW, own, entities_max=3).entities <= 3
    rings.delete(VIEW.versioned)
    rings.close()
