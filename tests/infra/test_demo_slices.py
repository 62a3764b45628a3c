"""Slices keep every record once, in order, and events before the requests that may see them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from infra.demo.malformed import SPOILS, malformed
from infra.demo.slices import Sent, cut
from schemas.decoding import Refusal, decode
from schemas.flights import Departure

times = st.lists(st.integers(0, 100_000), max_size=60).map(sorted)


def records(topic: str, at: list[int]) -> list[Sent]:
    return [Sent(topic, t, f"{topic}-{n}", b"k", b"{}", [], {"a": 1}) for n, t in enumerate(at)]


@given(times, times, st.integers(1, 20))
def test_slices_keep_everything_once_and_in_order(
    events: list[int], requests: list[int], slice_s: int
) -> None:
    sent_events, sent_requests = records("e", events), records("r", requests)
    pieces = list(cut(sent_events, sent_requests, slice_s))
    assert [e for p in pieces for e in p.events] == sent_events
    assert [r for p in pieces for r in p.requests] == sent_requests
    for piece in pieces:
        assert all(e.time_ms <= piece.start_ms for e in piece.events)
        assert all(0 <= r.time_ms - piece.start_ms < slice_s * 1000 for r in piece.requests)


@given(times, times.filter(bool), st.integers(1, 20))
def test_a_request_misses_at_most_the_events_of_its_own_slice(
    events: list[int], requests: list[int], slice_s: int
) -> None:
    seen: list[Sent] = []
    for piece in cut(records("e", events), records("r", requests), slice_s):
        seen += piece.events
        for request in piece.requests:
            missed = [t for t in events if t <= request.time_ms][len(seen) :]
            assert all(piece.start_ms < t <= request.time_ms for t in missed)


def test_no_malformed_record_is_accepted() -> None:
    event = Departure(
        event_time_ms=1_370_000_000_000,
        event_id="e",
        carrier="UA",
        flight=1,
        tailnum="N14228",
        origin="EWR",
        dest="IAH",
        dep_delay=0.0,
    )
    sent = [
        Sent("t", event.event_time_ms, "e", b"k", event.encode(), [], event.model_dump())
        for _ in range(200)
    ]
    spoilt = malformed(sent, seed=7)
    assert len(spoilt) == 50
    reasons = {decode(Departure, s.value, 1_800_000_000_000) for s in spoilt}
    assert all(isinstance(reason, Refusal) for reason in reasons)
    assert len({r.reason for r in reasons if isinstance(r, Refusal)}) >= 5
    assert len(spoilt) > len(SPOILS)
