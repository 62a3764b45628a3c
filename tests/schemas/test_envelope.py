"""CloudEvents headers and traces."""

from __future__ import annotations

from schemas import envelope
from schemas.flights import Outcome


def test_headers_name_the_event() -> None:
    outcome = Outcome(event_time_ms=1_370_000_000_123, request_id="r1", arr_delay=2.0, late=False)
    headers = dict(envelope.headers(outcome, source="test"))
    assert headers["ce_id"] == b"r1"
    assert headers["ce_type"] == b"headrace.outcome"
    assert headers["ce_time"] == b"2013-05-31T11:33:20.123Z"
    assert headers["ce_specversion"] == b"1.0"


def test_a_child_keeps_the_trace_and_changes_the_span() -> None:
    parent = envelope.new_traceparent()
    child = envelope.child_traceparent(parent)
    assert envelope.TRACEPARENT.match(child)
    assert child.split("-")[1] == parent.split("-")[1]
    assert child.split("-")[2] != parent.split("-")[2]


def test_a_broken_trace_starts_a_new_one() -> None:
    assert envelope.TRACEPARENT.match(envelope.child_traceparent("nonsense"))
