"""`Engine`: a server of the local stack, as a command line, a folder and a health check."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from infra.local import process
from schemas.errors import HeadraceError

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path
    from types import TracebackType

TAIL_CHARACTERS = 1_500


class EngineStartError(HeadraceError):
    """An engine ended, or did not answer in time, while it was being started.

    Attributes:
        engine: The engine's name.
        log: The file with its output.
    """

    def __init__(self, engine: str, cause: str, log: Path) -> None:
        self.engine = engine
        self.log = log
        super().__init__(
            engine,
            wanted="it to start and answer",
            came=cause,
            mend=f"Its log, {log}, ends with:\n{tail(log)}",
        )


def tail(log: Path, characters: int = TAIL_CHARACTERS) -> str:
    """The end of a log file, for a message; empty when there is none."""
    if not log.exists():
        return ""
    return log.read_text(encoding="utf-8", errors="replace")[-characters:].strip()


class Engine(ABC):
    """A server that can be prepared, run as one child process, asked whether it is healthy, and stopped.

    The supervisor uses `prepare`, `command`, `environment` and `healthy`; tests use an engine as a context manager.
    """

    name: str
    # Engines to which it leaves the processors at the start; they are ready before it begins.
    after: tuple[str, ...] = ()
    start_timeout_s: float = 120.0
    stop_grace_s: float = 15.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """The file that receives the engine's output."""
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """The number of the process that `start` began, while it is ours."""
        return self._process.pid if self._process is not None else None

    @abstractmethod
    def prepare(self) -> None:
        """Write the configuration. Called before every start; must be quick and repeatable."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command that runs the engine in the foreground."""

    @abstractmethod
    def healthy(self) -> bool:
        """Whether the engine answers now; returns within about a second and never raises for a dead one."""

    def environment(self) -> dict[str, str]:
        """Variables the engine needs beyond those of the caller."""
        return {}

    def start(self) -> Self:
        """Start and wait until healthy.

        Raises:
            EngineStartError: It ended, or was not healthy within `start_timeout_s`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.prepare()
        environment = os.environ | self.environment()
        self._process = process.spawn(self.command(), log=self.log, environment=environment)
        deadline = time.monotonic() + self.start_timeout_s
        while not self.healthy():
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline:
                self.stop()
                cause = "no answer in time" if code is None else f"it ended with exit code {code}"
                raise EngineStartError(self.name, cause, self.log)
            time.sleep(0.1)
        return self

    def stop(self) -> None:
        """Stop and wait until the process is gone; harmless when it never ran."""
        if self._process is not None:
            process.end(self._process, grace_s=self.stop_grace_s)
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
