"""What is told of a replica's committed batches: their stages as metrics and, where a collector is set, as spans."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from schemas import topics
from schemas.decoding import Refusal
from schemas.envelope import header
from serving.batcher import Lane
from serving.stages import DEAD_LETTERED, Labels, Row, Stages

if TYPE_CHECKING:
    from confluent_kafka import Message

    from schemas.events import Event
    from serving.scoring import Answer
    from serving.settings import ServingSettings
    from serving.stopwatch import Took
    from serving.tracing import Traced, Tracing

    Requests = Sequence[tuple[Message, Event]]
    Answers = Sequence[Answer | Refusal]

_BULK, _INTERACTIVE = Lane.BULK.name.lower(), Lane.INTERACTIVE.name.lower()


class Observer:
    """Beside one scorer. `batch` is called by its loop; `snapshot` may be by any thread."""

    def __init__(self, settings: ServingSettings, case: str, slot: int) -> None:
        self._stages = Stages()
        self._tracing = _tracing(settings, case, slot)

    def batch(
        self,
        took: Took,
        requests: Requests,
        answers: Answers,
        refused: Sequence[tuple[Message, Refusal]],
    ) -> None:
        """Tell of a batch that was committed just now; `answers` are those of `requests`."""
        committed_ms = time.time_ns() // 1_000_000
        self._stages.observe(took, _rows(requests, answers, refused), committed_ms)
        if self._tracing is not None:
            self._tracing.batch(took, _traced(requests, answers), committed_ms)

    def snapshot(self) -> dict[str, Any]:
        """Stages and answers since the start, as plain values (`serving.stages.merged`)."""
        return self._stages.snapshot()

    def close(self) -> None:
        """Hand over what still waits."""
        if self._tracing is not None:
            self._tracing.close()


def _tracing(settings: ServingSettings, case: str, slot: int) -> Tracing | None:
    if settings.otlp_endpoint is None:
        return None
    # OpenTelemetry's SDK takes a second, which only a replica that traces need wait for.
    spans, export = import_module("serving.tracing"), import_module("serving.trace_export")
    exporter = export.OtlpExporter(settings.otlp_endpoint)
    made: Tracing = spans.Tracing(exporter, ratio=settings.trace_ratio, case=case, slot=slot)
    return made


def _rows(
    requests: Requests, answers: Answers, refused: Sequence[tuple[Message, Refusal]]
) -> list[Row]:
    """What became of a batch, by version, route, tenant and lane."""
    rows = []
    for (message, _), tenant, answer in zip(requests, _tenants(requests), answers, strict=True):
        lane = _lane(message)
        if isinstance(answer, Refusal):
            status, labels = DEAD_LETTERED, Labels(tenant=tenant, lane=lane)
        else:
            status = answer.status.value
            labels = Labels(answer.version, str(answer.route), tenant, lane)
        rows.append(Row(status, message.timestamp()[1], labels))
    for message, _ in refused:
        rows.append(Row(DEAD_LETTERED, message.timestamp()[1], Labels(lane=_lane(message))))
    return rows


def _tenants(requests: Requests) -> list[str]:
    """Of each request; the contract says whether there are any, for a field that is not there takes long to miss."""
    if not requests or "tenant" not in type(requests[0][1]).model_fields:
        return [""] * len(requests)
    return [str(getattr(event, "tenant", "")) for _, event in requests]


def _traced(requests: Requests, answers: Answers) -> list[Traced]:
    make = import_module("serving.tracing").Traced
    return [
        make(
            header(message, "traceparent"),
            answer.traceparent,
            event.id,
            message.timestamp()[1],
            answer.status.value,
            answer.version,
            str(answer.route),
        )
        for (message, event), answer in zip(requests, answers, strict=True)
        if not isinstance(answer, Refusal)
    ]


def _lane(message: Message) -> str:
    return _BULK if str(message.topic()).endswith(topics.BULK_SUFFIX) else _INTERACTIVE
