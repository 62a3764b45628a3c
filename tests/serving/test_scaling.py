from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from serving.scaling import LAG, Bounds, LagPolicy, wanted

LAGS = st.integers(0, 1_000_000)


@st.composite
def bounds(draw: st.DrawFn) -> Bounds:
    low = draw(st.integers(1, 8))
    return Bounds(
        low,
        draw(st.integers(low, 16)),
        lag_each=draw(st.integers(1, 10_000)),
        relief=draw(st.floats(0.05, 1.0)),
        up=draw(st.integers(1, 8)),
        down=draw(st.integers(1, 8)),
    )


@given(LAGS, st.integers(1, 16), bounds())
def test_never_beyond_the_bounds(lag: int, now: int, within: Bounds) -> None:
    assert within.low <= wanted(lag, now, within) <= within.high


@given(LAGS, LAGS, st.integers(1, 16), bounds())
def test_never_fewer_for_a_greater_lag(lag: int, other: int, now: int, within: Bounds) -> None:
    less, more = sorted((lag, other))
    assert wanted(less, now, within) <= wanted(more, now, within)


@given(LAGS, bounds())
def test_no_faster_than_a_step(lag: int, within: Bounds) -> None:
    for now in range(within.low, within.high + 1):
        assert -within.down <= wanted(lag, now, within) - now <= within.up


@given(LAGS, st.integers(1, 16), bounds())
def test_a_lag_that_stays_is_followed_to_one_number_and_no_further(
    lag: int, now: int, within: Bounds
) -> None:
    """Hysteresis: no lag, whatever it is, sends replicas away and calls them back."""
    seen = [now]
    for _ in range(40):
        seen.append(wanted(lag, seen[-1], within))
    assert seen[-1] == seen[-2]
    inside = seen[1:]
    assert inside in (sorted(inside), sorted(inside, reverse=True))


@given(LAGS, bounds())
def test_what_was_called_is_not_sent_away_by_the_same_lag(lag: int, within: Bounds) -> None:
    for now in range(within.low, within.high):
        if wanted(lag, now, within) > now:
            assert wanted(lag, now + 1, within) >= now + 1


def test_the_policy_adds_up_what_replicas_report_and_holds_still_without() -> None:
    policy = LagPolicy(low=1, high=4, lag_each=1_000)
    told = SimpleNamespace(
        target_num_replicas=1, aggregated_metrics={LAG: {"a": 900.0, "b": 900.0}}
    )
    assert policy(told) == (2, {})
    assert policy(SimpleNamespace(target_num_replicas=3, aggregated_metrics={})) == (3, {})
    idle = SimpleNamespace(target_num_replicas=3, aggregated_metrics={LAG: {"a": 0.0}})
    assert policy(idle) == (2, {})
