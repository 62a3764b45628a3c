from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.breaker import BadPolicy, Breaker, BreakerPolicy, Circuit

POLICY = BreakerPolicy(rows_min=10, window_s=20.0, open_s=5.0, open_s_max=18.0, probe_rows=4)


def opened(now_s: float = 0.0) -> Breaker:
    breaker = Breaker(POLICY)
    for _ in range(POLICY.batches_min):
        breaker.record(5, 5, now_s)
    assert breaker.state is Circuit.OPEN
    return breaker


def test_it_opens_at_the_rate_and_not_before_enough_rows_were_asked() -> None:
    breaker = Breaker(POLICY)
    states = []
    for rows, failed, now_s in ((9, 9, 0.0), (11, 0, 1.0), (2, 2, 2.0)):
        breaker.record(rows, failed, now_s)
        states.append(breaker.state)
    assert states == [Circuit.CLOSED, Circuit.CLOSED, Circuit.OPEN]
    assert breaker.open_for_s(4.5) == 2.5


@pytest.mark.parametrize("clean", [0, 1, 3])
def test_one_batch_however_many_of_its_rows_failed_does_not_open_it(clean: int) -> None:
    breaker = Breaker(POLICY)
    states = []
    for rows, failed in ((200, 200), *[(20, 0)] * clean, (1, 1)):
        breaker.record(rows, failed, 0.0)
        states.append(breaker.state)
    assert states == [Circuit.CLOSED] * (1 + clean) + [Circuit.OPEN]


def test_what_is_older_than_the_window_does_not_count() -> None:
    breaker = Breaker(POLICY)
    breaker.record(9, 9, 0.0)
    breaker.record(2, 0, 20.5)
    assert breaker.state is Circuit.CLOSED


def test_three_calls_that_ran_out_of_time_open_it_whatever_came_between_them() -> None:
    breaker = Breaker(POLICY)
    for timed_out in (True, False, True, False, False):
        breaker.record(1 if timed_out else 100, int(timed_out), 0.0, timed_out=timed_out)
        assert breaker.state is Circuit.CLOSED
    breaker.record(1, 1, 0.0, timed_out=True)
    assert breaker.state is Circuit.OPEN


def test_calls_that_ran_out_of_time_long_ago_do_not_count() -> None:
    breaker = Breaker(POLICY)
    for now_s in (0.0, 1.0, 20.5):
        breaker.record(1, 1, now_s, timed_out=True)
    assert breaker.state is Circuit.CLOSED


def test_while_open_nobody_asks_and_then_a_few_rows_are_risked() -> None:
    breaker = opened()
    assert [breaker.admit(100, now_s) for now_s in (0.0, 4.9, 5.0)] == [0, 0, POLICY.probe_rows]
    assert breaker.admit(2, 5.0) == 2
    for _ in range(POLICY.probes - 1):
        breaker.record(4, 1, 5.1)
        assert breaker.state is Circuit.HALF_OPEN
    breaker.record(4, 0, 5.2)
    assert breaker.state is Circuit.CLOSED
    assert breaker.admit(100, 5.3) == 100
    assert breaker.open_for_s(6.0) == 0.0


def test_each_failed_probe_doubles_the_wait_up_to_its_bound() -> None:
    breaker, now_s = opened(), 0.0
    for wait_s in (5.0, 10.0, 18.0, 18.0):
        assert breaker.admit(10, now_s + wait_s - 0.01) == 0
        now_s += wait_s
        assert breaker.admit(10, now_s) == POLICY.probe_rows
        breaker.record(4, 2, now_s)
        assert breaker.state is Circuit.OPEN
    assert breaker.open_for_s(now_s) == now_s


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate_max": 0.0},
        {"rate_max": 1.1},
        {"rows_min": 0},
        {"batches_min": 0},
        {"probes": 0},
        {"probe_rows": 0},
        {"timeouts_max": 0},
        {"window_s": 0.0},
        {"open_s": 0.0},
        {"open_s": 61.0},
    ],
)
def test_a_policy_that_could_not_open_or_close_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadPolicy, match="breaker"):
        BreakerPolicy(**wrong)


class Circuits(RuleBasedStateMachine):
    """A version that is up or down, asked at any times; the model of the breaker is the list of all that was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(POLICY)
        self.now_s = 0.0
        self.asked: list[tuple[float, int, int, bool]] = []
        self.opened_s: float | None = None
        self.changed_s = 0.0
        self.wait_s = POLICY.open_s
        self.passed = 0

    @rule(seconds=st.floats(0.0, 30.0))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(rows=st.integers(1, 40), share=st.floats(0.0, 1.0), late=st.booleans())
    def ask(self, rows: int, share: float, late: bool) -> None:  # noqa: FBT001 - hypothesis calls it
        admitted = self.breaker.admit(rows, self.now_s)
        waited = self.opened_s is None or self.now_s - self.changed_s >= self.wait_s
        assert (admitted > 0) == (self.opened_s is None or waited)
        if admitted == 0:
            return
        failed = admitted if late else round(share * admitted)
        if self.opened_s is None:
            assert admitted == rows
            self._ask_closed(admitted, failed, late=late)
        else:
            assert admitted == min(rows, POLICY.probe_rows)
            self._probe(admitted, failed, late=late)
        self.breaker.record(admitted, failed, self.now_s, timed_out=late)

    def _ask_closed(self, rows: int, failed: int, *, late: bool) -> None:
        self.asked.append((self.now_s, rows, failed, late))
        lately = [one for one in self.asked if self.now_s - one[0] <= POLICY.window_s]
        total, bad = sum(one[1] for one in lately), sum(one[2] for one in lately)
        many = total >= POLICY.rows_min and bad >= total * POLICY.rate_max
        many = many and sum(one[2] > 0 for one in lately) >= POLICY.batches_min
        if many or sum(one[3] for one in lately) >= POLICY.timeouts_max:
            self.opened_s = self.now_s
            self._opens(POLICY.open_s)

    def _probe(self, rows: int, failed: int, *, late: bool) -> None:
        if late or failed >= rows * POLICY.rate_max:
            self._opens(min(2 * self.wait_s, POLICY.open_s_max))
            return
        self.passed += 1
        # A probe that passed leaves it half open: the next is admitted at once.
        self.changed_s = -POLICY.open_s_max
        if self.passed == POLICY.probes:
            self.opened_s = None

    def _opens(self, wait_s: float) -> None:
        self.changed_s, self.wait_s = self.now_s, wait_s
        self.asked, self.passed = [], 0

    @precondition(lambda self: self.breaker.state is Circuit.OPEN)
    @rule(rows=st.integers(1, 40))
    def record_late(self, rows: int) -> None:
        """What is recorded of an open circuit changes nothing."""
        self.breaker.record(rows, 0, self.now_s)
        assert self.breaker.state is Circuit.OPEN

    @invariant()
    def agree(self) -> None:
        assert (self.breaker.state is Circuit.CLOSED) == (self.opened_s is None)
        since_s = 0.0 if self.opened_s is None else self.now_s - self.opened_s
        assert self.breaker.open_for_s(self.now_s) == since_s


TestCircuits = Circuits.TestCase
TestCircuits.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
