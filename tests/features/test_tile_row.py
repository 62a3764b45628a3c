from __future__ import annotations

import math

import msgspec
import pytest

from features.tile_row import SEPARATOR, TileRow, TileRowDecoder, encode
from features.tile_stream import TileStream
from tests.features.readings import VIEW, event

DECODER = TileRowDecoder(VIEW)


def test_rows_survive_the_wire() -> None:
    for keys, row in TileStream(VIEW).push(event(5_000, 2.5)):
        value = msgspec.json.encode(encode(VIEW, keys, row))
        assert DECODER.decode(value) == (keys, row)


def test_nulls_become_what_an_empty_tile_holds() -> None:
    keys, row = TileStream(VIEW).push(event(5_000, None))[0]
    found = DECODER.decode(msgspec.json.encode(encode(VIEW, keys, row)))
    assert found is not None
    held = dict(zip((p.field for p in VIEW.layouts[0].partials), found[1].partials, strict=True))
    assert held["count__value"] == held["sum__value"] == 0
    assert all(math.isnan(held[f"{kind}__value"]) for kind in ("min", "max", "first", "last"))


def test_the_outermost_value_is_behind_its_time_and_id() -> None:
    layout = VIEW.layouts[0]
    fields: dict[str, int | str] = {p.field: 1 for p in layout.partials}
    fields["last__value"] = SEPARATOR.join(("001370000000000", 'e"1', "-2.5E-3"))
    row = {"sensor": "a", "tile": "60/7", "n": 3, "clock_ms": 9, **fields}
    found = DECODER.decode(msgspec.json.encode(row))
    assert found is not None
    assert found[1].partials[layout.index("last", "value")] == -0.0025
    assert found[1][:3] == (60, 7, 3)
    assert found[1].source_offset == -1


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b'{"sensor":"a","tile":"77/1","n":1}',
        b'{"sensor":null,"tile":"60/1","n":1}',
        b'{"sensor":"a","tile":"60/1","n":null}',
        b'{"sensor":"a","tile":"60/1","n":0}',
    ],
)
def test_what_readers_must_skip(value: bytes | None) -> None:
    assert DECODER.decode(value) is None


@pytest.mark.parametrize("value", [b"{", b"[]", b"{}", b'{"sensor":"a","tile":"60/x","n":1}'])
def test_what_is_no_row_raises(value: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, KeyError, ValueError)):
        DECODER.decode(value)


def test_a_row_is_a_plain_tuple() -> None:
    assert TileRow(60, 7, 3, (1.0,), 9).source_partition == -1
