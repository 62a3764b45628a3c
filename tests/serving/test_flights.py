from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.declared import Fallback, declared
from serving.flights import fallback
from tests.serving.test_scoring import request

LAST = "aircraft_departures__last_delay_24h"


@given(st.integers(0, 23), st.none() | st.floats(-1_440, 4_320))
def test_the_rule_always_gives_a_score(hour: int, last: float | None) -> None:
    assert 0 <= fallback(request(scheduled_hour=hour), {LAST: last}) <= 1


def test_later_hours_and_later_aircraft_score_higher() -> None:
    morning, evening = request(scheduled_hour=6), request(scheduled_hour=20)
    assert fallback(morning, {LAST: None}) < fallback(evening, {LAST: None})
    assert fallback(morning, {}) < fallback(morning, {LAST: 10.0}) < fallback(morning, {LAST: 50.0})


def test_what_it_declares_can_be_meant() -> None:
    assert declared("flights", ()).fallbacks[0] is Fallback.RETRY
