"""One Flink session cluster for the benchmarks that want one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from infra.local import process
from infra.local.flink import FlinkCluster
from pipelines.settings import FlinkSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def flink(jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkSettings]:
    """A cluster of two slots."""
    connector = next((jars / "flink").glob("flink-sql-connector-kafka-*.jar"))
    cluster = FlinkCluster(
        tmp_path_factory.mktemp("flink"),
        connector,
        rest_port=process.free_port(),
        rpc_port=process.free_port(),
        slots=2,
    )
    jobmanager, taskmanager = cluster.engines()
    with jobmanager, taskmanager:
        yield FlinkSettings(rest_port=cluster.rest_port, connector_jar=str(connector))
