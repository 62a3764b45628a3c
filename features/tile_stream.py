"""What the stream job does, in process: events in order of arrival → the whole value of every tile they touch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from features.distinct import Block, block_of, hash_of
from features.tile_row import KeyValue, TileRow
from features.tiles import NEUTRAL
from features.views import Layout, Partial, View

Event = Mapping[str, Any]
Emitted = tuple[tuple[KeyValue, ...], TileRow]


class TileStream:
    """Keeps the events of every tile and emits its value anew at every event, as `GROUP BY key, tile` does."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._held: dict[tuple[Any, ...], list[Event]] = {}

    def push(self, event: Event) -> list[Emitted]:
        """The rows that one event gives: one a hop."""
        keys = tuple(event[k.name] for k in self.view.join_keys)
        return [(keys, self._row(keys, layout, event)) for layout in self.view.layouts]

    def push_all(self, events: Iterable[Event]) -> list[Emitted]:
        """The rows of all events, in their order."""
        return [row for event in events for row in self.push(event)]

    def _row(self, keys: tuple[KeyValue, ...], layout: Layout, event: Event) -> TileRow:
        tile = event["event_time_ms"] // layout.hop_ms
        held = self._held.setdefault((keys, layout.hop_s, tile), [])
        held.append(event)
        blocks = [_block(p, held) for p in layout.distinct]
        sizes = {p: float(b.size) for p, b in zip(layout.distinct, blocks, strict=True)}
        return TileRow(
            hop_s=layout.hop_s,
            tile=tile,
            n=len(held),
            partials=tuple(
                sizes[p] if p in sizes else self._partial(p, held) for p in layout.partials
            ),
            clock_ms=max(e["event_time_ms"] for e in held),
            blocks=tuple(b.content for b in blocks),
        )

    def _partial(self, partial: Partial, held: list[Event]) -> float:
        known = [e for e in held if e[partial.column] is not None]
        known.sort(key=lambda e: (e["event_time_ms"], e[self.view.event_id_field]))
        if partial.kind == "count":
            return float(len(known))
        values = [float(e[partial.column]) for e in known]
        if not values:
            return NEUTRAL[partial.kind]
        return _MERGED[partial.kind](values)


def _block(partial: Partial, held: list[Event]) -> Block:
    values = (e[partial.column] for e in held)
    return block_of(hash_of(value) for value in values if value is not None)


_MERGED: Mapping[str, Callable[[Sequence[float]], float]] = {
    "sum": math.fsum,
    "sumsq": lambda values: math.fsum(x * x for x in values),
    "min": min,
    "max": max,
    "first": lambda values: values[0],
    "last": lambda values: values[-1],
}
