"""The oracle: what a feature means, event by event, in plain Python.

Slow and obvious on purpose. Every executor is held to it by the property tests, and a data scientist's unit test
may run a definition through it without any engine.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from features.distinct import EXACT_MAX, RANK_BITS, REGISTERS, estimate_of, hash_of
from features.row_events import events_of
from features.tiles import tile
from features.views import Aggregate, View

Event = Mapping[str, Any]


def features_as_of(
    view: View, events: Iterable[Event], key: Mapping[str, Any], as_of_ms: int
) -> dict[str, float | None]:
    """All features of one entity as of an instant, by feature name; null is None.

    Args:
        view: The definition.
        events: Any events of its stream, in any order, with `event_time_ms`, the event id, join keys and columns.
        key: The entity: join key → value.
        as_of_ms: The instant; events at it count, later ones do not.
    """
    rows = events_of(view, events)
    mine = [e for e in rows if all(e[name] == value for name, value in key.items())]
    return {
        aggregate.name: _value(aggregate, _window(view, mine, aggregate, as_of_ms))
        for aggregate in view.aggregates
    }


def _window(view: View, events: Sequence[Event], aggregate: Aggregate, as_of_ms: int) -> list[Any]:
    """The column's non-null values in the window, ordered by time and then by event id."""
    hop_ms = aggregate.hop_s * 1000
    tail = tile(as_of_ms, hop_ms) - aggregate.window_s // aggregate.hop_s
    taken = [
        e
        for e in events
        if e["event_time_ms"] <= as_of_ms
        and tile(e["event_time_ms"], hop_ms) > tail
        and not _is_null(e.get(aggregate.column))
    ]
    taken.sort(key=lambda e: (e["event_time_ms"], e[view.event_id_field]))
    return [e[aggregate.column] for e in taken]


def _is_null(value: Any) -> bool:  # noqa: ANN401 - a column's value is whatever the contract allows
    return value is None or (isinstance(value, float) and math.isnan(value))


def _value(aggregate: Aggregate, values: Sequence[Any]) -> float | None:
    if aggregate.function == "count":
        return len(values)
    if aggregate.function == "sum":
        return math.fsum(values)
    if aggregate.function == "count_distinct":
        return _distinct({hash_of(value) for value in values})
    least, function = _FUNCTIONS[aggregate.function]
    return function(values) if len(values) >= least else None


def _distinct(hashes: set[int]) -> float:
    if len(hashes) <= EXACT_MAX:
        return float(len(hashes))
    highest = [0] * REGISTERS
    for one in hashes:
        register, rest = divmod(one, 1 << RANK_BITS)
        highest[register] = max(highest[register], RANK_BITS + 1 - rest.bit_length())
    return estimate_of([highest.count(rank) for rank in range(RANK_BITS + 2)])


# The fewest values that a function needs, and the function; below it the feature is null.
_FUNCTIONS: Mapping[str, tuple[int, Callable[[Sequence[Any]], float]]] = {
    "mean": (1, lambda values: math.fsum(values) / len(values)),
    "var": (2, statistics.variance),
    "std": (2, statistics.stdev),
    "min": (1, lambda values: float(min(values))),
    "max": (1, lambda values: float(max(values))),
    "first": (1, lambda values: float(values[0])),
    "last": (1, lambda values: float(values[-1])),
}
