"""One Flink session cluster for the benchmarks that want one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.flink import RunningFlink, running_flink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipelines.settings import FlinkSettings


@pytest.fixture(scope="session")
def cluster(jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFlink]:
    """A cluster of two slots, and of memory for the state of all bursts: none is to measure the garbage collector."""
    folder = tmp_path_factory.mktemp("flink")
    with running_flink(folder, jars, taskmanager_mb=4_096) as running:
        yield running


@pytest.fixture(scope="session")
def flink(cluster: RunningFlink) -> FlinkSettings:
    """How jobs get onto the cluster."""
    return cluster.settings
