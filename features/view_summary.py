"""What a view holds now: the distribution of each feature over its entities, and how fresh they are.

Read from the rings of the online store, as of the stream's clock: what would be served at this moment.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from features.ring import RingFormat
from features.rings import Rings
from features.settings import StoreSettings
from features.tiles import Floats
from features.views import View

ENTITIES_MAX = 20_000
READ_AT_ONCE = 1_000
BINS = 20
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


class Distribution(NamedTuple):
    """One feature over all entities.

    Attributes:
        feature: Its name.
        known: Entities with a value.
        nulls: Entities without.
        quantiles: Of `QUANTILES`; empty where nothing has a value.
        histogram: Entities in each of `BINS` equal bins from the least to the greatest value.
    """

    feature: str
    known: int
    nulls: int
    quantiles: tuple[float, ...]
    histogram: tuple[int, ...]


class ViewSummary(NamedTuple):
    """A view as of the stream's clock.

    Attributes:
        view: Its name.
        clock_ms: As of when: the latest event time that any view has seen; None before the first event.
        entities: How many were read, at most `ENTITIES_MAX`.
        age_p50_ms: Clock minus the newest event of an entity, median; None without entities.
        age_p95_ms: The same, 95th percentile.
        idle_share: Of the entities, those whose newest event is behind every window.
        features: One distribution each.
    """

    view: str
    clock_ms: int | None
    entities: int
    age_p50_ms: int | None
    age_p95_ms: int | None
    idle_share: float
    features: tuple[Distribution, ...]


def summarize(view: View, stores: StoreSettings, entities_max: int = ENTITIES_MAX) -> ViewSummary:
    """Read a view's rings and sum them up.

    Raises:
        OnlineStoreUnavailable: Redis did not answer.
    """
    rings = Rings(stores)
    try:
        clock_ms = rings.clock()
        keys = rings.entities(view.versioned, entities_max)
        packed = [
            ring
            for start in range(0, len(keys), READ_AT_ONCE)
            for ring in rings.read(view.versioned, keys[start : start + READ_AT_ONCE])
        ]
    finally:
        rings.close()
    fmt = RingFormat(view)
    usable = [ring for ring in packed if fmt.usable(ring)]
    if clock_ms is None or not usable:
        return ViewSummary(view.name, clock_ms, 0, None, None, 0.0, ())
    records, _ = fmt.unpack(usable)
    names = [a.name for a in view.aggregates]
    as_of = np.full(len(records), clock_ms)
    values = fmt.evaluate(records, np.arange(len(records)), as_of, names)
    age_ms = clock_ms - records["clock_ms"].astype(np.int64)
    longest_ms = max(a.window_s for a in view.aggregates) * 1000
    return ViewSummary(
        view.name,
        clock_ms,
        len(records),
        int(np.quantile(age_ms, 0.5)),
        int(np.quantile(age_ms, 0.95)),
        float((age_ms > longest_ms).mean()),
        tuple(_distribution(n, values[:, i]) for i, n in enumerate(names)),
    )


def _distribution(feature: str, column: Floats) -> Distribution:
    known = column[~np.isnan(column)]
    nulls = len(column) - len(known)
    if not len(known):
        return Distribution(feature, 0, nulls, (), ())
    counts, _ = np.histogram(known, bins=BINS)
    quantiles = tuple(np.quantile(known, QUANTILES).tolist())
    return Distribution(feature, len(known), nulls, quantiles, tuple(counts.tolist()))
