"""Spans to an OpenTelemetry collector: OTLP over HTTP, in protobuf.

https://opentelemetry.io/docs/specs/otlp/#otlphttp. The project's own exporter is a package of its own that nothing else
here needs; its wire format is among what is installed anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import httpx
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

log = structlog.get_logger()

TIMEOUT_S = 5.0
PATH = "/v1/traces"


class OtlpExporter(SpanExporter):
    """Posts spans to `<endpoint>/v1/traces`. A collector that is away costs spans, never a request.

    Args:
        endpoint: The collector's address, `http://127.0.0.1:4318`.
    """

    def __init__(self, endpoint: str) -> None:
        self._url = endpoint.rstrip("/") + PATH
        self._client = httpx.Client(
            timeout=TIMEOUT_S, headers={"content-type": "application/x-protobuf"}
        )

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Called by the SDK, in a thread of its own."""
        try:
            answer = self._client.post(self._url, content=encoded(spans))
            answer.raise_for_status()
        except httpx.HTTPError as error:
            log.warning("trace.export", url=self._url, spans=len(spans), error=str(error))
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Called by the SDK at its end."""
        self._client.close()


def encoded(spans: Sequence[ReadableSpan]) -> bytes:
    """`ExportTraceServiceRequest`; all spans are of one process, and so of one resource."""
    told = ResourceSpans(scope_spans=[ScopeSpans(spans=[_span(one) for one in spans])])
    if spans:
        told.resource.attributes.extend(_attributes(spans[0].resource.attributes))
    encoded: bytes = ExportTraceServiceRequest(resource_spans=[told]).SerializeToString()
    return encoded


def _span(span: ReadableSpan) -> Span:
    context = span.get_span_context()
    told = Span(
        name=span.name,
        kind=Span.SPAN_KIND_CONSUMER,
        start_time_unix_nano=span.start_time or 0,
        end_time_unix_nano=span.end_time or 0,
        attributes=_attributes(span.attributes or {}),
    )
    if context is not None:
        told.trace_id, told.span_id = _bytes(context.trace_id, 16), _bytes(context.span_id, 8)
    if span.parent is not None:
        told.parent_span_id = _bytes(span.parent.span_id, 8)
    for link in span.links:
        of = link.context
        told.links.add(trace_id=_bytes(of.trace_id, 16), span_id=_bytes(of.span_id, 8))
    return told


def _attributes(given: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in given.items()]


def _value(value: object) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(string_value=str(value))


def _bytes(number: int, length: int) -> bytes:
    return number.to_bytes(length, "big")
