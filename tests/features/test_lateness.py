"""Late and too late: by batches the same as one by one, and by their definition."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.lateness import Lateness
from features.views import Plan
from tests.features.readings import VIEW

LATENESS_S = 3_600
HOP_MS = min(a.hop_s for a in VIEW.aggregates) * 1_000
LIFE_MS = (max(a.window_s for a in VIEW.aggregates) + LATENESS_S) * 1_000
T0 = 1_700_000_000_000
LATE, TOO_LATE = f"late.{VIEW.name}", f"too_late.{VIEW.name}"

partitions = st.integers(0, 1)
times = st.one_of(
    st.integers(T0 - 2 * LIFE_MS, T0 + 2 * LIFE_MS), st.integers(T0 - 2 * HOP_MS, T0 + HOP_MS)
)


def _by_definition(events: list[tuple[int, int]]) -> dict[str, int]:
    newest: dict[int, int] = {}
    late = too_late = 0
    for partition, time_ms in events:
        behind_ms = newest.get(partition, time_ms) - time_ms
        late += behind_ms > HOP_MS
        too_late += behind_ms > LIFE_MS
        newest[partition] = max(newest.get(partition, time_ms), time_ms)
    return {LATE: late, TOO_LATE: too_late}


@given(st.lists(st.lists(st.tuples(partitions, times), max_size=8), max_size=8))
def test_batches_count_what_the_definition_says(batches: list[list[tuple[int, int]]]) -> None:
    subject = Lateness(Plan((VIEW,)), LATENESS_S)
    for batch in batches:
        for partition in (0, 1):
            mine = [time_ms for of, time_ms in batch if of == partition]
            subject.note(VIEW.topic, partition, mine)
    assert subject.counters == _by_definition([event for batch in batches for event in batch])


@pytest.mark.parametrize(
    ("behind_ms", "late", "too_late"),
    [(HOP_MS, 0, 0), (HOP_MS + 1, 1, 0), (LIFE_MS, 1, 0), (LIFE_MS + 1, 1, 1)],
)
def test_the_bounds_are_a_hop_and_the_longest_window_with_the_lateness(
    behind_ms: int, late: int, too_late: int
) -> None:
    subject = Lateness(Plan((VIEW,)), LATENESS_S)
    subject.note(VIEW.topic, 0, [T0, T0 - behind_ms, T0])
    assert subject.counters == {LATE: late, TOO_LATE: too_late}
    subject.note("another.stream", 0, [T0 - 9 * LIFE_MS])
    assert subject.counters == {LATE: late, TOO_LATE: too_late}


def test_a_new_plan_keeps_the_clocks_and_the_counts_of_views_that_stay() -> None:
    subject = Lateness(Plan(), LATENESS_S)
    subject.note(VIEW.topic, 0, [T0])
    assert subject.counters == {}
    subject.follow(Plan((VIEW,)))
    subject.note(VIEW.topic, 0, [T0 - HOP_MS - 1])
    other = msgspec.structs.replace(VIEW, name="other")
    subject.follow(Plan((VIEW, other)))
    subject.note(VIEW.topic, 0, [T0 - HOP_MS - 1])
    assert subject.counters == {LATE: 2, TOO_LATE: 0, "late.other": 1, "too_late.other": 0}
    subject.follow(Plan((other,)))
    assert subject.counters == {"late.other": 1, "too_late.other": 0}
