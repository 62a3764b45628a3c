"""What Feast asks of its views, view by view: a projection may rename a view, and take its join keys from other columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView

from features.batch import Mode, Progress, features_as_of
from features.entity_rows import EVENT_TIMESTAMP
from features.lake import Lake
from features.row_table import TIME_MS, between, view_rows
from features.row_view_compiler import is_windowed, row_view_of
from features.views import Plan, Service

_SERVICE = "__retrieval"


class AskedView(NamedTuple):
    """One view as it is asked for.

    Attributes:
        shown: The name its columns go by.
        plan: A plan of this view alone.
        keys: Its join key → the column of the asked rows that holds it.
        features: The wanted ones, in order.
    """

    shown: str
    plan: Plan
    keys: Mapping[str, str]
    features: tuple[str, ...]

    def columns(self, *, full: bool) -> list[str]:
        """What its columns are called in the answer."""
        return [f"{self.shown}__{name}" if full else name for name in self.features]

    def answer(
        self, lake: Lake, rows: Mapping[str, pa.ChunkedArray], mode: Mode, progress: Progress
    ) -> list[pa.ChunkedArray]:
        """The values of its features for rows of join keys, `event_time_ms` and perhaps `known_at_ms`."""
        own = {name: rows[column] for name, column in self.keys.items()}
        times = {name: rows[name] for name in (TIME_MS, "known_at_ms") if name in rows}
        found = features_as_of(
            self.plan, _SERVICE, lake, pa.table(own | times), mode=mode, progress=progress
        )
        return [found[name] for name in self.plan.service(_SERVICE).names]


def asked_view(definition: FeatureView, features: Sequence[str], applied: Plan) -> AskedView:
    """A view as Feast hands it to a store.

    Args:
        definition: The view, with its projection.
        features: The wanted features.
        applied: The applied plan, which windowed views must be in; views of rows say everything themselves.

    Raises:
        UnknownDefinition: the view is windowed and was not applied.
    """
    chosen = tuple((definition.name, name) for name in features)
    service = Service(_SERVICE, chosen)
    if is_windowed(definition):
        plan = Plan((applied.view(definition.name),), (service,))
    else:
        plan = Plan((), (service,), (row_view_of(definition),))
    mapped = definition.projection.join_key_map or {}
    keys = {name: mapped.get(name, name) for name in plan.entity_columns(_SERVICE)}
    return AskedView(definition.projection.name_to_use(), plan, keys, tuple(features))


def rows_between(
    asked: Sequence[AskedView], lake: Lake, start: datetime, end: datetime
) -> pa.Table | None:
    """The rows of views between two instants: join keys and `event_timestamp`, each once.

    Only views of rows have such rows, and only where all of them have the same keys; None where there is no such view.
    """
    found = []
    for one in asked:
        for view in one.plan.row_views:
            rows = view_rows(view, lake.scan(view.table))
            rows = between(rows, rows[TIME_MS], start, end)
            micros = pc.multiply(rows[TIME_MS], 1000).cast(pa.timestamp("us", tz="UTC"))
            columns = {column: rows[name] for name, column in one.keys.items()}
            found.append(pa.table(columns | {EVENT_TIMESTAMP: micros}))
    if not found:
        return None
    together = pa.concat_tables(found, promote_options="default")
    return together.group_by(together.column_names).aggregate([]).sort_by(EVENT_TIMESTAMP)
