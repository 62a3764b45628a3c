"""Rows that were served, against the lake: which row of the entity it was, and why not the newest one of the instant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from features.asked import asked
from features.causes import Cause, equal
from features.row_batch import row_features
from features.row_views import RowView
from features.tiles import Bools, Floats, Ints

Key = tuple[object, ...]


class RowCheck:
    """One view of rows: recomputed, compared, and explained.

    A row counts from its ingestion; for `budget_ms` after that it may still be under way to the store.
    """

    def __init__(
        self,
        view: RowView,
        names: Sequence[str],
        served: pa.Table,
        events: pa.Table,
        budget_ms: int,
        tolerance: float,
    ) -> None:
        self.view, self.names = view, names
        self.budget_ms, self.tolerance = budget_ms, tolerance
        rows = asked(view.join_keys, served, None)
        with duckdb.connect(":memory:") as connection:
            recomputed = row_features(view, names, events, rows, connection, known=False)
        self.served = {n: numbers(served, f"{view.name}__{n}") for n in names}
        self.exact = {n: numbers(recomputed, n) for n in names}
        unequal = {n: ~equal(self.served[n], self.exact[n], tolerance) for n in names}
        self.causes = {n: np.where(unequal[n], "unexplained", "equal") for n in names}
        wrong = np.flatnonzero(
            np.logical_or.reduce([*unequal.values(), np.zeros(len(served), bool)])
        )
        if len(wrong):
            self._explain(served, events, wrong, unequal)

    def _explain(
        self, served: pa.Table, events: pa.Table, wrong: Ints, unequal: Mapping[str, Bools]
    ) -> None:
        held = _by_key(self.view, self.names, events)
        for row, read in zip(wrong.tolist(), served.take(wrong).to_pylist(), strict=True):
            mine = held[tuple(read[key] for key in self.view.join_keys)]
            for name in self.names:
                if unequal[name][row]:
                    self.causes[name][row] = self._cause(mine, name, read, self.served[name][row])

    def _cause(
        self, rows: Sequence[Mapping[str, Any]], name: str, read: Mapping[str, Any], value: float
    ) -> Cause:
        """The first row, newest first, that was there and has the served value, tells what was wrong with the others."""
        as_of_ms, read_at_ms = read["event_time_ms"], read["read_at_ms"]
        missed: list[Mapping[str, Any]] = []
        for row in rows:
            ahead = row["event_time_ms"] > as_of_ms
            if row["ingest_ms"] <= read_at_ms and self._shows(row, name, as_of_ms, value):
                if ahead:
                    return "ahead"
                return self._why_missed(missed, read_at_ms)
            if not ahead:
                missed.append(row)
        # Nothing was there yet.
        return self._why_missed(missed, read_at_ms) if np.isnan(value) else "unexplained"

    def _why_missed(self, missed: Sequence[Mapping[str, Any]], read_at_ms: int) -> Cause:
        if not missed:
            return "unexplained"
        if all(row["ingest_ms"] > read_at_ms for row in missed):
            return "late"
        under_way = all(row["ingest_ms"] > read_at_ms - self.budget_ms for row in missed)
        return "in_flight" if under_way else "unexplained"

    def _shows(self, row: Mapping[str, Any], name: str, as_of_ms: int, value: float) -> bool:
        expired = self.view.ttl_s and as_of_ms - row["event_time_ms"] > self.view.ttl_s * 1000
        held = np.nan if expired or row[name] is None else float(row[name])
        return bool(equal(np.array([held]), np.array([value]), self.tolerance)[0])


def _by_key(
    view: RowView, names: Sequence[str], events: pa.Table
) -> dict[Key, list[Mapping[str, Any]]]:
    """The rows of each entity, newest first."""
    columns = dict.fromkeys([*view.join_keys, *names, "event_time_ms", "ingest_ms"])
    ordered = events.sort_by([("event_time_ms", "descending"), ("ingest_ms", "descending")])
    found: dict[Key, list[Mapping[str, Any]]] = defaultdict(list)
    for row in ordered.select(list(columns)).to_pylist():
        found[tuple(row[key] for key in view.join_keys)].append(row)
    return found


def numbers(table: pa.Table, name: str) -> Floats:
    """A column as float64, null as NaN."""
    values: Floats = table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values
