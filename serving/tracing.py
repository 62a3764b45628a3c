"""Spans of a replica: one a batch, linked to the requests in it, and one a request that is sampled.

A request's span is the parent of nothing and the child of what published it; its id is the one that its result carries,
so whoever goes on from the result goes on from there. What is sampled is decided by the request's own flag and by its
trace id, alike on every replica; a batch without a sampled request has no span.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, TraceFlags

from schemas.envelope import TRACEPARENT

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from serving.stopwatch import Took

NS_PER_MS = 1_000_000
# As many as a batch has rows; beyond, the SDK leaves links out and says how many.
LINKS_MAX = 512
# Spans that wait for the collector; what comes beyond is dropped, so that tracing never holds a batch up.
QUEUE_MAX = 4_096
HALF = 1 << 64


class Traced(NamedTuple):
    """An answered request: `parent` is the traceparent it came with, `own` the one its result carries."""

    parent: str | None
    own: str
    request_id: str
    ingest_ms: int
    status: str
    version: str
    route: str


class _GivenIds(RandomIdGenerator):
    """Hands out ids that were decided elsewhere, else random ones."""

    trace_id: int | None = None
    span_id: int | None = None

    def generate_trace_id(self) -> int:
        """Called by the SDK for a span without a parent."""
        given, self.trace_id = self.trace_id, None
        return super().generate_trace_id() if given is None else given

    def generate_span_id(self) -> int:
        """Called by the SDK for every span."""
        given, self.span_id = self.span_id, None
        return super().generate_span_id() if given is None else given


class Tracing:
    """One replica's spans. Not for sharing between threads.

    Args:
        exporter: Where finished spans go, in a thread of the SDK's.
        ratio: The part of sampled traces, in [0, 1], whose requests get spans.
        case: The use case.
        slot: The replica's.
    """

    def __init__(self, exporter: SpanExporter, *, ratio: float, case: str, slot: int) -> None:
        self._ids, self._bound = _GivenIds(), int(ratio * HALF)
        self._provider = TracerProvider(
            resource=Resource.create(
                {"service.name": "headrace.scorer", "headrace.case": case, "headrace.slot": slot}
            ),
            id_generator=self._ids,
            span_limits=SpanLimits(max_links=LINKS_MAX, max_span_attributes=64),
            shutdown_on_exit=False,
        )
        processor = BatchSpanProcessor(
            exporter, max_queue_size=QUEUE_MAX, schedule_delay_millis=1_000
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("headrace")

    def batch(self, took: Took, answered: Sequence[Traced], committed_ms: int) -> None:
        """Tell of one committed batch."""
        sampled = [one for one in answered if self._bound and self._sampled(one.own)]
        if not sampled:
            return
        parents = (context_of(one.parent) for one in sampled)
        span = self._tracer.start_span(
            "score batch",
            context=Context(),
            links=[Link(parent) for parent in parents if parent is not None],
            start_time=took.taken_ms * NS_PER_MS,
            attributes={"headrace.rows": len(answered), **_stages(took)},
        )
        span.end(committed_ms * NS_PER_MS)
        for one in sampled:
            self._request(one, span.get_span_context(), took, committed_ms)

    def close(self) -> None:
        """Hand over what waits, within the exporter's patience."""
        self._provider.shutdown()

    def _request(self, one: Traced, batch: SpanContext, took: Took, committed_ms: int) -> None:
        own, parent = context_of(one.own), context_of(one.parent)
        if own is None:
            return
        self._ids.trace_id, self._ids.span_id = own.trace_id, own.span_id
        whole = Context()
        if parent is not None:
            whole = trace.set_span_in_context(NonRecordingSpan(parent), whole)
        span = self._tracer.start_span(
            "score",
            context=whole,
            links=[Link(batch)],
            start_time=one.ingest_ms * NS_PER_MS,
            attributes={
                "headrace.request_id": one.request_id,
                "headrace.status": one.status,
                "headrace.version": one.version,
                "headrace.route": one.route,
                "headrace.queue_us": took.waited_us(one.ingest_ms),
            },
        )
        # A child takes its parent's trace id and asks for none.
        self._ids.trace_id = None
        span.end(committed_ms * NS_PER_MS)

    def _sampled(self, traceparent: str) -> bool:
        context = context_of(traceparent)
        return (
            context is not None
            and context.trace_flags.sampled
            and context.trace_id % HALF < self._bound
        )


def context_of(traceparent: str | None) -> SpanContext | None:
    """The span that a traceparent names; None where it is not one."""
    if traceparent is None or not TRACEPARENT.match(traceparent):
        return None
    _, trace_id, span_id, flags = traceparent.split("-")
    context = SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
    )
    return context if context.is_valid else None


def _stages(took: Took) -> dict[str, int]:
    told = {f"headrace.predict_us.{version}": us for version, us in took.predict_us.items()}
    for name, us in (("read", took.read_us), ("commit", took.commit_us)):
        if us is not None:
            told[f"headrace.{name}_us"] = us
    return told
