"""The Kafka broker of the local stack: one KRaft node on plain jars, loopback only."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from infra.local import process
from infra.local.engine import Engine

if TYPE_CHECKING:
    from pathlib import Path

# One node, so every internal topic has one replica. Few partitions for the internal topics: each is a folder and an
# open index, and a start loads them all (50 by default; 5 start seconds sooner).
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=5
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=5
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
# A group waits 3 s for more members by default; here they come one at a time and should start at once.
group.initial.rebalance.delay.ms=0
# Replicas promise to be declared dead after 6 s (ServingSettings.session_timeout_ms); the broker must allow it.
group.min.session.timeout.ms=1000
transaction.max.timeout.ms=900000
# An aborted transaction must not hold up readers: look for expired ones every second (10 s by default).
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
log.segment.bytes=134217728
num.network.threads=2
num.io.threads=4
"""

_LOGGING = """\
<Configuration>
  <Appenders>
    <Console name="out"><PatternLayout pattern="%d{ISO8601} %-5p %c{1}: %m%n"/></Console>
  </Appenders>
  <Loggers><Root level="WARN"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"""

# An arbitrary constant: it only has to be the same each time the folder is opened.
_CLUSTER_ID = "aGVhZHJhY2UtbG9jYWwtMQ"


class KafkaServer(Engine):
    """A real broker on loopback whose data survives in `folder`.

    Args:
        folder: Data, configuration and log.
        jars: The folder with the broker's jars, as `make jars` fills it.
        port: Port for clients.
        controller_port: Port of the KRaft controller, used by the broker itself.
        heap_mb: Size of the JVM's heap.
    """

    name = "kafka"

    def __init__(
        self,
        folder: Path,
        jars: Path,
        *,
        port: int | None = None,
        controller_port: int | None = None,
        heap_mb: int = 512,
    ) -> None:
        super().__init__(folder)
        self.jars = jars.absolute()
        self.port = port or process.free_port()
        self.controller_port = controller_port or process.free_port()
        self.heap_mb = heap_mb

    @property
    def bootstrap_servers(self) -> str:
        """What clients are given as `bootstrap.servers`."""
        return f"{process.LOOPBACK}:{self.port}"

    def prepare(self) -> None:
        """Write `server.properties` for the chosen ports."""
        self.folder.mkdir(parents=True, exist_ok=True)
        properties = _PROPERTIES.format(
            host=process.LOOPBACK,
            port=self.port,
            controller_port=self.controller_port,
            data=self.folder / "data",
        )
        (self.folder / "server.properties").write_text(properties, encoding="utf-8")
        (self.folder / "log4j2.xml").write_text(_LOGGING, encoding="utf-8")

    def command(self) -> list[str]:
        """Format the data folder where that was not done yet, then become the broker."""
        properties = str(self.folder / "server.properties")
        java = [
            "java",
            "-cp",
            f"{self.jars}/*",
            f"-Dlog4j2.configurationFile={self.folder}/log4j2.xml",
        ]
        storage_tool = [*java, "-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format"]
        storage_tool += ["-t", _CLUSTER_ID, "-c", properties, "--ignore-formatted"]
        heap = [f"-Xmx{self.heap_mb}m", f"-Xms{self.heap_mb // 2}m", "-XX:+ExitOnOutOfMemoryError"]
        broker = [*java, *heap, "-XX:+UseG1GC", "kafka.Kafka", properties]
        formatted = shlex.quote(str(self.folder / "data" / "meta.properties"))
        script = f"test -f {formatted} || {shlex.join(storage_tool)} || exit 1; exec {shlex.join(broker)}"
        return ["sh", "-c", script]

    def healthy(self) -> bool:
        """Whether the broker accepts clients: it opens this port last, once it is registered."""
        return process.is_listening(self.port)
