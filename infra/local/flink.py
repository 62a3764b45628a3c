"""The Flink session cluster of the local stack, run straight from the pyflink wheel: one JobManager, one TaskManager.

Both share a folder with a configuration and a `lib/` of links of their own, so that nothing is written into the wheel
and the Kafka connector sits beside Flink's jars.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from infra.local import process
from infra.local.engine import Engine

# What Flink's own config.yaml asks of JDK 17: reflection into these packages.
_ADD_OPENS = " ".join(
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in (
        "java.lang",
        "java.net",
        "java.io",
        "java.nio",
        "sun.nio.ch",
        "java.lang.reflect",
        "java.text",
        "java.time",
        "java.util",
        "java.util.concurrent",
        "java.util.concurrent.atomic",
        "java.util.concurrent.locks",
    )
)

_LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %c{1} - %m%n
# One line for every consumer property and every checkpoint buries the line that matters.
logger.kafka.name = org.apache.kafka
logger.kafka.level = WARN
logger.pekko.name = org.apache.pekko
logger.pekko.level = WARN
"""


def flink_home() -> Path:
    """The pyflink folder, which carries Flink itself; found without importing pyflink.

    Raises:
        FileNotFoundError: apache-flink is not installed in this environment.
    """
    spec = importlib.util.find_spec("pyflink")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        return Path(folder)
    message = "pyflink: the apache-flink wheel is not in this environment; run `make .venv`"
    raise FileNotFoundError(message)


@dataclass(frozen=True)
class FlinkCluster:
    """The shared folder and numbers of one session cluster.

    Attributes:
        folder: Configuration, links, logs, checkpoints.
        connector: The jar of Flink's Kafka connector.
        rest_port: REST API and web page.
        rpc_port: Between JobManager and TaskManager.
        slots: How many parallel pipelines fit; a job of parallelism 1 needs one.
        jobmanager_mb: Whole memory of the JobManager's process.
        taskmanager_mb: Whole memory of the TaskManager's process.
    """

    folder: Path
    connector: Path
    rest_port: int
    rpc_port: int
    slots: int = 8
    jobmanager_mb: int = 1_000
    taskmanager_mb: int = 1_800

    def engines(self) -> tuple[JobManager, TaskManager]:
        """The two processes, in the order in which they start."""
        return JobManager(self), TaskManager(self)

    def prepare(self) -> None:
        """Write the configuration and the links; repeatable."""
        for name in ("conf", "lib", "tmp", "checkpoints", "savepoints"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        # JSON is YAML; Flink reads flat keys as well as nested ones.
        (self.folder / "conf" / "config.yaml").write_text(
            "\n".join(f"{key}: {json.dumps(value)}" for key, value in self._config().items())
            + "\n",
            encoding="utf-8",
        )
        (self.folder / "conf" / "log4j-console.properties").write_text(_LOGGING, encoding="utf-8")
        for jar in [*sorted((flink_home() / "lib").glob("*.jar")), self.connector.absolute()]:
            link = self.folder / "lib" / jar.name
            link.unlink(missing_ok=True)
            link.symlink_to(jar)

    def environment(self) -> dict[str, str]:
        """Where Flink's scripts find all this."""
        return {
            "FLINK_HOME": str(flink_home()),
            "FLINK_CONF_DIR": str(self.folder / "conf"),
            "FLINK_LIB_DIR": str(self.folder / "lib"),
            "FLINK_LOG_DIR": str(self.folder),
            "FLINK_PID_DIR": str(self.folder / "tmp"),
        }

    def overview(self) -> dict[str, Any] | None:
        """The cluster's own summary; None while it does not answer."""
        try:
            answer = httpx.get(
                f"http://{process.LOOPBACK}:{self.rest_port}/overview", timeout=1.0, trust_env=False
            )
            answer.raise_for_status()
        except httpx.HTTPError:
            return None
        overview: dict[str, Any] = answer.json()
        return overview

    def _config(self) -> dict[str, str | int | bool]:
        return {
            "env.java.opts.all": f"{_ADD_OPENS} -XX:+ExitOnOutOfMemoryError",
            "jobmanager.rpc.address": process.LOOPBACK,
            "jobmanager.rpc.port": self.rpc_port,
            "jobmanager.bind-host": process.LOOPBACK,
            "jobmanager.memory.process.size": f"{self.jobmanager_mb}m",
            "jobmanager.execution.failover-strategy": "region",
            "rest.address": process.LOOPBACK,
            "rest.bind-address": process.LOOPBACK,
            "rest.port": self.rest_port,
            "rest.bind-port": str(self.rest_port),
            "taskmanager.host": process.LOOPBACK,
            "taskmanager.bind-host": process.LOOPBACK,
            "taskmanager.numberOfTaskSlots": self.slots,
            "taskmanager.memory.process.size": f"{self.taskmanager_mb}m",
            # State lives on the heap; managed memory would lie idle.
            "taskmanager.memory.managed.fraction": "0.05",
            "parallelism.default": 1,
            "execution.checkpointing.dir": (self.folder / "checkpoints").as_uri(),
            "execution.checkpointing.savepoint-dir": (self.folder / "savepoints").as_uri(),
            "io.tmp.dirs": str(self.folder / "tmp"),
            # What `headrace status` tells of a job is as old as this; the default is 10 s. Nothing is fetched unasked.
            "metrics.fetcher.update-interval": "1 s",
            # Nobody uploads code through the page.
            "web.submit.enable": False,
        }


class JobManager(Engine):
    """Flink's master: takes jobs, restarts them, serves the REST API and the web page."""

    name = "jobmanager"

    def __init__(self, cluster: FlinkCluster) -> None:
        super().__init__(cluster.folder)
        self.cluster = cluster

    def prepare(self) -> None:
        """Write the cluster's configuration."""
        self.cluster.prepare()

    def command(self) -> list[str]:
        """Flink's own script, which becomes the JVM."""
        return ["bash", str(flink_home() / "bin" / "jobmanager.sh"), "start-foreground"]

    def environment(self) -> dict[str, str]:
        """Where Flink's script finds its folders."""
        return self.cluster.environment()

    def healthy(self) -> bool:
        """Whether the REST API answers."""
        return self.cluster.overview() is not None


class TaskManager(JobManager):
    """Flink's worker process: runs the jobs' operators in its slots."""

    name = "taskmanager"

    def command(self) -> list[str]:
        """Flink's own script, which becomes the JVM."""
        return ["bash", str(flink_home() / "bin" / "taskmanager.sh"), "start-foreground"]

    def healthy(self) -> bool:
        """Whether the JobManager has its slots."""
        overview = self.cluster.overview()
        return overview is not None and int(overview["slots-total"]) >= self.cluster.slots
