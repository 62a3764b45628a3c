r"""One row of `features.<view>`: the whole value of one tile, as a stream job upserts it.

Key `{"<join key>": …, "tile": "<hop_s>/<tile>"}`; value: the same, and `n`, one field per partial, `clock_ms`, and where
the view's events are own requests `source_offset` and `source_partition`. `first` and `last` travel as
`<event_time_ms, 15 digits>\x01<event_id>\x01<value>`: MIN and MAX of that string are free of order and break ties by
event id. `distinct` travels as the text of its block (`features.distinct`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from features import distinct
from features.tiles import NEUTRAL
from features.views import Partial, View

SEPARATOR = "\x01"
KeyValue = str | int | None


class TileRow(NamedTuple):
    """A tile's whole value; `partials` are in the order of the hop's layout, null as NaN.

    `stamps` are the time and event id behind each `first` and `last`, for views whose tiles a scorer folds into. `blocks` are
    the bytes of each `distinct`, whose partial is the block's size.
    """

    hop_s: int
    tile: int
    n: int
    partials: tuple[float, ...]
    clock_ms: int
    source_offset: int = -1
    source_partition: int = -1
    stamps: tuple[str, ...] = ()
    blocks: tuple[bytes, ...] = ()


class TileRowDecoder:
    """Decodes the rows of one view's topic. Keep one a view."""

    def __init__(self, view: View) -> None:
        self._keys = tuple(key.name for key in view.join_keys)
        self._partials = {str(layout.hop_s): layout.partials for layout in view.layouts}
        self._stamped = view.origin_offsets
        self._decode = msgspec.json.Decoder(dict[str, Any]).decode

    def decode(self, value: bytes | None) -> tuple[tuple[KeyValue, ...], TileRow] | None:
        """The entity's key values and its tile, or None for what a reader must skip.

        To be skipped are tombstones, rows whose key or count is null, and rows of a hop the view no longer has.

        Raises:
            msgspec.DecodeError, KeyError, ValueError: not a tile row at all; the caller quarantines it.
        """
        return self.of(self._decode(value)) if value else None

    def of(self, fields: Mapping[str, Any]) -> tuple[tuple[KeyValue, ...], TileRow] | None:
        """The same of a row's fields."""
        hop, _, index = fields["tile"].partition("/")
        partials = self._partials.get(hop)
        keys = tuple(fields[name] for name in self._keys)
        if partials is None or not fields.get("n") or any(key is None for key in keys):
            return None
        blocks = [distinct.parse(fields.get(p.field)) for p in partials if p.kind == "distinct"]
        sizes = iter(blocks)
        return keys, TileRow(
            hop_s=int(hop),
            tile=int(index),
            n=fields["n"],
            partials=tuple(
                float(next(sizes).size) if p.kind == "distinct" else _number(fields.get(p.field), p)
                for p in partials
            ),
            clock_ms=fields["clock_ms"],
            source_offset=_or_unknown(fields.get("source_offset")),
            source_partition=_or_unknown(fields.get("source_partition")),
            stamps=_stamps(fields, partials) if self._stamped else (),
            blocks=tuple(block.content for block in blocks),
        )


def encode(view: View, keys: tuple[KeyValue, ...], row: TileRow) -> Mapping[str, Any]:
    """The row's fields as a stream job would write them; for tests and for backfills.

    `first` and `last` get the tile's clock and an empty event id: enough to be read back, not enough to be merged.
    """
    layout = view.layout(row.hop_s)
    fields: dict[str, Any] = {k.name: v for k, v in zip(view.join_keys, keys, strict=True)}
    fields |= {"tile": f"{row.hop_s}/{row.tile}", "n": row.n}
    blocks = iter(row.blocks)
    for partial, value in zip(layout.partials, row.partials, strict=True):
        if partial.kind == "distinct":
            fields[partial.field] = distinct.text_of(distinct.Block(int(value), next(blocks)))
        else:
            fields[partial.field] = _text(partial, value, row.clock_ms)
    return fields | {
        "clock_ms": row.clock_ms,
        "source_offset": row.source_offset,
        "source_partition": row.source_partition,
    }


def _text(partial: Partial, value: float, clock_ms: int) -> float | str | None:
    if value != value:  # noqa: PLR0124 - NaN
        return None
    if partial.kind in ("first", "last"):
        return f"{clock_ms:015d}{SEPARATOR}{SEPARATOR}{value!r}"
    return int(value) if partial.kind == "count" else value


def _number(value: float | str | None, partial: Partial) -> float:
    if value is None:
        return NEUTRAL[partial.kind]
    if isinstance(value, str):
        return float(value.rsplit(SEPARATOR, 1)[1])
    return float(value)


def _stamps(fields: Mapping[str, Any], partials: tuple[Partial, ...]) -> tuple[str, ...]:
    found = (fields.get(p.field) for p in partials if p.kind in ("first", "last"))
    return tuple("" if text is None else text.rsplit(SEPARATOR, 1)[0] for text in found)


def _or_unknown(value: int | None) -> int:
    return -1 if value is None else value
