"""How fresh every view is that could be served now: the latest event it has seen, and how old its entities' newest are."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import msgspec

from features.ring import RingFormat
from features.rings import EntityKey
from features.rows import Rows, unpack
from features.settings import StoreSettings
from features.views import Plan, View

ENTITIES_MAX = 5_000
READ_AT_ONCE = 1_000

Kind = Literal["windows", "rows", "on demand"]


class ViewFreshness(NamedTuple):
    """One view, against the clock that a plain read goes by.

    Attributes:
        view: Its name.
        kind: What it is made of.
        features: Whose freshness this is.
        latest_event_ms: The latest event time that the view has seen; of an on-demand view, the least of its inputs'.
            None before the first event, and for one that is made of the request alone.
        age_ms: The clock minus that.
        entities: How many were looked at, at most `ENTITIES_MAX`.
        newest_ms: Among those, the latest time of an entity's newest event or row; None without entities.
        oldest_ms: The earliest.
    """

    view: str
    kind: Kind
    features: tuple[str, ...]
    latest_event_ms: int | None
    age_ms: int | None
    entities: int = 0
    newest_ms: int | None = None
    oldest_ms: int | None = None


class Freshness(NamedTuple):
    """All views of a plan, and the clock: the wall's, or the stream's where plain reads go by that."""

    clock_ms: int
    views: tuple[ViewFreshness, ...]


def freshness(plan: Plan, stores: StoreSettings, entities_max: int = ENTITIES_MAX) -> Freshness:
    """Look at every view of the plan.

    Raises:
        OnlineStoreUnavailable: Redis did not answer.
    """
    rows = Rows(stores)
    try:
        clocks = rows.clocks()
        stream_ms = max(clocks.values(), default=None) if stores.clock == "stream" else None
        clock_ms = time.time_ns() // 1_000_000 if stream_ms is None else stream_ms
        found: list[ViewFreshness] = []
        for view in plan.views:
            times = _ring_times(view, rows, entities_max)
            features = tuple(a.name for a in view.aggregates)
            latest = clocks.get(view.versioned)
            found.append(_of(view.name, "windows", features, latest, clock_ms, times))
        for of_rows in plan.row_views:
            times = _row_times(of_rows.stored, rows, entities_max)
            # Rows that others write move no clock of a stream.
            latest = clocks.get(of_rows.stored, max(times, default=None))
            found.append(_of(of_rows.name, "rows", of_rows.fields, latest, clock_ms, times))
    finally:
        rows.close()
    seen = {one.view: one.latest_event_ms for one in found}
    for made in plan.on_demand:
        inputs = [seen[view] for view in dict.fromkeys(one.view for one in made.inputs)]
        known = [at for at in inputs if at is not None]
        latest = min(known) if known and len(known) == len(inputs) else None
        found.append(_of(made.name, "on demand", made.features, latest, clock_ms, ()))
    return Freshness(clock_ms, tuple(found))


def _of(
    view: str,
    kind: Kind,
    features: tuple[str, ...],
    latest_ms: int | None,
    clock_ms: int,
    times: Sequence[int],
) -> ViewFreshness:
    age_ms = None if latest_ms is None else clock_ms - latest_ms
    newest, oldest = max(times, default=None), min(times, default=None)
    return ViewFreshness(view, kind, features, latest_ms, age_ms, len(times), newest, oldest)


def _ring_times(view: View, rows: Rows, entities_max: int) -> list[int]:
    fmt = RingFormat(view)
    usable = [r for r in _held(view.versioned, rows, entities_max) if fmt.usable(r)]
    records, _ = fmt.unpack(usable)
    return [int(at) for at in records["clock_ms"]]


def _row_times(stored: str, rows: Rows, entities_max: int) -> list[int]:
    return list(_stamps(_held(stored, rows, entities_max)))


def _stamps(packed: Iterable[bytes]) -> Iterable[int]:
    for one in packed:
        try:
            yield unpack(one).event_ms
        except (msgspec.DecodeError, ValueError):
            # Not a row; whoever reads it counts it.
            continue


def _held(stored: str, rows: Rows, entities_max: int) -> list[bytes]:
    keys: list[EntityKey] = rows.entities(stored, entities_max)
    pieces = (keys[at : at + READ_AT_ONCE] for at in range(0, len(keys), READ_AT_ONCE))
    return [one for piece in pieces for one in rows.read(stored, piece) if one is not None]
