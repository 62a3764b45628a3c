"""I9: no process of a case grows beyond its bound, whatever is done to it.

The kernel keeps each process's peak of resident memory (VmHWM, proc(5)), so looking now and then sees what was between two
looks too; only the last seconds of a process that is killed are not seen.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Self

import psutil

from infra.local import process
from tests.faults.outcome import Outcome

LOOK_S = 2.0
# A word of the command → what the process is, and how many megabytes it may hold. Engines: what they are started with (a heap
# of 512; 1,000 and 1,800 of Flink's processes), and what a JVM holds beside that. A worker: its engines' libraries take up
# to 500, and what it holds of its topics must fit into as much again.
BOUNDS_MB = {
    "kafka.Kafka": ("broker", 1_024),
    "StandaloneSessionClusterEntrypoint": ("jobmanager", 1_600),
    "TaskManagerRunner": ("taskmanager", 2_400),
    "redis-server": ("redis", 256),
}
WORKER = ("worker", 1_024)


class MemoryWatch:
    """Looks at all processes of a rig while a case runs. A context manager; leaving it notes the invariant."""

    def __init__(self, mark: str, outcome: Outcome) -> None:
        self._mark = mark
        self._outcome = outcome
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)
        self.peaks_mb: dict[str, int] = {}
        self._above: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._outcome.counts |= {f"MB {name}": mb for name, mb in sorted(self.peaks_mb.items())}
        if self.peaks_mb:
            self._outcome.check("memory is bounded", holds=not self._above, came=self._above)

    def _watch(self) -> None:
        while not self._done.wait(LOOK_S):
            for one in process.marked(self._mark):
                # It may end while it is looked at.
                with contextlib.suppress(psutil.Error, OSError):
                    self.saw(" ".join(one.cmdline()), peak_mb(one.pid))

    def saw(self, command: str, mb: int) -> None:
        """Judge one process by its command and its peak so far."""
        name, bound_mb = next((b for word, b in BOUNDS_MB.items() if word in command), WORKER)
        self.peaks_mb[name] = max(mb, self.peaks_mb.get(name, 0))
        if mb > bound_mb:
            self._above.append(f"{name} {mb} MB, bound {bound_mb}: {command[:80]}")


def peak_mb(pid: int) -> int:
    """The peak of resident memory of a live process; 0 of one that has ended and was not reaped.

    Raises:
        OSError: there is no such process.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:")), 0)
