"""Windows of so many results each, over several partitions. Pure.

Where traffic comes and goes, windows of one length in time hold now a dozen rows and now a million. These hold `rows`
results: the next window begins where the last one ended, in event time, and ends with the millisecond of its last result.
So a window is an interval of event time as in `Windows`, found by counting; that interval's end is all that a restart must
know, and everything that holds of `Windows` (clock, grace, late rows, what may be committed) holds here. All results of the last
millisecond belong to it: a window may hold a few more than `rows`, and no order among equals decides where it ends.

Rows ahead of the slowest partition wait in memory: while a backlog is read, up to as many as are ahead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from monitoring.windows import JoinedRow, Partition, ResultRow, Waits, Window


class _Waiting(NamedTuple):
    partition: Partition
    offset: int
    row: ResultRow | JoinedRow


class RowWindows(Waits):
    """The results and joined rows of one use case that no window holds yet.

    Args:
        results, joined: The partitions of both topics.
        rows: Of a window, at least.
        grace_ms: Wait after a window's end, by the results' clock.
        patience_ms: So much longer, at most, for joined rows that are behind.
        closed_until_ms: End of the last window that was closed before a restart.
    """

    def __init__(
        self,
        *,
        results: Iterable[Partition],
        joined: Iterable[Partition],
        rows: int,
        grace_ms: int,
        patience_ms: int,
        closed_until_ms: int = 0,
    ) -> None:
        super().__init__(
            results,
            joined,
            grace_ms=grace_ms,
            patience_ms=patience_ms,
            closed_until_ms=closed_until_ms,
        )
        self._rows = rows
        self._results: list[_Waiting] = []
        self._joined: list[_Waiting] = []
        # Where the next window will end as far as is known: an older row that still comes may bring it forward.
        self._end_ms: int | None = None

    def add_result(self, partition: Partition, offset: int, row: ResultRow) -> None:
        """Take one result."""
        self.results_clock.read(partition, row.event_time_ms)
        if self._end_ms is not None and row.event_time_ms < self._end_ms:
            self._end_ms = None
        self._add(self._results, _Waiting(partition, offset, row))

    def add_joined(self, partition: Partition, offset: int, row: JoinedRow) -> None:
        """Take one joined row; of several of one request the first counts."""
        self.joined_clock.read(partition, row.event_time_ms)
        self._add(self._joined, _Waiting(partition, offset, row))

    def close_ready(self) -> Window | None:
        """The oldest window that is full and whose time is over, once; call until None."""
        end_ms = self._next_end_ms()
        if end_ms is None or not self._is_over(end_ms):
            return None
        results, self._results = _split(self._results, end_ms)
        joined, self._joined = _split(self._joined, end_ms)
        start_ms = self.closed_until_ms or results[0].row.event_time_ms
        window = Window(start_ms, end_ms, results_seen=len(results))
        window.results += [one.row for one in results if isinstance(one.row, ResultRow)]
        for one in joined:
            if isinstance(one.row, JoinedRow):
                window.joined.setdefault(one.row.request_id, one.row)
        self.closed_until_ms, self._end_ms = end_ms, None
        return window

    def committable(self, positions: Mapping[Partition, int]) -> dict[Partition, int]:
        """The first offset each partition must be read from again.

        Args:
            positions: The next offset of each partition.
        """
        first = dict(positions)
        for one in (*self._results, *self._joined):
            first[one.partition] = min(first[one.partition], one.offset)
        return first

    def _next_end_ms(self) -> int | None:
        if self._end_ms is None and len(self._results) >= self._rows:
            times_ms = sorted(one.row.event_time_ms for one in self._results)
            self._end_ms = times_ms[self._rows - 1] + 1
        return self._end_ms

    def _add(self, waiting: list[_Waiting], one: _Waiting) -> None:
        if one.row.event_time_ms < self.closed_until_ms:
            self.late += 1
        else:
            waiting.append(one)


def _split(waiting: list[_Waiting], end_ms: int) -> tuple[list[_Waiting], list[_Waiting]]:
    """Those before `end_ms`, by event time and then as they lie in their partitions; and the others."""
    before = [one for one in waiting if one.row.event_time_ms < end_ms]
    before.sort(key=lambda one: (one.row.event_time_ms, one.partition, one.offset))
    return before, [one for one in waiting if one.row.event_time_ms >= end_ms]
