"""The Ray head of the local stack: one node on loopback, behind a token that only its owner reads."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

import httpx

from infra import atomic_file
from infra.local import process
from infra.local.engine import Engine

# Ray puts sockets under `<temp>/session_<date>_<pid>/sockets/`, 53 characters with a pid of seven digits, and names them
# after its dashboard's modules (`dash_…Head`), for which 33 more are left. A socket's path holds at most 107 bytes;
# one too long does not stop the raylet, but the dashboard, after it had said that it was up.
_SESSION_CHARACTERS = 53 + 33
_SOCKET_PATH_MAX = 107


class RayHead(Engine):
    """Ray's control plane, scheduler and dashboard in one node.

    Args:
        folder: Token, log, and Ray's session folder where its path is short enough.
        port: Of the control store, which drivers connect to.
        dashboard_port: Of the dashboard, which also takes Serve's declarative configurations.
        agent_port: Of the node's agent, which Ray would fix at 52365.
        num_cpus: Logical CPUs: how many actors fit, not how fast they are.
        object_store_mb: Shared memory; no event crosses it, so little is enough.
    """

    name = "ray"
    # Nothing waits for Ray but the scorer; everything waits for features, and those for Kafka and Flink.
    after = ("kafka", "taskmanager")
    # Seconds on a quiet machine; minutes where a dozen processes start on two slow cores. Ray itself gives up after one.
    start_timeout_s = 240.0
    # A SIGTERM before its start is complete is not obeyed; there is nothing in Ray that must outlive it.
    stop_grace_s = 8.0

    def __init__(
        self,
        folder: Path,
        *,
        port: int,
        dashboard_port: int,
        agent_port: int | None = None,
        num_cpus: int = 4,
        object_store_mb: int = 200,
    ) -> None:
        super().__init__(folder)
        self.port = port
        self.dashboard_port = dashboard_port
        self.agent_port = agent_port or process.free_port()
        self.num_cpus = num_cpus
        self.object_store_mb = object_store_mb

    @property
    def temp_dir(self) -> Path:
        """Ray's session folder: under the data folder, or, where that is too deep for a socket, under /tmp."""
        inside = self.folder / "session"
        if len(str(inside)) + _SESSION_CHARACTERS <= _SOCKET_PATH_MAX:
            return inside
        digest = hashlib.sha256(str(self.folder).encode()).hexdigest()[:10]
        return Path(tempfile.gettempdir()) / f"hr-ray-{digest}"

    def prepare(self) -> None:
        """Make a token at the first start, which stays with the data folder; drop old sessions but the last."""
        token = token_path(self.folder)
        if not token.exists():
            atomic_file.write_text(token, secrets.token_urlsafe(32))
        # Each start leaves a folder of logs and sockets; the last one may still tell why it ended.
        for session in sorted(self.temp_dir.glob("session_2*"))[:-1]:
            shutil.rmtree(session, ignore_errors=True)

    def command(self) -> list[str]:
        """`ray start --head --block` of this environment."""
        options = {
            "node-ip-address": process.LOOPBACK,
            "port": self.port,
            "dashboard-host": process.LOOPBACK,
            "dashboard-port": self.dashboard_port,
            "dashboard-agent-listen-port": self.agent_port,
            "ray-client-server-port": process.free_port(),
            "include-dashboard": "true",
            "num-cpus": self.num_cpus,
            "num-gpus": 0,
            "object-store-memory": self.object_store_mb * 1024 * 1024,
            "temp-dir": self.temp_dir,
        }
        ray = str(Path(sys.executable).parent / "ray")
        flags = ["--head", "--block", "--disable-usage-stats"]
        return [ray, "start", *flags, *(f"--{name}={value}" for name, value in options.items())]

    def environment(self) -> dict[str, str]:
        """Token mode, and no workers started before anybody asked for one."""
        return {
            **client_environment(self.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DASHBOARD_STARTUP_TIMEOUT_S": f"{self.start_timeout_s:.0f}",
            # On SIGTERM Ray waits up to 30 s for its work to end; the replicas are already told to stop by then.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "AUTOSCALER_METRIC_PORT": str(process.free_port()),
            "DASHBOARD_METRIC_PORT": str(process.free_port()),
            "RAY_prestart_worker_first_driver": "0",
            "RAY_enable_worker_prestart": "0",
        }

    def healthy(self) -> bool:
        """Whether the dashboard answers and the node's agent calls its raylet healthy: the raylet comes last."""
        agent = f"http://{process.LOOPBACK}:{self.agent_port}/api/local_raylet_healthz"
        try:
            answer = httpx.get(agent, timeout=1.0, trust_env=False)
        except httpx.HTTPError:
            return False
        return answer.is_success and process.is_listening(self.dashboard_port)


def token_path(folder: Path) -> Path:
    """The file with the token of the Ray head in `folder`."""
    return folder / "token"


def client_environment(folder: Path) -> dict[str, str]:
    """What a driver needs in its environment to reach, and be let in by, the Ray head in `folder`.

    Ray turns 127.0.0.1 into the machine's outward address, and then listens on every interface, unless it is told
    that this is not a cluster of machines; the variable for that is named after Windows, where it is the default.
    """
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path(folder.absolute())),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
