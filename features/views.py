"""What the executors need of a feature definition, without Feast.

A `View` is one Feast `StreamFeatureView`, compiled (`features.compiler`); a `Plan` is all views and services of a use
case, kept as `plan.json`, so that a worker starts in milliseconds instead of importing Feast for ten seconds.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import msgspec

from features.on_demand import OnDemandView
from features.row_views import ColumnType as ColumnType  # noqa: PLC0414 - views have columns, too
from features.row_views import RowSql as RowSql  # noqa: PLC0414
from features.row_views import RowView
from schemas import topics
from schemas.errors import HeadraceError

Function = Literal[
    "count", "sum", "mean", "min", "max", "std", "var", "first", "last", "count_distinct"
]
PartialKind = Literal["count", "sum", "sumsq", "min", "max", "first", "last", "distinct"]
KeyType = Literal["bigint", "string"]

# What a tile must hold so that tiles merge into the function's value.
PARTIALS_OF: dict[Function, tuple[PartialKind, ...]] = {
    "count": ("count",),
    "sum": ("sum",),
    "mean": ("count", "sum"),
    "min": ("min",),
    "max": ("max",),
    "std": ("count", "sum", "sumsq"),
    "var": ("count", "sum", "sumsq"),
    "first": ("first",),
    "last": ("last",),
    "count_distinct": ("distinct",),
}

# Tiles kept beyond the longest window. A ring that holds exactly one window loses its oldest tile as soon as an event of
# the next tile arrives, while requests of the tile before are still being read: with a quarter more, an
# entity may run ahead of its slowest reader by a quarter of a window (45 min of 3 h, 6 h of 24 h). At least four, so
# that the shortest windows survive the 15-minute slices of a replay at a 5-minute hop.
SLACK_SHARE = 0.25
SLACK_TILES_MIN = 4


class PlanUnreadable(HeadraceError):
    """`plan.json` is missing, or was written by another version."""


class UnknownDefinition(HeadraceError):
    """A view or service was asked for that the plan does not hold."""


class JoinKey(msgspec.Struct, frozen=True):
    """One column of an entity's key, and its type on the wire."""

    name: str
    type: KeyType = "string"


class Aggregate(msgspec.Struct, frozen=True):
    """One feature: `function(column)` over `window_s`, whose tail is aligned to `hop_s`."""

    name: str
    column: str
    function: Function
    window_s: int
    hop_s: int

    @property
    def tiles(self) -> int:
        """The number of tiles the window spans, head included."""
        return self.window_s // self.hop_s


class Partial(msgspec.Struct, frozen=True, order=True):
    """One mergeable value of a tile, e.g. the sum of a column."""

    kind: PartialKind
    column: str

    @property
    def field(self) -> str:
        """Its field on `features.<view>`, e.g. `sumsq__dep_delay`."""
        return f"{self.kind}__{self.column}"


class Layout(msgspec.Struct, frozen=True):
    """The tiles of one hop in a view's ring: `tiles` slots, each with `partials` in this order."""

    hop_s: int
    tiles: int
    partials: tuple[Partial, ...]

    @property
    def hop_ms(self) -> int:
        """The hop in milliseconds."""
        return self.hop_s * 1000

    def index(self, kind: PartialKind, column: str) -> int:
        """The position of a partial in `partials`."""
        return self.partials.index(Partial(kind, column))

    @property
    def distinct(self) -> tuple[Partial, ...]:
        """Those of distinct values, which have blocks of bytes besides a number (`features.distinct`)."""
        return tuple(p for p in self.partials if p.kind == "distinct")


class View(msgspec.Struct, frozen=True, dict=True):
    """Windowed aggregates of one stream for one entity.

    Attributes:
        columns: What is aggregated and keyed by, after `row_sql` where there is any.
        row_sql: What is done to each event first.
        origin_offsets: Its events are the use case's own requests, whose partition its key decides. Offsets in tiles are
            then those of the request topic, and rings say for each tile up to which one (`features.own_events`).
        generation: Raised where the same definition is counted again from the lake; changes its version, not its meaning.
    """

    name: str
    topic: str
    table: str
    event_id_field: str
    join_keys: tuple[JoinKey, ...]
    columns: dict[str, ColumnType]
    aggregates: tuple[Aggregate, ...]
    ttl_s: int = 0
    row_sql: RowSql | None = None
    origin_offsets: bool = False
    generation: int = 0

    @property
    def source_columns(self) -> dict[str, ColumnType]:
        """The stream's columns that the view reads."""
        if self.row_sql is None:
            return self.columns
        passed = {key.name for key in self.join_keys} | {self.event_id_field}
        kept = {n: k for n, k in self.columns.items() if n in passed - self.row_sql.columns.keys()}
        return kept | self.row_sql.reads

    @property
    def version(self) -> str:
        """8 hex digits over what its tiles and rings depend on."""
        return self.layout_fingerprint[:8]

    @property
    def versioned(self) -> str:
        """The name of its rings, its job and its topic: two versions of a view run side by side while one takes over."""
        return f"{self.name}.{self.version}"

    @property
    def topic_out(self) -> str:
        """The topic of this view's tile rows."""
        return f"features.{self.versioned}"

    @property
    def archived_topic(self) -> str:
        """The topic whose offsets the lake keeps for its events."""
        return topics.archived_as(self.topic)

    @property
    def copied(self) -> bool:
        """Whether its events are requests, read from the intake's copy: offsets in the lake are not those of its topic."""
        return self.origin_offsets or self.archived_topic != self.topic

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        """One layout a hop, shortest hop first."""
        return tuple(self._layout(hop) for hop in sorted({a.hop_s for a in self.aggregates}))

    def _layout(self, hop_s: int) -> Layout:
        mine = [a for a in self.aggregates if a.hop_s == hop_s]
        longest = max(a.tiles for a in mine)
        slack = max(SLACK_TILES_MIN, round(longest * SLACK_SHARE))
        partials = {Partial(k, a.column) for a in mine for k in PARTIALS_OF[a.function]}
        return Layout(hop_s, longest + slack, tuple(sorted(partials)))

    def layout(self, hop_s: int) -> Layout:
        """The layout of a hop; a hop the view does not have is a broken invariant."""
        return next(layout for layout in self.layouts if layout.hop_s == hop_s)

    def aggregate(self, name: str) -> Aggregate:
        """The aggregate of a name."""
        for aggregate in self.aggregates:
            if aggregate.name == name:
                return aggregate
        raise _unknown(f"view {self.name}", name, [a.name for a in self.aggregates])

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over all that changes the meaning of a value; not over its name or ttl."""
        return _digest(
            self.topic,
            self.table,
            self.event_id_field,
            self.join_keys,
            sorted(self.columns.items()),
            sorted(self.aggregates, key=lambda a: a.name),
            self.layouts,
            *([self.row_sql] if self.row_sql else []),
            *(["origin"] if self.origin_offsets else []),
        )

    def meaning(self, names: Sequence[str]) -> str:
        """16 hex digits over all that changes the values of these features; others beside them change nothing."""
        return _digest(
            self.topic,
            self.table,
            self.event_id_field,
            self.join_keys,
            [self.aggregate(name) for name in sorted(names)],
            self.row_sql,
        )

    @cached_property
    def layout_fingerprint(self) -> str:
        """16 hex digits over what a stored ring depends on: a new feature over old tiles keeps the rings."""
        source = (self.topic, self.table, self.event_id_field, self.join_keys)
        origin = ["origin"] if self.origin_offsets else []
        again = [f"generation {self.generation}"] if self.generation else []
        rows = [self.row_sql] if self.row_sql else []
        return _digest(*source, self.layouts, *rows, *origin, *again)


class Service(msgspec.Struct, frozen=True):
    """The features of one model, in the order of its input vector."""

    name: str
    features: tuple[tuple[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Full names as Feast writes them: `view__feature`."""
        return tuple(f"{view}__{feature}" for view, feature in self.features)

    def features_of(self, view: str) -> list[str]:
        """Those of one view, in order."""
        return [feature for owner, feature in self.features if owner == view]

    @property
    def views(self) -> tuple[str, ...]:
        """The names of its views, in order of first use."""
        return tuple(dict.fromkeys(view for view, _ in self.features))


class Handover(msgspec.Struct, frozen=True):
    """Where a view's job began: its events up to `offsets` are in tiles made from a snapshot of the lake, once.

    Attributes:
        snapshot_id: Of the view's table.
        offsets: By partition of the stream, the first event that the snapshot does not hold.
        base_topic: The topic of the snapshot's tiles, as partials; empty where it had none to give.
    """

    snapshot_id: int
    offsets: tuple[int, ...]
    base_topic: str = ""

    def first(self, partition: int) -> int:
        """Where reading a partition begins; of one that was added since, with its first event."""
        return self.offsets[partition] if partition < len(self.offsets) else 0


class Retired(msgspec.Struct, frozen=True):
    """A version of a view that nobody reads any more; its topics, rings and state stay until they are pruned."""

    view: View
    until_ms: int
    handover: Handover | None = None


class Plan(msgspec.Struct, frozen=True):
    """All views and services of a use case, as applied.

    Attributes:
        handovers: `View.versioned` → where its job began, for those that did not begin with the stream.
        retired: Versions that were replaced or removed, the latest last.
        retired_rows: Views of rows that were removed.
        incomplete: Versions whose job lost its state when the stream no longer held all of it: tiles that late events
            change again may count too few.
    """

    views: tuple[View, ...] = ()
    services: tuple[Service, ...] = ()
    row_views: tuple[RowView, ...] = ()
    on_demand: tuple[OnDemandView, ...] = ()
    handovers: dict[str, Handover] = {}
    retired: tuple[Retired, ...] = ()
    retired_rows: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()
    version: int = 1

    def handover(self, view: View) -> Handover | None:
        """Where the job of a view began; None where with the stream."""
        return self.handovers.get(view.versioned)

    def view(self, name: str) -> View:
        """The view of a name."""
        for view in self.views:
            if view.name == name:
                return view
        raise _unknown("views of the plan", name, [v.name for v in self.views])

    def service(self, name: str) -> Service:
        """The service of a name."""
        for service in self.services:
            if service.name == name:
                return service
        raise _unknown("services of the plan", name, [s.name for s in self.services])

    def service_views(self, name: str) -> tuple[View, ...]:
        """The windowed views of a service, in order of first use."""
        others = {v.name for v in self.row_views} | {v.name for v in self.on_demand}
        return tuple(self.view(view) for view in self.service(name).views if view not in others)

    def service_row_views(self, name: str) -> tuple[RowView, ...]:
        """The views of rows of a service, in order of first use."""
        rows = {view.name: view for view in self.row_views}
        return tuple(rows[view] for view in self.service(name).views if view in rows)

    def service_on_demand(self, name: str) -> tuple[OnDemandView, ...]:
        """The on-demand views of a service, in order of first use."""
        made = {view.name: view for view in self.on_demand}
        return tuple(made[view] for view in self.service(name).views if view in made)

    def request_columns(self, name: str) -> tuple[str, ...]:
        """The request's fields that a service's on-demand views read, each once."""
        read = [field for view in self.service_on_demand(name) for field in view.request]
        return tuple(dict.fromkeys(read))

    def join_keys(self, name: str) -> tuple[JoinKey, ...]:
        """Every join key that a service's windowed views need, each once."""
        return tuple(dict.fromkeys(k for view in self.service_views(name) for k in view.join_keys))

    def entity_columns(self, name: str) -> tuple[str, ...]:
        """The columns that name entities for all of a service's views, each once."""
        windowed = [key.name for key in self.join_keys(name)]
        rows = [key for view in self.service_row_views(name) for key in view.join_keys]
        return tuple(dict.fromkeys([*windowed, *rows]))

    def service_fingerprint(self, name: str) -> str:
        """16 hex digits over the features of a service, their order and their meaning.

        A feature that is added to one of its views changes nothing: a model that does not use it goes on.
        """
        return _digest(self.service(name).features, self.definitions(name))

    def definitions(self, name: str) -> dict[str, str]:
        """View → 16 hex digits over the meaning of those of its features that the service uses."""
        service = self.service(name)
        used = {v: [f for owner, f in service.features if owner == v] for v in service.views}
        windowed = {v.name: v.meaning(used[v.name]) for v in self.service_views(name)}
        windowed |= {v.name: v.fingerprint for v in self.service_row_views(name)}
        return windowed | {v.name: v.fingerprint for v in self.service_on_demand(name)}

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read `plan.json`.

        Raises:
            PlanUnreadable: no such file, or not a plan of this version.
        """
        try:
            return msgspec.json.decode(Path(path).read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError) as error:
            raise PlanUnreadable(
                str(path),
                wanted="a feature plan",
                came=str(error),
                mend="Run `headrace features apply`.",
            ) from error

    def save(self, path: str | Path) -> None:
        """Write `plan.json` whole or not at all; the same plan gives the same bytes."""
        ordered = Plan(
            views=tuple(sorted(self.views, key=lambda v: v.name)),
            services=tuple(sorted(self.services, key=lambda s: s.name)),
            row_views=tuple(sorted(self.row_views, key=lambda v: v.name)),
            on_demand=tuple(sorted(self.on_demand, key=lambda v: v.name)),
            handovers=self.handovers,
            retired=self.retired,
            retired_rows=self.retired_rows,
            incomplete=self.incomplete,
        )
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = msgspec.json.format(msgspec.json.encode(ordered, order="deterministic"), indent=2)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name)
        with os.fdopen(handle, "wb") as file:
            file.write(text + b"\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(target)


def _unknown(where: str, name: str, known: list[str]) -> UnknownDefinition:
    return UnknownDefinition(
        where, wanted=f"one of {known}", came=f"{name!r} was asked for", mend="Apply it first."
    )


def _digest(*parts: object) -> str:
    encoded = msgspec.json.encode(parts, order="deterministic")
    return hashlib.blake2b(encoded, digest_size=8).hexdigest()
