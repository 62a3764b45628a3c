"""Served = recomputed? And where not, why.

Every value of every served vector is recomputed from the lake as of the request's event time. Unequal ones are
explained by the events that the online store had too many or too few (`features.causes`); what cannot be explained so
is a bug.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from features.batch import (
    Source,
    asked_rows,
    compute,
    view_events,
)
from features.causes import (
    CAUSES,
    Cause,
    EventIndex,
    Read,
    Window,
    cause_of,
    clock_at,
    equal,
)
from features.tiles import Bools, Floats, Ints
from features.views import Aggregate, Layout, Plan, Retired, View

# The freshness a demo's stack keeps: an event older than this at the read had to be visible.
BUDGET_MS = 5_000
TOLERANCE = 1e-9
EXAMPLES_MAX = 20
# The served table may say which definition a vector was made with (`Plan.service_fingerprint`).
DEFINITION = "definition"


class Example(NamedTuple):
    """One unequal value."""

    request_id: str
    feature: str
    served: float
    recomputed: float
    cause: Cause


class ParityReport(NamedTuple):
    """How many values (request × feature) were compared, and what became of each.

    `compared` is the sum of the seven counts after it. `by_feature` has the same counts a feature; `examples` are unequal
    values, unexplained ones first, the greatest differences first.
    """

    compared: int
    equal: int
    in_flight: int
    ahead: int
    late: int
    expired: int
    definition: int
    unexplained: int
    by_feature: Mapping[str, Mapping[str, int]]
    examples: tuple[Example, ...]

    def counts(self) -> dict[str, int]:
        """The totals alone."""
        return {"compared": self.compared} | {cause: getattr(self, cause) for cause in CAUSES}


def compare(
    plan: Plan,
    service: str,
    served: pa.Table,
    source: Source,
    *,
    budget_ms: int = BUDGET_MS,
    tolerance: float = TOLERANCE,
) -> ParityReport:
    """Recompute every served vector and explain what differs.

    Args:
        plan: The applied plan.
        service: The service that was served.
        served: `request_id`, the join keys, `event_time_ms`, `read_at_ms`, one float column a feature by its full name
            (null or NaN for null), and optionally `definition`.
        source: The lake, or its tables; must hold all events ingested up to the last read and since.
        budget_ms: How long an event may have been under way at the read and still count as in flight.
        tolerance: Relative; 2e-7 for vectors that were logged in single precision.
    """
    other = _other_definition(plan, service, served)
    by_feature: dict[str, Counter[str]] = {}
    examples: list[Example] = []
    for view in plan.service_views(service):
        names = [f for owner, f in plan.service(service).features if owner == view.name]
        older = [one for one in plan.retired if one.view.name == view.name]
        check = _ViewCheck(view, names, served, source, budget_ms, tolerance, older)
        for name in names:
            full = f"{view.name}__{name}"
            causes = np.where(
                other & (check.causes[name] != "equal"), "definition", check.causes[name]
            )
            by_feature[full] = Counter({c: int((causes == c).sum()) for c in CAUSES})
            examples += _examples(full, causes, check.served[name], check.exact[name], served)
    totals = sum(by_feature.values(), Counter())
    return ParityReport(
        compared=totals.total(),
        **{cause: totals[cause] for cause in CAUSES},
        by_feature={name: dict(counts) for name, counts in by_feature.items()},
        examples=tuple(sorted(examples, key=_severity))[:EXAMPLES_MAX],
    )


class _ViewCheck:
    """One view's features: recomputed, compared, and explained."""

    def __init__(
        self,
        view: View,
        names: Sequence[str],
        served: pa.Table,
        source: Source,
        budget_ms: int,
        tolerance: float,
        older: Sequence[Retired] = (),
    ) -> None:
        self.view, self.names, self.older = view, names, older
        self.budget_ms, self.tolerance = budget_ms, tolerance
        self.events = view_events(view, source, served["event_time_ms"], open_end=True)
        asked = asked_rows(view, served)
        self.served = {n: _numbers(served, f"{view.name}__{n}") for n in names}
        self.exact = _columns(compute(view, names, self.events, asked))
        unequal = {n: ~equal(self.served[n], self.exact[n], tolerance) for n in names}
        self.causes = {n: np.where(unequal[n], "unexplained", "equal") for n in names}
        rows = np.flatnonzero(np.logical_or.reduce(list(unequal.values())))
        if len(rows):
            self._explain(served, rows, unequal)

    def _explain(self, served: pa.Table, rows: Ints, unequal: Mapping[str, Bools]) -> None:
        index = EventIndex(self.view, self.events)
        for row, read in zip(rows.tolist(), self._reads(served.take(rows)), strict=True):
            windows: dict[tuple[int, int, int], Window] = {}
            for name in self.names:
                if unequal[name][row]:
                    value = float(self.served[name][row])
                    self.causes[name][row] = self._cause(index, windows, name, read, value)

    def _cause(
        self,
        index: EventIndex,
        windows: dict[tuple[int, int, int], Window],
        name: str,
        read: Read,
        value: float,
    ) -> Cause:
        aggregate = self.view.aggregate(name)
        cause: Cause = "unexplained"
        for layout in self._layouts(aggregate.hop_s, read):
            if cause == "unexplained":
                cause = self._cause_in(index, windows, layout, aggregate, read, value)
        return cause

    def _layouts(self, hop_s: int, read: Read) -> Iterator[Layout]:
        """Those of the rings that may have been read: the plan's, and before it was, the one of that time."""
        yield self.view.layout(hop_s)
        for one in self.older:
            if read.read_at_ms <= one.until_ms + self.budget_ms:
                yield from (layout for layout in one.view.layouts if layout.hop_s == hop_s)

    def _cause_in(
        self,
        index: EventIndex,
        windows: dict[tuple[int, int, int], Window],
        layout: Layout,
        aggregate: Aggregate,
        read: Read,
        value: float,
    ) -> Cause:
        tiles = aggregate.tiles
        place = (aggregate.hop_s, tiles, layout.tiles)
        if place not in windows:
            windows[place] = Window(index, layout, tiles, read, self.budget_ms)
        window = windows[place]
        cause = cause_of(index, window, aggregate, value, self.tolerance)
        for overwritten in window.alternatives:
            if cause != "unexplained":
                break
            # What overwrote may still have been under way.
            fewer = Window(index, layout, tiles, read, self.budget_ms, overwritten)
            cause = cause_of(index, fewer, aggregate, value, self.tolerance)
        return cause

    def _reads(self, rows: pa.Table) -> Iterator[Read]:
        keys = zip(*(rows[k.name].to_pylist() for k in self.view.join_keys), strict=True)
        as_of, read_at = rows["event_time_ms"].to_pylist(), rows["read_at_ms"].to_pylist()
        clocks = clock_at(self.events, np.array(read_at, dtype=np.int64))
        return map(Read, keys, as_of, read_at, clocks.tolist())


def _other_definition(plan: Plan, service: str, served: pa.Table) -> Bools:
    if DEFINITION not in served.column_names:
        return np.zeros(len(served), dtype=bool)
    known = plan.service_fingerprint(service)
    return np.array([d != known for d in served[DEFINITION].to_pylist()], dtype=bool)


def _columns(table: pa.Table) -> dict[str, Floats]:
    return {name: _numbers(table, name) for name in table.column_names}


def _numbers(table: pa.Table, name: str) -> Floats:
    values: Floats = table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


def _examples(
    feature: str, causes: np.ndarray, served: Floats, exact: Floats, table: pa.Table
) -> list[Example]:
    found: list[Example] = []
    for cause in CAUSES[1:]:
        rows = np.flatnonzero(causes == cause)[:EXAMPLES_MAX]
        ids = table["request_id"].take(rows).to_pylist()
        found += [
            Example(request_id, feature, float(served[row]), float(exact[row]), cause)
            for request_id, row in zip(ids, rows, strict=True)
        ]
    return found


def _severity(example: Example) -> tuple[int, float]:
    difference = abs(example.served - example.recomputed)
    return -CAUSES.index(example.cause), -(np.inf if np.isnan(difference) else difference)
