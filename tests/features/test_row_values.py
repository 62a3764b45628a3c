from __future__ import annotations

import math

import pytest
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st

from features.row_values import number, pack


@given(st.floats(allow_nan=False) | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.text())
def test_what_is_packed_is_feasts_value(value: float | str) -> None:
    found = Value.FromString(pack(value))
    assert getattr(found, str(found.WhichOneof("val"))) == value


@given(st.floats(allow_nan=False) | st.integers(-(2**63), 2**63 - 1) | st.booleans())
def test_numbers_come_back(value: float) -> None:
    assert number(pack(value)) == float(value)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (Value(int32_val=-5), -5.0),
        (Value(float_val=0.5), 0.5),
        (Value(unix_timestamp_val=1_700_000_000), 1.7e9),
    ],
)
def test_numbers_of_other_kinds(value: Value, wanted: float) -> None:
    assert number(value.SerializeToString()) == wanted


@pytest.mark.parametrize("packed", [None, b"", Value(string_val="4").SerializeToString()])
def test_what_is_no_number_is_nan(packed: bytes | None) -> None:
    assert math.isnan(number(packed))


@pytest.mark.parametrize("value", [None, math.nan])
def test_null_is_no_bytes(value: float | None) -> None:
    assert pack(value) == b""
    assert Value.FromString(b"").WhichOneof("val") is None
