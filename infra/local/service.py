"""`Service`: what the supervisor runs, and the state of each: a pure machine of phases with back-off.

```
waiting ──needs ready──► starting ──healthy──► ready ──exit──► backoff ──delay over──► waiting
                            │  └──step ended with 0──► ready (a step stays so until what it follows restarts)
                            └──exit, or too slow──► backoff
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

BACKOFF_S_MIN = 0.5
BACKOFF_S_MAX = 30.0
# A service that ran this long is not in a crash loop: its next restart is quick again.
STEADY_S = 60.0


class Phase(StrEnum):
    """Where a service stands."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"
    STOPPED = "stopped"


def _nothing() -> None:
    """A service without configuration of its own."""


@dataclass(frozen=True)
class Service:
    """A process to keep alive, or a step to bring to its end.

    Attributes:
        name: Unique in the stack.
        kind: An "engine" or "worker" runs on; a "step" ends.
        command: What to run.
        environment: Added to the supervisor's own.
        log: Receives its output.
        needs: Services that must be ready before it starts.
        follows: Services after whose restart it starts again.
        prepare: Called before every start.
        healthy: Whether it answers; asked while it starts, and of engines now and then. A step has none.
        start_timeout_s: After this a start counts as failed.
        stop_grace_s: Between SIGTERM and SIGKILL.
    """

    name: str
    kind: Literal["engine", "step", "worker"]
    command: Callable[[], list[str]]
    log: Path
    environment: Callable[[], Mapping[str, str]] = dict
    needs: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    prepare: Callable[[], None] = _nothing
    healthy: Callable[[], bool] = bool
    start_timeout_s: float = 120.0
    stop_grace_s: float = 15.0


@dataclass
class Status:
    """The state of one service. Times are of a monotonic clock, in seconds, given by the caller."""

    phase: Phase = Phase.WAITING
    since_s: float = 0.0
    restarts: int = 0
    failures: int = 0
    error: str = ""
    due_s: float = field(default=0.0, repr=False)

    def move(self, phase: Phase, now_s: float) -> None:
        """Enter a phase."""
        self.phase, self.since_s = phase, now_s

    def failed(self, error: str, now_s: float) -> None:
        """It ended, or did not come up: wait longer each time, unless it had run steadily."""
        if self.phase is Phase.READY and now_s - self.since_s >= STEADY_S:
            self.failures = 0
        self.failures += 1
        self.restarts += 1
        self.error = error
        self.due_s = now_s + backoff_s(self.failures)
        self.move(Phase.BACKOFF, now_s)

    def may_start(self, now_s: float, *, needs_ready: bool) -> bool:
        """Whether to start now."""
        if self.phase is Phase.BACKOFF and now_s >= self.due_s:
            self.move(Phase.WAITING, now_s)
        return self.phase is Phase.WAITING and needs_ready


def backoff_s(failures: int) -> float:
    """Seconds to wait before the next start after this many failures in a row (at least one)."""
    # The exponent is bounded too: 2.0 ** 2000 would overflow in a loop that never ends.
    return min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2.0 ** min(failures - 1, 16))
