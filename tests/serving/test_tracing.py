"""Spans, as a collector receives them over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from schemas.envelope import child_traceparent, new_traceparent
from serving.stopwatch import Took
from serving.trace_export import OtlpExporter
from serving.tracing import Traced, Tracing, context_of


class Collector:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resource: dict[str, str] = {}
        mine = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                told = ExportTraceServiceRequest.FromString(body).resource_spans[0]
                mine.resource = {a.key: a.value.string_value for a in told.resource.attributes}
                mine.spans += told.scope_spans[0].spans
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Tests are quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def traced(parent: str | None) -> Traced:
    own = child_traceparent(parent) if parent else new_traceparent()
    return Traced(parent, own, "q1", 1_000, "scored", "v0001", "canary")


def tell(collector: Collector, answered: list[Traced], ratio: float = 1.0) -> dict[str, list[Span]]:
    tracing = Tracing(OtlpExporter(collector.endpoint), ratio=ratio, case="toy", slot=3)
    took = Took(taken_ms=1_004, read_us=700, predict_us={"v0001": 90}, commit_us=5_000)
    tracing.batch(took, answered, 1_012)
    tracing.close()
    found: dict[str, list[Span]] = {"score batch": [], "score": []}
    for span in collector.spans:
        found[span.name].append(span)
    return found


def test_a_batch_links_its_requests_and_a_request_is_the_span_its_result_names(
    collector: Collector,
) -> None:
    answered = [traced(new_traceparent()) for _ in range(3)]
    found = tell(collector, answered)
    (batch,) = found["score batch"]
    assert collector.resource["headrace.case"] == "toy"
    assert not batch.parent_span_id
    assert (batch.start_time_unix_nano, batch.end_time_unix_nano) == (1_004_000_000, 1_012_000_000)
    numbers = {a.key: a.value.int_value for a in batch.attributes}
    assert numbers["headrace.rows"] == 3
    assert numbers["headrace.predict_us.v0001"] == 90
    linked = {link.trace_id.hex() for link in batch.links}
    assert linked == {str(one.parent).split("-")[1] for one in answered}
    for one, span in zip(answered, found["score"], strict=True):
        _, trace_id, span_id, _ = one.own.split("-")
        assert (span.trace_id.hex(), span.span_id.hex()) == (trace_id, span_id)
        assert span.parent_span_id.hex() == str(one.parent).split("-")[2]
        assert span.links[0].span_id == batch.span_id


def test_a_request_that_came_without_a_trace_begins_one(collector: Collector) -> None:
    one = traced(None)
    found = tell(collector, [one])
    (span,) = found["score"]
    assert (span.trace_id.hex(), span.span_id.hex()) == tuple(one.own.split("-")[1:3])
    assert not span.parent_span_id
    assert not found["score batch"][0].links


def test_what_is_not_sampled_is_not_told(collector: Collector) -> None:
    unsampled = new_traceparent()[:-2] + "00"
    assert not tell(collector, [traced(unsampled)])["score batch"]
    many = [traced(new_traceparent()) for _ in range(400)]
    found = tell(collector, many, ratio=0.25)
    assert 50 <= len(found["score"]) <= 150


def test_a_collector_that_is_away_costs_spans_and_nothing_else() -> None:
    tracing = Tracing(OtlpExporter("http://127.0.0.1:1"), ratio=1.0, case="toy", slot=0)
    tracing.batch(Took(taken_ms=1), [traced(new_traceparent())], 2)
    tracing.close()


@pytest.mark.parametrize("text", [None, "", "00-zz", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_what_is_no_traceparent_names_no_span(text: str | None) -> None:
    assert context_of(text) is None
