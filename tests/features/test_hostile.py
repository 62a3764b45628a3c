from __future__ import annotations

from collections import Counter
from itertools import pairwise

import msgspec
import pytest

from features.hostile import stream
from features.views import JoinKey, View
from tests.features.readings import VIEW

JOINT: View = msgspec.structs.replace(
    VIEW, join_keys=(JoinKey("sensor"), JoinKey("floor", "bigint"))
)
SEEDS = range(30)


@pytest.mark.parametrize("view", [VIEW, JOINT])
def test_the_same_seed_gives_the_same_stream(view: View) -> None:
    assert stream(view, 7) == stream(view, 7)
    assert stream(view, 7) != stream(view, 8)


def test_no_window_reaches_from_one_era_into_another() -> None:
    longest_ms = max(a.window_s + a.hop_s for a in VIEW.aggregates) * 1000
    for earlier, later in pairwise(stream(VIEW, seed) for seed in SEEDS):
        last = max(e["event_time_ms"] for e in earlier.events)
        assert last < later.since_ms <= min(e["event_time_ms"] for e in later.events)
        assert min(later.instants) - longest_ms > last
        assert earlier.since_ms <= min(earlier.instants)
        assert max(earlier.instants) < earlier.until_ms == later.since_ms


def test_streams_are_as_hostile_as_they_say() -> None:
    streams = [stream(VIEW, seed) for seed in SEEDS]
    events = [event for one in streams for event in one.events]
    times = [e["event_time_ms"] for e in events]
    assert any(e["sensor"] is None for e in events)
    assert any(e["value"] is None for e in events)
    assert any(at % 60_000 == 0 for at in times)
    assert any(at % 60_000 == 59_999 for at in times)
    assert max(Counter(times).values()) > 1
    twice = Counter((e["event_id"], e["event_time_ms"], e["sensor"]) for e in events)
    assert max(twice.values()) > 1
    ids = {(n, e["event_id"]): e["event_time_ms"] for n, s in enumerate(streams) for e in s.events}
    assert len(ids) < len(
        {(n, e["event_id"], e["event_time_ms"]) for n, s in enumerate(streams) for e in s.events}
    )
    late = [
        s for s in streams if any(b < a for a, b in pairwise(e["event_time_ms"] for e in s.events))
    ]
    assert len(late) > len(streams) // 2
    hot = Counter(e["sensor"] for e in events)
    assert hot["hot"] > 0.4 * len(events)
    assert "never" not in hot
    assert any(at % 60_000 in (0, 59_999) for s in streams for at in s.instants)


def test_one_id_at_one_time_never_has_two_values() -> None:
    """Which of them is the last would not be defined."""
    for seed in SEEDS:
        held: dict[tuple[object, ...], object] = {}
        for e in stream(VIEW, seed).events:
            place = (e["sensor"], e["event_id"], e["event_time_ms"])
            assert held.setdefault(place, e["value"]) == e["value"]


def test_joint_keys_share_parts() -> None:
    keys = stream(JOINT, 1).keys
    assert keys[0][0] == keys[2][0]
    assert keys[1][1] == keys[2][1]
