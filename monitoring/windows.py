"""Event-time windows over several partitions: what belongs to which, when one is closed, what may be committed. Pure.

A window is closed by the stream's clock alone: when every partition's part is in (see `Clock`), never by the wall. Rows
that come after are late: counted, not judged. Offsets may be committed up to the first row of a window still open, so a
restart reads an open window again, whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from random import Random

import msgspec

Partition = tuple[str, int]


class ResultRow(msgspec.Struct, frozen=True):
    """What drift and guard need of a result; a result's own JSON decodes into it."""

    event_time_ms: int
    request_id: str
    status: str
    score: float | None
    version: str
    route: str
    epoch: int
    features: dict[str, float | None]
    reasons: tuple[str, ...] = ()
    timings_us: dict[str, int] = {}
    failed: tuple[str, ...] = ()
    entity: str = ""


class JoinedRow(msgspec.Struct, frozen=True):
    """What drift and guard need of a joined row; its own JSON decodes into it."""

    event_time_ms: int
    request_id: str
    status: str
    score: float | None
    version: str
    route: str
    epoch: int
    late: bool
    entity: str = ""


class Clock:
    """How far one topic has been read, in event time.

    A backlog is read partition by partition, so the clock is that of the partition furthest behind. One that has been
    read to its end holds nothing older and does not hold the clock back; when all have, the newest event counts.
    """

    def __init__(self, partitions: Iterable[Partition]) -> None:
        self._newest_ms = dict.fromkeys(partitions, 0)
        self._ended: set[Partition] = set()

    def read(self, partition: Partition, event_time_ms: int) -> None:
        """Note one event."""
        self._ended.discard(partition)
        self._newest_ms[partition] = max(self._newest_ms[partition], event_time_ms)

    def end(self, partition: Partition) -> None:
        """Note that the partition has been read to its end, for now."""
        if partition in self._newest_ms:
            self._ended.add(partition)

    @property
    def now_ms(self) -> int:
        """Event time; 0 while a partition has been neither read nor seen to its end."""
        behind = [ms for p, ms in self._newest_ms.items() if p not in self._ended]
        return min(behind) if behind else max(self._newest_ms.values())


@dataclass
class Window:
    """The rows of `[start_ms, end_ms)` by the request's event time."""

    start_ms: int
    end_ms: int
    results: list[ResultRow] = field(default_factory=list)
    results_seen: int = 0
    # By request id, because joined rows are repeated.
    joined: dict[str, JoinedRow] = field(default_factory=dict)
    first_offsets: dict[Partition, int] = field(default_factory=dict)


class Waits:
    """What windows of either kind wait by: the clocks of both topics.

    Args:
        results, joined: The partitions of both topics.
        grace_ms: Wait after a window's end, by the results' clock.
        patience_ms: So much longer, at most, for joined rows that are behind (a restart of the outcome join).
        closed_until_ms: End of the last window that was closed before a restart.
    """

    def __init__(
        self,
        results: Iterable[Partition],
        joined: Iterable[Partition],
        *,
        grace_ms: int,
        patience_ms: int,
        closed_until_ms: int,
    ) -> None:
        self._grace_ms, self._patience_ms = grace_ms, patience_ms
        self.closed_until_ms = closed_until_ms
        self.results_clock = Clock(results)
        self.joined_clock = Clock(joined)
        self.late = 0

    def end(self, partition: Partition) -> None:
        """Note that a partition of either topic has been read to its end, for now."""
        self.results_clock.end(partition)
        self.joined_clock.end(partition)

    def _is_over(self, end_ms: int) -> bool:
        due_ms = end_ms + self._grace_ms
        if self.results_clock.now_ms < due_ms:
            return False
        joined_in = self.joined_clock.now_ms >= end_ms
        return joined_in or self.results_clock.now_ms >= due_ms + self._patience_ms


class Windows(Waits):
    """The open windows of one use case; for joined rows that are behind they wait a window's length more.

    Args:
        results, joined: The partitions of both topics.
        length_ms: Of a window; aligned to the epoch.
        grace_ms: Wait after a window's end, by the results' clock.
        rows_max: Results kept of a window: a uniform sample, seeded by its start.
        closed_until_ms: End of the last window that was closed before a restart.
    """

    def __init__(
        self,
        *,
        results: Iterable[Partition],
        joined: Iterable[Partition],
        length_ms: int,
        grace_ms: int,
        rows_max: int,
        closed_until_ms: int = 0,
    ) -> None:
        super().__init__(
            results,
            joined,
            grace_ms=grace_ms,
            patience_ms=length_ms,
            closed_until_ms=closed_until_ms,
        )
        self._length_ms = length_ms
        self._rows_max = rows_max
        self._open: dict[int, Window] = {}

    def add_result(self, partition: Partition, offset: int, row: ResultRow) -> None:
        """Take one result."""
        self.results_clock.read(partition, row.event_time_ms)
        window = self._window(partition, offset, row.event_time_ms)
        if window is None:
            return
        window.results_seen += 1
        if len(window.results) < self._rows_max:
            window.results.append(row)
            return
        # Algorithm R (Vitter 1985); seeded by what it decides on, so a second reading keeps the same rows.
        place = Random(f"{window.start_ms}/{window.results_seen}").randrange(window.results_seen)
        if place < self._rows_max:
            window.results[place] = row

    def add_joined(self, partition: Partition, offset: int, row: JoinedRow) -> None:
        """Take one joined row; of several of one request the first counts."""
        self.joined_clock.read(partition, row.event_time_ms)
        window = self._window(partition, offset, row.event_time_ms)
        if window is not None and not self._is_full(window):
            window.joined.setdefault(row.request_id, row)

    def close_ready(self) -> Window | None:
        """The oldest window whose time is over, once; call until None."""
        if not self._open:
            return None
        window = self._open[min(self._open)]
        if not self._is_over(window.end_ms):
            return None
        del self._open[window.start_ms]
        self.closed_until_ms = window.end_ms
        return window

    def committable(self, positions: Mapping[Partition, int]) -> dict[Partition, int]:
        """The first offset each partition must be read from again.

        Args:
            positions: The next offset of each partition.
        """
        return {
            partition: min(
                (w.first_offsets.get(partition, next_offset) for w in self._open.values()),
                default=next_offset,
            )
            for partition, next_offset in positions.items()
        }

    def _is_full(self, window: Window) -> bool:
        return len(window.joined) >= self._rows_max

    def _window(self, partition: Partition, offset: int, event_time_ms: int) -> Window | None:
        start_ms = event_time_ms // self._length_ms * self._length_ms
        if start_ms < self.closed_until_ms:
            self.late += 1
            return None
        if start_ms not in self._open:
            self._open[start_ms] = Window(start_ms, start_ms + self._length_ms)
        window = self._open[start_ms]
        window.first_offsets.setdefault(partition, offset)
        return window
