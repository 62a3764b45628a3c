from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.policy import WindowPolicy
from monitoring.row_windows import RowWindows
from tests.monitoring import restarts
from tests.monitoring.restarts import joined, result

ROWS, GRACE_MS = 5, 20


def windows(closed_until_ms: int = 0, partitions: int = 1) -> RowWindows:
    return RowWindows(
        results=[("r", p) for p in range(partitions)],
        joined=[("j", 0)],
        rows=ROWS,
        grace_ms=GRACE_MS,
        patience_ms=100,
        closed_until_ms=closed_until_ms,
    )


def test_a_window_ends_with_the_millisecond_of_its_last_row() -> None:
    waiting = windows()
    for index, time_ms in enumerate((10, 40, 20, 50, 50, 50, 60)):
        waiting.add_result(("r", 0), index, result(time_ms, str(index)))
        waiting.add_joined(("j", 0), index, joined(time_ms, str(index)))
    assert waiting.close_ready() is None, "its grace is not over"
    waiting.add_result(("r", 0), 7, result(71))
    closed = waiting.close_ready()
    assert closed is not None
    assert (closed.start_ms, closed.end_ms, closed.results_seen) == (10, 51, 6)
    assert [row.event_time_ms for row in closed.results] == [10, 20, 40, 50, 50, 50]
    assert sorted(closed.joined) == ["0", "1", "2", "3", "4", "5"]
    assert waiting.committable({("r", 0): 8, ("j", 0): 7}) == {("r", 0): 6, ("j", 0): 6}
    waiting.add_result(("r", 0), 8, result(50))
    assert waiting.late == 1
    assert waiting.close_ready() is None


def test_an_older_row_within_the_grace_brings_the_end_forward() -> None:
    waiting = windows()
    for index, time_ms in enumerate((10, 20, 30, 40, 50)):
        waiting.add_result(("r", 0), index, result(time_ms, str(index)))
    assert waiting.close_ready() is None
    waiting.add_result(("r", 0), 5, result(35, "late"))
    waiting.add_result(("r", 0), 6, result(200))
    closed = waiting.close_ready()
    assert closed is not None
    assert (closed.end_ms, [row.event_time_ms for row in closed.results]) == (
        41,
        [10, 20, 30, 35, 40],
    )


def test_it_waits_for_the_slowest_partition_and_for_the_join_but_not_for_ever() -> None:
    waiting = windows(partitions=2)
    for index in range(ROWS):
        waiting.add_result(("r", 0), index, result(index))
    waiting.add_result(("r", 0), ROWS, result(90))
    assert waiting.close_ready() is None, "partition 1 may hold older rows"
    waiting.end(("r", 1))
    assert waiting.close_ready() is None, "outcomes are behind"
    waiting.add_result(("r", 0), ROWS + 1, result(ROWS + GRACE_MS + 100))
    assert waiting.close_ready() is not None


def test_a_window_that_could_never_be_judged_is_refused() -> None:
    with pytest.raises(ValueError, match="never hold 100"):
        WindowPolicy(length_ms=1, grace_ms=1, rows_min=100, rows=99)


@given(restarts.steps(30), st.data())
def test_restarts_judge_the_same_windows(rows: list[tuple[int, int]], data: st.DataObject) -> None:
    """As for windows by event time, and none is smaller than was asked."""

    def made(closed_until_ms: int) -> RowWindows:
        return windows(closed_until_ms, partitions=restarts.PARTITIONS)

    judged = restarts.judged_over_a_restart(made, rows, data)
    assert all(len(window) >= ROWS for window in judged.values())
