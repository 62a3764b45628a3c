"""The replay cut into slices of event time (pure).

Compressed time would show as skew: at 20,000 times life, the 20 ms that an event needs to be readable are seven minutes
of flights. So the replay moves in slices. A slice begins at the instant of a request; every event up to and including
that instant comes before it, and its requests, those of the next `slice_s` seconds at most, go out once these events
are readable. A request at the beginning of a slice sees exactly what it would have seen in life; one further in
misses at most the events since the slice began, which parity reports as in flight.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True)
class Sent:
    """One record to produce; `fields` are the event's, where it is one."""

    topic: str
    time_ms: int
    id: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, str | bytes | None]]
    fields: dict[str, object]


@dataclass(frozen=True)
class Slice:
    """The events of `(the slice before, start_ms]`, and the requests of `[start_ms, start_ms + slice_s)`."""

    start_ms: int
    events: Sequence[Sent]
    requests: Sequence[Sent]


def cut(events: Sequence[Sent], requests: Sequence[Sent], slice_s: int) -> Iterator[Slice]:
    """Cut two lists, each ordered by time, into slices; events after the last request form a last one without any."""
    event_times = [e.time_ms for e in events]
    request_times = [r.time_ms for r in requests]
    sent_events = sent_requests = 0
    while sent_requests < len(requests):
        start_ms = request_times[sent_requests]
        events_until = bisect_right(event_times, start_ms)
        requests_until = bisect_left(request_times, start_ms + slice_s * 1000)
        yield Slice(
            start_ms, events[sent_events:events_until], requests[sent_requests:requests_until]
        )
        sent_events, sent_requests = events_until, requests_until
    if sent_events < len(events):
        yield Slice(event_times[-1], events[sent_events:], [])
