"""What every kind of windows owes over a restart: none is judged twice, and none otherwise than without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from hypothesis import strategies as st

from monitoring.windows import JoinedRow, Partition, ResultRow, Window

PARTITIONS = 3
Judged = dict[tuple[int, int], set[str]]


class Waiting(Protocol):
    """As `Windows` and `RowWindows` are."""

    closed_until_ms: int

    def add_result(self, partition: Partition, offset: int, row: ResultRow) -> None: ...
    def close_ready(self) -> Window | None: ...
    def committable(self, positions: Mapping[Partition, int]) -> dict[Partition, int]: ...


def result(time_ms: int, name: str = "r") -> ResultRow:
    return ResultRow(time_ms, name, "scored", 0.5, "v1", "champion", 1, {"x": 1.0})


def joined(time_ms: int, name: str = "r", *, late: bool = False) -> JoinedRow:
    return JoinedRow(time_ms, name, "scored", 0.5, "v1", "champion", 1, late)


def steps(step_ms_max: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    """The partition of each row, and how long after the last it comes."""
    step = st.tuples(st.integers(0, PARTITIONS - 1), st.integers(0, step_ms_max))
    return st.lists(step, min_size=1, max_size=150)


def judged_over_a_restart(
    windows: Callable[[int], Waiting], rows: list[tuple[int, int]], data: st.DataObject
) -> Judged:
    """What is judged of `rows` by `windows` (of their `closed_until_ms`), started again from what was committed somewhere.

    Raises:
        AssertionError: It is not what is judged without a restart, or something was judged twice.
    """
    logs, order = _logs(rows)
    straight = _read(windows(0), logs, order)[0]
    stop_at = data.draw(st.integers(0, len(order)))
    first = windows(0)
    before, committed = _read(first, logs, order[:stop_at])
    left = [(p, o) for p, o in order if o >= committed[p]]
    after, _ = _read(windows(first.closed_until_ms), logs, left)
    assert not before.keys() & after.keys()
    assert before | after == straight
    return straight


def _logs(
    rows: list[tuple[int, int]],
) -> tuple[dict[Partition, list[ResultRow]], list[tuple[Partition, int]]]:
    logs: dict[Partition, list[ResultRow]] = {("r", p): [] for p in range(PARTITIONS)}
    order: list[tuple[Partition, int]] = []
    time_ms = 1_000
    for index, (number, step_ms) in enumerate(rows):
        time_ms += step_ms
        # Out of order within the grace.
        logs["r", number].append(result(time_ms - (step_ms % 7), str(index)))
        order.append((("r", number), len(logs["r", number]) - 1))
    return logs, order


def _read(
    waiting: Waiting, logs: dict[Partition, list[ResultRow]], places: list[tuple[Partition, int]]
) -> tuple[Judged, dict[Partition, int]]:
    positions, committed = dict.fromkeys(logs, 0), dict.fromkeys(logs, 0)
    closed: Judged = {}
    for partition, offset in places:
        waiting.add_result(partition, offset, logs[partition][offset])
        positions[partition] = offset + 1
        while (window := waiting.close_ready()) is not None:
            closed[window.start_ms, window.end_ms] = {row.request_id for row in window.results}
            committed.update(waiting.committable(positions))
    return closed, committed
