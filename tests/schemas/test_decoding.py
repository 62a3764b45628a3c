"""What enters the platform, and the reason where something does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.decoding import VALUE_BYTES_MAX, Refusal, decode
from schemas.flights import Departure, FlightRequest

INGEST_MS = 1_800_000_000_000
DEPARTURE: dict[str, Any] = {
    "event_time_ms": 1_370_000_000_000,
    "event_id": "20130601-UA1545-EWR-0515",
    "carrier": "UA",
    "flight": 1545,
    "tailnum": "N14228",
    "origin": "EWR",
    "dest": "IAH",
    "dep_delay": -3.0,
}


def judge(changes: dict[str, Any]) -> Departure | Refusal:
    return decode(Departure, json.dumps({**DEPARTURE, **changes}).encode(), INGEST_MS)


def test_a_right_event_is_accepted() -> None:
    event = judge({})
    assert isinstance(event, Departure)
    assert (event.id, event.key) == ("20130601-UA1545-EWR-0515", "N14228")
    assert decode(Departure, event.encode(), INGEST_MS) == event


@pytest.mark.parametrize(
    ("changes", "reason", "rule"),
    [
        ({"gate": "A1"}, "contract", "gate: extra_forbidden"),
        ({"dep_delay": "soon"}, "contract", "dep_delay: float_type"),
        ({"dep_delay": None}, "contract", "dep_delay: float_type"),
        ({"flight": "1545"}, "contract", "flight: int_type"),
        ({"flight": 10**400}, "contract", "flight: less_than_equal"),
        ({"dep_delay": 1e9}, "contract", "dep_delay: less_than_equal"),
        ({"tailnum": ""}, "contract", "tailnum: string_pattern_mismatch"),
        ({"event_time_ms": 0}, "absurd_time", "event_time_ms: greater_than_equal"),
        ({"event_time_ms": 4_070_908_800_000}, "absurd_time", "event_time_ms: at most"),
        ({"event_time_ms": 9_000_000_000_000}, "absurd_time", "event_time_ms: less_than"),
    ],
)
def test_a_wrong_event_is_refused_with_its_rule(
    changes: dict[str, Any], reason: str, rule: str
) -> None:
    refusal = judge(changes)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.rule[: len(rule)]) == (reason, rule)
    assert refusal.detail


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "null_value"),
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"[1]", "contract"),
        (b"\xff\xfe", "not_json"),
        (b'{"dep_delay": NaN}', "contract"),
        (b"[" * 10_000, "not_json"),
        (b'"' + b"x" * VALUE_BYTES_MAX + b'"', "too_large"),
    ],
)
def test_what_is_no_event_at_all_is_refused(value: bytes | None, reason: str) -> None:
    refusal = decode(FlightRequest, value, INGEST_MS)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason


@given(st.binary(max_size=300))
def test_no_bytes_raise(value: bytes) -> None:
    assert isinstance(decode(Departure, value, INGEST_MS), Refusal)
