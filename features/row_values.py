"""One value of a row as Feast serializes it (`feast.types.Value`), read and written without importing Feast.

Only what a model's vector or a stream's column can be: numbers, booleans and strings. In that message each kind is a field of
its own, of which one is set; the first byte is the field's number and wire type.
"""

from __future__ import annotations

import math
import struct

_STRING, _INT32, _INT64, _DOUBLE, _FLOAT, _BOOL, _TIMESTAMP = (
    0x12,
    0x18,
    0x20,
    0x29,
    0x35,
    0x38,
    0x40,
)
_VARINTS = frozenset({_INT32, _INT64, _BOOL, _TIMESTAMP})
_WORD = 2**64


def number(packed: bytes | None) -> float:
    """The value as float64; NaN where it is null, or nothing that a number can be made of."""
    if not packed:
        return math.nan
    kind, body = packed[0], packed[1:]
    if kind == _DOUBLE:
        return float(struct.unpack("<d", body)[0])
    if kind == _FLOAT:
        return float(struct.unpack("<f", body)[0])
    return float(_signed(body)) if kind in _VARINTS else math.nan


def pack(value: float | str | bool | None) -> bytes:  # noqa: FBT001 - a value, not a switch
    """The value serialized; null is no bytes."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return b""
    if isinstance(value, bool):
        return bytes((_BOOL, value))
    if isinstance(value, int):
        return bytes((_INT64,)) + _varint(value % _WORD)
    if isinstance(value, float):
        return bytes((_DOUBLE,)) + struct.pack("<d", value)
    text = value.encode()
    return bytes((_STRING,)) + _varint(len(text)) + text


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _signed(body: bytes) -> int:
    value = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(body))
    return value - _WORD if value >= _WORD // 2 else value
