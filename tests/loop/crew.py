"""All workers of the loop, each in a process that serves one run after the other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from infra.settings import Settings
from tests.conftest import ROOT
from tests.faults.sources import PACKAGES

WORKERS = ("intake", "scorer", "outcomes", "archiver", "drift", "trainer", "admission", "guard")
WITHIN_S, IMPORTS_S = 180.0, 600.0


class LoopBroke(AssertionError):
    """A worker failed, or something did not come about in time."""


class Host:
    """One worker's process, and what it reported last of the use case at hand."""

    def __init__(self, name: str, folder: Path, sources: Path) -> None:
        self.name = name
        self.said: dict[str, Any] = {}
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "tests.loop.host", name],
                cwd=sources,
                env=os.environ | {"PYTHONPATH": str(sources), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        reader.start()

    def tell(self, line: str) -> None:
        """Start the worker with a settings file, or stop it."""
        assert self._process.stdin is not None
        self.said = {}
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def leave(self) -> None:
        """Tell the process to end."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def close(self) -> None:
        """Wait until it has, or end it."""
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def failed(self) -> str | None:
        """Why it cannot go on."""
        if self._process.poll() is not None:
            return f"ended with {self._process.returncode}"
        return self.said.get("failed")

    def _read(self, source: IO[str]) -> None:
        for line in source:
            # What a library prints is not a report.
            if line.startswith("{"):
                self.said = {**self.said, **json.loads(line)}


class Crew:
    """The processes, and a copy of the platform's source in which they find the use cases of the runs."""

    def __init__(self, folder: Path, workers: Sequence[str] = WORKERS) -> None:
        self.folder = folder
        self._workers = workers
        self.sources = folder / "source"
        for package in PACKAGES:
            skipped = shutil.ignore_patterns("__pycache__", "target")
            shutil.copytree(ROOT / package, self.sources / package, ignore=skipped)
        self._hosts: dict[str, Host] = {}

    def __enter__(self) -> Self:
        for name in self._workers:
            self._hosts[name] = Host(name, self.folder, self.sources)
        try:
            self.until(
                "every worker's imports",
                lambda: all(h.said for h in self._hosts.values()),
                within_s=IMPORTS_S,
            )
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """End the processes."""
        for host in self._hosts.values():
            host.leave()
        for host in self._hosts.values():
            host.close()

    def start(self, settings: Settings) -> None:
        """All workers on a use case; returns when each has reported."""
        path = settings.data / "settings.json"
        settings.write(path)
        for host in self._hosts.values():
            host.tell(str(path))
        self.until("every worker at work", lambda: all(h.said for h in self._hosts.values()))

    def stop(self) -> None:
        """All workers, cleanly."""
        for host in self._hosts.values():
            host.tell("")
        self.until(
            "every worker stopped", lambda: all(h.said.get("stopped") for h in self._hosts.values())
        )

    def said(self, name: str) -> dict[str, Any]:
        """What a worker reported last."""
        return self._hosts[name].said

    def until(
        self,
        what: str,
        holds: Callable[[], bool],
        *,
        within_s: float = WITHIN_S,
        pause_s: float = 0.01,
    ) -> None:
        """Wait until something holds.

        Raises:
            LoopBroke: It does not, or a worker failed meanwhile.
        """
        deadline = time.monotonic() + within_s
        while not holds():
            for host in self._hosts.values():
                if host.failed:
                    raise LoopBroke(f"{host.name} failed, while {what} was awaited: {host.failed}")
            if time.monotonic() > deadline:
                raise LoopBroke(f"{what}: not within {within_s:.0f} s")
            time.sleep(pause_s)
