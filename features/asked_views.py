"""What Feast asks of its views, view by view: a projection may rename a view, and take its join keys from other columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView

from features.batch import Mode, Progress, features_as_of, row_events
from features.entity_rows import EVENT_TIMESTAMP
from features.lake import Lake
from features.lake_source import LakeSource
from features.row_table import TIME_MS, between
from features.row_view_compiler import is_windowed, row_view_of
from features.views import Plan, Service
from schemas.errors import HeadraceError

_SERVICE = "__retrieval"


class RetrievalUnsupported(HeadraceError):
    """Feast asked the offline store for something windows over events do not have."""


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
        applied: The applied plan, which windowed views must be in. Views of rows say everything themselves, but for what
            is done to a stream's events first.

    Raises:
        RetrievalUnsupported: the view's rows are not in the lake.
        UnknownDefinition: the view is windowed and was not applied.
    """
    chosen = tuple((definition.name, name) for name in features)
    service = Service(_SERVICE, chosen)
    if not isinstance(definition.batch_source, LakeSource):
        raise RetrievalUnsupported(
            f"history of view {definition.name}",
            wanted="a LakeSource behind it",
            came=f"its batch source is a {type(definition.batch_source).__name__}",
            mend="Put the rows into a lake table.",
        )
    if is_windowed(definition):
        plan = Plan((applied.view(definition.name),), (service,))
    else:
        held = {view.name: view for view in applied.row_views if view.topic}
        plan = Plan((), (service,), (held.get(definition.name) or row_view_of(definition),))
    mapped = definition.projection.join_key_map or {}
    keys = {name: mapped.get(name, name) for name in plan.entity_columns(_SERVICE)}
    return AskedView(definition.projection.name_to_use(), plan, keys, tuple(features))


def rows_between(
    asked: Sequence[AskedView], lake: Lake, start: datetime, end: datetime
) -> pa.Table | None:
    """The rows of views between two instants: join keys and `event_timestamp`, each once.

    None where no view has rows, or where those that have some have different keys.
    """
    found = []
    if len({frozenset(one.keys.values()) for one in asked if one.plan.row_views}) != 1:
        return None
    for one in asked:
        for view in one.plan.row_views:
            rows = row_events(view, lake)
            rows = between(rows, rows[TIME_MS], start, end)
            micros = pc.multiply(rows[TIME_MS], 1000).cast(pa.timestamp("us", tz="UTC"))
            columns = {column: rows[name] for name, column in one.keys.items()}
            found.append(pa.table(columns | {EVENT_TIMESTAMP: micros}))
    together = pa.concat_tables(found, promote_options="default")
    return together.group_by(together.column_names).aggregate([]).sort_by(EVENT_TIMESTAMP)
