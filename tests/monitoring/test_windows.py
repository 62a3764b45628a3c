from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from monitoring.windows import Windows
from tests.monitoring import restarts
from tests.monitoring.restarts import joined, result

LENGTH_MS, GRACE_MS = 100, 20


def windows(closed_until_ms: int = 0, rows_max: int = 1_000, partitions: int = 1) -> Windows:
    return Windows(
        results=[("r", p) for p in range(partitions)],
        joined=[("j", 0)],
        length_ms=LENGTH_MS,
        grace_ms=GRACE_MS,
        rows_max=rows_max,
        closed_until_ms=closed_until_ms,
    )


def test_a_window_closes_by_the_streams_clock_and_late_rows_are_counted() -> None:
    open_windows = windows(partitions=2)
    open_windows.add_result(("r", 0), 0, result(1_010))
    open_windows.add_joined(("j", 0), 0, joined(1_010))
    open_windows.add_joined(("j", 0), 1, joined(1_110, "s"))
    open_windows.add_result(("r", 0), 1, result(1_500))
    assert open_windows.close_ready() is None, "partition 1 may hold older rows"
    open_windows.add_result(("r", 1), 0, result(1_119))
    assert open_windows.close_ready() is None
    open_windows.end(("r", 1))
    closed = open_windows.close_ready()
    assert closed is not None
    assert (closed.start_ms, len(closed.results), len(closed.joined)) == (1_000, 1, 1)
    open_windows.add_result(("r", 0), 2, result(1_050))
    assert open_windows.late == 1


def test_a_window_waits_for_the_join_but_not_for_ever() -> None:
    open_windows = windows()
    open_windows.add_result(("r", 0), 0, result(1_010))
    open_windows.add_result(("r", 0), 1, result(1_219))
    assert open_windows.close_ready() is None
    open_windows.add_result(("r", 0), 2, result(1_220))
    assert open_windows.close_ready() is not None


def test_of_several_joined_rows_of_a_request_the_first_counts() -> None:
    open_windows = windows()
    open_windows.add_joined(("j", 0), 0, joined(1_010, late=False))
    open_windows.add_joined(("j", 0), 1, joined(1_010, late=True))
    open_windows.add_joined(("j", 0), 2, joined(1_300, "z"))
    open_windows.add_result(("r", 0), 0, result(1_300))
    closed = open_windows.close_ready()
    assert closed is not None
    assert [row.late for row in closed.joined.values()] == [False]


def test_a_window_keeps_a_sample_of_its_rows_and_counts_all() -> None:
    open_windows = windows(rows_max=10)
    for index in range(100):
        open_windows.add_result(("r", 0), index, result(1_000 + index, str(index)))
    open_windows.add_result(("r", 0), 100, result(1_500))
    closed = open_windows.close_ready()
    assert closed is not None
    assert (len(closed.results), closed.results_seen) == (10, 100)


@given(restarts.steps(60), st.data())
def test_restarts_judge_the_same_windows(rows: list[tuple[int, int]], data: st.DataObject) -> None:
    """Rows in near order over three partitions; a restart reads again from what was committed."""

    def made(closed_until_ms: int) -> Windows:
        return windows(closed_until_ms, partitions=restarts.PARTITIONS)

    restarts.judged_over_a_restart(made, rows, data)
