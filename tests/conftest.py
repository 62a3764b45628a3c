"""Real engines for every test: one Kafka broker and one Redis a session, started on first use, gone afterwards."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

# Before anything imports numpy: on two cores, threads of BLAS beside a broker cost more than they give.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from features.settings import StoreSettings
from infra.local.kafka import KafkaServer
from infra.local.redis_server import RedisServer
from schemas.settings import KafkaSettings
from tests.flink import cancel_all, running_flink
from tests.redis_cluster import RedisCluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipelines.settings import FlinkSettings

ROOT = Path(__file__).parents[1]


def pytest_configure() -> None:
    """A shell that puts a job into the background lets it ignore Ctrl-C, and so would all that tests start and interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def jars_folder() -> Path:
    """The folder that `make jars` fills, or the one named by HEADRACE_JARS."""
    named = os.environ.get("HEADRACE_JARS")
    return Path(named) if named else ROOT / ".headrace" / "jars"


@pytest.fixture(scope="session")
def jars() -> Path:
    """The jars of Kafka (`kafka/`) and of Flink's connector (`flink/`)."""
    folder = jars_folder()
    if not (folder / "kafka").is_dir():
        pytest.fail(
            f"no jars under {folder}: run `make jars`, or name their folder in HEADRACE_JARS"
        )
    return folder


@pytest.fixture(scope="session")
def kafka(jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    """A real, empty broker for the session. Tests share it: name topics and groups after the test."""
    with KafkaServer(tmp_path_factory.mktemp("kafka"), jars / "kafka") as server:
        yield KafkaSettings(bootstrap_servers=server.bootstrap_servers)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real, empty Redis for the session. Tests share it: a test that needs it empty flushes it first."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(scope="session")
def shared_flink(jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkSettings]:
    """One Flink session cluster for all who hurt none of its processes; it takes long to start."""
    with running_flink(tmp_path_factory.mktemp("flink"), jars, slots=8) as running:
        yield running.settings


@pytest.fixture(scope="module")
def flink(shared_flink: FlinkSettings) -> Iterator[FlinkSettings]:
    """That cluster, without jobs before the module and after it."""
    yield shared_flink
    cancel_all(shared_flink)


class OnlineStore(NamedTuple):
    """Where an online store is, and whether it is a cluster."""

    url: str
    clustered: bool

    def of(self, stores: StoreSettings) -> StoreSettings:
        """These settings with this store."""
        return stores.model_copy(update={"redis_url": self.url, "redis_cluster": self.clustered})


@pytest.fixture(scope="session", params=["one_redis", "redis_cluster"])
def online(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OnlineStore]:
    """One Redis, and then a cluster: what holds for an online store holds on both."""
    if request.param == "one_redis":
        yield OnlineStore(request.getfixturevalue("redis_url"), clustered=False)
        return
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield OnlineStore(cluster.url, clustered=True)


@pytest.fixture(scope="session")
def stores(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> StoreSettings:
    """The session's Redis, and an empty lake and Feast registry in a folder of their own."""
    return stores_at(tmp_path_factory.mktemp("stores"), redis_url)


def stores_at(folder: Path, redis_url: str) -> StoreSettings:
    """Store settings whose every path lies under `folder`; the SQLite folders exist."""
    for name in ("lake", "features"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return StoreSettings(
        redis_url=redis_url,
        catalog_uri=f"sqlite:///{folder}/lake/catalog.db",
        warehouse=f"file://{folder}/lake/warehouse",
        registry_uri=f"sqlite:///{folder}/features/registry.db",
        plan_path=str(folder / "features" / "plan.json"),
    )
