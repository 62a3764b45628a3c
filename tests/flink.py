"""A real Flink session cluster for tests and benchmarks that want one of their own."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from infra.local import process
from infra.local.flink import FlinkCluster
from pipelines.flink_jobs import FlinkJobs
from pipelines.settings import FlinkSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from infra.local.flink import JobManager, TaskManager


class RunningFlink(NamedTuple):
    """A cluster that runs, and how its jobs are submitted."""

    settings: FlinkSettings
    jobmanager: JobManager
    taskmanager: TaskManager


@contextmanager
def running_flink(
    folder: Path,
    jars: Path,
    slots: int = 2,
    checkpoint_interval_s: float = 10,
    taskmanager_mb: int = FlinkCluster.taskmanager_mb,
) -> Iterator[RunningFlink]:
    """One JobManager and one TaskManager on free ports, gone afterwards."""
    connector = next((jars / "flink").glob("flink-sql-connector-kafka-*.jar"))
    cluster = FlinkCluster(
        folder,
        connector,
        rest_port=process.free_port(),
        rpc_port=process.free_port(),
        slots=slots,
        taskmanager_mb=taskmanager_mb,
    )
    settings = FlinkSettings(
        rest_port=cluster.rest_port,
        connector_jar=str(connector),
        checkpoint_interval_s=checkpoint_interval_s,
    )
    jobmanager, taskmanager = cluster.engines()
    with jobmanager, taskmanager:
        yield RunningFlink(settings, jobmanager, taskmanager)


def cancel_all(flink: FlinkSettings) -> None:
    """Leave the cluster without a job."""
    with FlinkJobs(flink) as cluster:
        cluster.cancel(cluster.alive())
