"""One view of rows: a plain Feast `FeatureView` over a lake table → `RowView`, or the reasons why not."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from feast import Entity, FeatureView
from feast.feature_view import DUMMY_ENTITY_NAME
from feast.types import Bool, Float32, Float64, Int32, Int64, UnixTimestamp

from features.lake_source import EVENT_TIME, LakeSource
from features.refusal import Refusal
from features.row_views import RowView
from features.view_compiler import NAME

NUMBERS = frozenset({Bool, Float32, Float64, Int32, Int64, UnixTimestamp})


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
        elif source.timestamp_field != EVENT_TIME:
            came = f"it is {source.timestamp_field!r}"
            self._refuse(f"timestamp_field={EVENT_TIME!r}", came, "The lake has this one.")
        # Only Feast's BatchFeatureView has one.
        if getattr(definition, "feature_transformation", None) is not None:
            came = "it has a function, which Feast would pickle"
            self._refuse("no transformation", came, "Transform before the lake.")
        keys = self._join_keys()
        if self.refusals or not isinstance(source, LakeSource):
            return None
        return RowView(
            name=definition.name,
            table=source.table,
            join_keys=keys,
            fields=tuple(field.name for field in definition.features),
            ttl_s=int((definition.ttl or timedelta()).total_seconds()),
            others=tuple(f.name for f in definition.features if f.dtype not in NUMBERS),
        )

    def _check_names(self) -> None:
        for name in (self.definition.name, *(f.name for f in self.definition.features)):
            if not NAME.match(name):
                self._refuse("names of a-z, 0-9 and single _", f"{name!r} is not one", "Rename it.")

    def _join_keys(self) -> tuple[str, ...]:
        keys = []
        for name in self.definition.entities:
            entity = self.entities.get(name)
            if name == DUMMY_ENTITY_NAME:
                continue
            if entity is None:
                self._refuse(f"entity {name!r} in the same module", "it is not there", "Define it.")
            else:
                keys.append(entity.join_key)
        return tuple(keys)

    def _refuse(self, wanted: str, came: str, mend: str) -> None:
        self.refusals.append(Refusal(f"view {self.definition.name}", wanted, came, mend))


def _pushed(definition: FeatureView) -> bool:
    return type(definition.stream_source).__name__ == "PushSource"
