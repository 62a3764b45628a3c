"""Events that came late, and too late, by view; counted where every event passes once, before its job.

An event's lateness is how far it is behind the newest event that its partition of the stream has shown before it. It is

- **late** for a view from more than one hop on (the view's shortest): its tile was thought to be over. It lands there all
  the same, and every executor counts it; only what was served meanwhile did not have it.
- **too late** from more than the longest window and the allowed lateness on: no window reaches it any more, its job has
  let go of its tiles, and rings have given their slots away. The lake alone keeps it, and what is computed from that.

The clocks begin anew with the process: until an event of a partition has come, nothing is behind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from features.state_cost import tile_life_s
from features.tiles import Ints
from features.views import Plan


class Bound(NamedTuple):
    """From how many milliseconds behind on an event is late, and too late, for a view."""

    view: str
    late_ms: int
    too_late_ms: int


class Lateness:
    """Counts, a batch at a time.

    Args:
        plan: The views.
        lateness_s: The allowed lateness, `flink.lateness_s`.
    """

    def __init__(self, plan: Plan, lateness_s: int) -> None:
        self._lateness_s = lateness_s
        self._newest_ms: dict[tuple[str, int], int] = {}
        self._late: dict[str, int] = {}
        self._too_late: dict[str, int] = {}
        self.follow(plan)

    def follow(self, plan: Plan) -> None:
        """Count for these views from now on; clocks go on, and so do the counts of views that stay."""
        self._bounds: dict[str, list[Bound]] = defaultdict(list)
        for view in plan.views:
            life_s = max(tile_life_s(view, x.hop_s, self._lateness_s) for x in view.layouts)
            bound = Bound(view.name, view.layouts[0].hop_ms, life_s * 1_000)
            self._bounds[view.topic].append(bound)
        names = [view.name for view in plan.views]
        self._late = {name: self._late.get(name, 0) for name in names}
        self._too_late = {name: self._too_late.get(name, 0) for name in names}

    def note(self, topic: str, partition: int, times_ms: Sequence[int]) -> None:
        """Count events of one partition of a stream, in their order; `times_ms` are their event times."""
        behind_ms = self._behind_ms(topic, partition, np.asarray(times_ms, np.int64))
        for bound in self._bounds.get(topic, ()):
            self._late[bound.view] += int(np.count_nonzero(behind_ms > bound.late_ms))
            self._too_late[bound.view] += int(np.count_nonzero(behind_ms > bound.too_late_ms))

    @property
    def counters(self) -> dict[str, int]:
        """`late.<view>`, and of those `too_late.<view>`."""
        late = {f"late.{view}": count for view, count in self._late.items()}
        return late | {f"too_late.{view}": count for view, count in self._too_late.items()}

    def _behind_ms(self, topic: str, partition: int, times_ms: Ints) -> Ints:
        """How far each event is behind the newest one before it, or at most 0."""
        if not len(times_ms):
            return times_ms
        before = self._newest_ms.get((topic, partition), int(times_ms[0]))
        newest: Ints = np.maximum.accumulate(np.maximum(times_ms, before))
        self._newest_ms[topic, partition] = int(newest[-1])
        behind: Ints = newest - times_ms
        return behind
