"""What `headrace status` knows, as Prometheus metrics.

Collected when asked: services from the supervisor's state file, workers' own counters from their last report (outdated
and expired tiles among the materializer's), jobs from Flink, and their late events from the intake; of the scorer, how
long each stage took and what was answered, by version, route, tenant and lane. Nothing is kept between two scrapes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from serving.stages import BOUNDS_US, Labels

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client.core import Metric

US_PER_S = 1_000_000
BOUNDS_S = (*(str(us / US_PER_S) for us in BOUNDS_US), "+Inf")

# Of a job's health: the metric's name and what it is.
JOB_GAUGES = {
    "restarts": ("restarts", "Restarts since the job was submitted."),
    "state_bytes": ("state_bytes", "Size of the newest checkpoint."),
    "checkpoint_age_s": ("checkpoint_age_seconds", "Since the newest checkpoint was taken."),
    "checkpoints_failed": ("checkpoints_failed", "Since the job was submitted."),
    "lag_events": ("lag_events", "In its streams, beyond what it has fetched."),
    "late_events": (
        "late_events",
        "More than a hop behind their stream, since the intake started.",
    ),
    "too_late_events": (
        "too_late_events",
        "Of the late ones, behind the longest window and the allowed lateness.",
    ),
}


class StackMetrics(Collector):
    """One stack's metrics.

    Args:
        summary: What `headrace status --json` prints, asked anew at every scrape.
    """

    def __init__(self, summary: Callable[[], Mapping[str, Any]]) -> None:
        self._summary = summary

    def collect(self) -> Iterator[Metric]:
        """Every metric, with one sample a service, counter or job."""
        now = self._summary()
        yield GaugeMetricFamily(
            "headrace_healthy", "1 where everything runs and answers.", float(now["healthy"])
        )
        yield from _services(now["services"])
        yield _counters(now["services"])
        yield from _scoring(now["services"])
        yield from _jobs(now["flink_jobs"])


def _services(services: Mapping[str, Mapping[str, Any]]) -> Iterator[GaugeMetricFamily]:
    ready = GaugeMetricFamily("headrace_service_ready", "1 where it answers.", labels=["service"])
    restarts = GaugeMetricFamily(
        "headrace_service_restarts", "Since the stack came up.", labels=["service"]
    )
    for name, row in services.items():
        ready.add_metric([name], float(row["phase"] == "ready" and bool(row["answers"])))
        restarts.add_metric([name], float(row["restarts"]))
    yield ready
    yield restarts


def _counters(services: Mapping[str, Mapping[str, Any]]) -> GaugeMetricFamily:
    reported = GaugeMetricFamily(
        "headrace_worker", "A number of a worker's last report.", labels=["service", "number"]
    )
    for name, row in services.items():
        for number, value in (row.get("report") or {}).items():
            # What is counted by view is told with the view's job.
            if isinstance(value, int | float) and "." not in number:
                reported.add_metric([name, number], float(value))
    return reported


def _scoring(services: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    """The stages of every service that reports them, as JSON text: a report holds no lists."""
    labels = ["service", *Labels._fields]
    took = HistogramMetricFamily(
        "headrace_stage_seconds",
        "From the broker's stamp on a request to the commit of its answer; read, predict and commit by the batch.",
        labels=["stage", *labels],
    )
    answers = CounterMetricFamily(
        "headrace_answers", "Committed results and dead letters.", labels=["status", *labels]
    )
    for name, row in services.items():
        told = json.loads((row.get("report") or {}).get("stages", "{}"))
        for stage, *of, counts, sum_us in told.get("stages", ()):
            buckets = list(zip(BOUNDS_S, map(float, accumulate(counts)), strict=True))
            took.add_metric([stage, name, *of], buckets, sum_us / US_PER_S)
        for status, *of, count in told.get("answers", ()):
            answers.add_metric([status, name, *of], float(count))
    yield took
    yield answers


def _jobs(jobs: list[Mapping[str, Any]]) -> Iterator[GaugeMetricFamily]:
    running = GaugeMetricFamily("headrace_job_running", "1 where the job runs.", labels=["job"])
    for job in jobs:
        running.add_metric([job["name"]], float(job["state"] == "RUNNING"))
    yield running
    for field, (metric, what) in JOB_GAUGES.items():
        gauge = GaugeMetricFamily(f"headrace_job_{metric}", what, labels=["job"])
        for job in jobs:
            if job.get(field) is not None:
                gauge.add_metric([job["name"]], float(job[field]))
        yield gauge
