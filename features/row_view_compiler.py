"""One view of rows: a plain Feast `FeatureView` over a lake table → `RowView`, or the reasons why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from feast import Entity, FeatureView
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_NAME
from feast.on_demand_feature_view import OnDemandFeatureView

from features.lake_source import LakeSource
from features.refusal import Refusal
from features.row_views import EVENT_TIME, RowView
from features.view_compiler import COLUMN, NAME, TABLE


def row_view_of(
    definition: FeatureView | OnDemandFeatureView, join_keys: Sequence[str] | None = None
) -> RowView:
    """What a definition says of its rows; for the stores, which Feast hands definitions that were never compiled.

    Args:
        definition: A view that Feast has applied; or one kept on write whose values a function made.
        join_keys: The columns that name an entity; those that Feast inferred if None.
    """
    source = getattr(definition, "batch_source", None)
    keys = definition.join_keys if join_keys is None else join_keys
    names = {name: column for column, name in (source.field_mapping if source else {}).items()}
    fields = tuple(field.name for field in definition.features)
    used = {name: names[name] for name in (*keys, *fields) if name in names}
    time_column = source.timestamp_field if source else EVENT_TIME
    created = (source.created_timestamp_column if source else "") or ""
    ttl = getattr(definition, "ttl", None) or timedelta()
    return RowView(
        name=definition.name,
        table=str(getattr(source, "table", None) or getattr(source, "name", "")),
        join_keys=tuple(k for k in keys if k != DUMMY_ENTITY_ID),
        fields=fields,
        ttl_s=int(ttl.total_seconds()),
        time_column=names.get(time_column, time_column),
        created_column=names.get(created, created),
        columns=used,
    )


def is_windowed(definition: object) -> bool:
    """Whether a view aggregates, and so is read from rings and tiles."""
    return bool(getattr(definition, "aggregations", None))


class RowViewCompiler:
    """Compiles one view; what is wrong with it collects in `refusals`."""

    def __init__(self, definition: FeatureView, entities: Mapping[str, Entity]) -> None:
        self.definition = definition
        self.entities = entities
        self.refusals: list[Refusal] = []

    def view(self) -> RowView | None:
        """The compiled view; None where anything was refused."""
        definition = self.definition
        self._check_names()
        source = definition.batch_source
        if definition.stream_source is not None and not _pushed(definition):
            came = f"it reads {definition.stream_source.name!r}"
            mend = "Aggregate the stream by `last`, or push finished rows through a PushSource."
            self._refuse("a lake table, or a PushSource before one", came, mend)
        if not isinstance(source, LakeSource):
            came = f"its batch source is a {type(source).__name__}"
            self._refuse("a LakeSource behind it", came, "Put the rows into a lake table.")
        elif not TABLE.fullmatch(source.table):
            self._refuse(
                "a lake table's name", f"it is {source.table!r}", "Correct the LakeSource."
            )
        # Only Feast's BatchFeatureView has one.
        if getattr(definition, "feature_transformation", None) is not None:
            came = "it has a function, which Feast would pickle"
            self._refuse("no transformation", came, "Transform before the lake.")
        keys = self._join_keys()
        return None if self.refusals else row_view_of(definition, keys)

    def _check_names(self) -> None:
        for name in (self.definition.name, *(f.name for f in self.definition.features)):
            if not NAME.fullmatch(name):
                self._refuse("names of a-z, 0-9 and single _", f"{name!r} is not one", "Rename it.")

    def _join_keys(self) -> tuple[str, ...]:
        keys = []
        for name in self.definition.entities:
            entity = self.entities.get(name)
            if name == DUMMY_ENTITY_NAME:
                continue
            if entity is None:
                self._refuse(f"entity {name!r} in the same module", "it is not there", "Define it.")
            elif bad := next((n for n in (name, entity.join_key) if not COLUMN.fullmatch(n)), None):
                wanted = "an entity and a join key named by letters, digits and _"
                self._refuse(wanted, f"{bad!r} is not one", "Rename it.")
            else:
                keys.append(entity.join_key)
        return tuple(keys)

    def _refuse(self, wanted: str, came: str, mend: str) -> None:
        self.refusals.append(Refusal(f"view {self.definition.name}", wanted, came, mend))


def _pushed(definition: FeatureView) -> bool:
    return type(definition.stream_source).__name__ == "PushSource"
