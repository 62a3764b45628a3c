"""The phases of a service and its back-off: pure, so the clock is an argument."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from infra.local.service import BACKOFF_S_MAX, BACKOFF_S_MIN, STEADY_S, Phase, Status, backoff_s


@given(st.integers(min_value=1, max_value=10_000))
def test_backoff_grows_and_is_bounded(failures: int) -> None:
    assert BACKOFF_S_MIN <= backoff_s(failures) <= backoff_s(failures + 1) <= BACKOFF_S_MAX


def test_a_service_waits_for_its_needs() -> None:
    status = Status()
    assert not status.may_start(0.0, needs_ready=False)
    assert status.may_start(0.0, needs_ready=True)


@given(st.lists(st.floats(min_value=0, max_value=STEADY_S - 1), min_size=1, max_size=30))
def test_a_crash_loop_is_slowed_down(lives_s: list[float]) -> None:
    status, now_s = Status(), 0.0
    for count, life_s in enumerate(lives_s, start=1):
        status.move(Phase.READY, now_s)
        now_s += life_s
        status.failed("ended", now_s)
        assert status.restarts == status.failures == count
        assert not status.may_start(now_s, needs_ready=True)
        now_s = status.due_s
        assert status.may_start(now_s, needs_ready=True)


def test_one_crash_after_a_steady_life_restarts_at_once() -> None:
    status = Status(failures=9, restarts=9)
    status.move(Phase.READY, 0.0)
    status.failed("ended", STEADY_S)
    assert (status.failures, status.restarts) == (1, 10)
    assert status.due_s == STEADY_S + BACKOFF_S_MIN
