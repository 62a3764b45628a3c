from __future__ import annotations

from heapq import heappop, heappush

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.expected_wait import ExpectedWait

BOUND_S = 1.0


def played(each_s: float, times: float, for_s: float) -> tuple[list[float], float]:
    """One server that takes `each_s` a call, offered `times` what it can do: what the admitted took, and the share of time it worked."""
    gate, free_s, took = ExpectedWait(BOUND_S), 0.0, list[float]()
    leaving: list[tuple[float, int, float]] = []
    for n in range(int(for_s * times / each_s)):
        now_s = n * each_s / times
        while leaving and leaving[0][0] <= now_s:
            _, entered, waited_s = heappop(leaving)
            gate.leave(entered, waited_s)
        if gate.admits():
            free_s = max(free_s, now_s) + each_s
            heappush(leaving, (free_s, gate.enter(), free_s - now_s))
            took.append(free_s - now_s)
    return took, len(took) * each_s / for_s


@given(each_s=st.floats(0.001, 0.02), times=st.floats(1.5, 10.0))
def test_the_admitted_are_in_time_and_the_server_is_kept_busy(each_s: float, times: float) -> None:
    took, busy = played(each_s, times, for_s=20.0)
    assert np.percentile(took[len(took) // 4 :], 99) <= BOUND_S + 2 * each_s
    assert busy > 0.95


@given(each_s=st.floats(0.001, 0.02), times=st.floats(0.05, 0.8))
def test_nobody_is_turned_away_from_a_server_that_can_do_it(each_s: float, times: float) -> None:
    took, _ = played(each_s, times, for_s=5.0)
    assert len(took) == int(5.0 * times / each_s)


def test_one_is_let_in_where_nobody_is_however_slow_the_last_was() -> None:
    gate = ExpectedWait(BOUND_S)
    gate.leave(gate.enter(), 1_000.0)
    assert gate.admits()
    gate.enter()
    assert not gate.admits()
