"""Whether a version is asked at all: a circuit that opens when it fails too often (pure; the clock is an argument).

```
closed ──(rate of failed rows, or calls that ran out of time)──► open ──(wait)──► half open ──(probes pass)──► closed
                                                                  ▲                   │
                                                                  └──(a probe fails)──┘   the wait doubles
```
Nygard, Release It!, 2018, chapter 5.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from schemas.errors import HeadraceError


class BadPolicy(HeadraceError):
    """A breaker that could not open or close; it stops the start."""


@dataclass(frozen=True)
class BreakerPolicy:
    """When a circuit opens and closes.

    Attributes:
        rate_max: Share of failed rows at which it opens. A half: a poisonous entity never is that, a broken model soon.
        rows_min: Rows that must have been asked before a share means anything.
        batches_min: Batches in which rows must have failed: those of one entity come together out of a backlog, and one
            batch may hold nothing else. A model that is broken fails in the next one as well.
        window_s: How far back rows count.
        timeouts_max: Calls of the window without an answer in time at which it opens, whatever the rows: each costs all
            who wait the whole of the time. Not in a row, because one entity on which the model hangs is in some batches only.
        open_s: How long nobody asks; doubles with each failed probe.
        open_s_max: Up to this.
        probe_rows: Rows of a batch that are risked while half open.
        probes: Batches whose probes must pass before it closes.
    """

    rate_max: float = 0.5
    rows_min: int = 20
    batches_min: int = 2
    window_s: float = 30.0
    timeouts_max: int = 3
    open_s: float = 5.0
    open_s_max: float = 60.0
    probe_rows: int = 8
    probes: int = 3

    def __post_init__(self) -> None:
        if not 0.0 < self.rate_max <= 1.0:
            raise BadPolicy(
                "breaker, rate_max", wanted="a share in (0, 1]", came=f"{self.rate_max}"
            )
        for name in ("rows_min", "batches_min", "timeouts_max", "probe_rows", "probes"):
            if getattr(self, name) < 1:
                raise BadPolicy(
                    f"breaker, {name}", wanted="1 or more", came=f"{getattr(self, name)}"
                )
        if not (self.window_s > 0 and 0 < self.open_s <= self.open_s_max):
            came = f"{self.window_s}, {self.open_s}, {self.open_s_max}"
            raise BadPolicy(
                "breaker, times", wanted="window_s > 0 and 0 < open_s <= open_s_max", came=came
            )


class Circuit(StrEnum):
    """Whether a version is asked: always, never, or a little."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class _Call(NamedTuple):
    at_s: float
    rows: int
    failed: int
    timed_out: bool


class Breaker:
    """The circuit of one version. `admit`, then `record` what came of the rows that were admitted."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._calls: deque[_Call] = deque()
        self._rows = self._failed = self._failing = self._timeouts = self._passed = 0
        self._tried_s = self._opened_s = 0.0
        self._wait_s = policy.open_s
        self.state = Circuit.CLOSED

    def admit(self, rows: int, now_s: float) -> int:
        """How many of `rows` may be asked."""
        if self.state is Circuit.OPEN and now_s - self._tried_s >= self._wait_s:
            self.state, self._passed = Circuit.HALF_OPEN, 0
        if self.state is Circuit.OPEN:
            return 0
        return rows if self.state is Circuit.CLOSED else min(rows, self._policy.probe_rows)

    def open_for_s(self, now_s: float) -> float:
        """Since when it has not been closed; 0 while it is."""
        return 0.0 if self.state is Circuit.CLOSED else now_s - self._opened_s

    def record(self, rows: int, failed: int, now_s: float, *, timed_out: bool = False) -> None:
        """What came of a call: `failed` of `rows` have no score; `timed_out`, if it had to be ended.

        While open nothing is asked, and what is recorded then changes nothing.
        """
        if rows == 0 or self.state is Circuit.OPEN:
            return
        if self.state is Circuit.HALF_OPEN:
            self._probed(now_s, passed=not timed_out and failed < rows * self._policy.rate_max)
            return
        self._count(_Call(now_s, rows, failed, timed_out))
        while now_s - self._calls[0].at_s > self._policy.window_s:
            self._forget()
        if self._tripped():
            self._opened_s = now_s
            self._open(now_s, self._policy.open_s)

    def _count(self, call: _Call) -> None:
        self._calls.append(call)
        self._rows, self._failed = self._rows + call.rows, self._failed + call.failed
        self._failing += call.failed > 0
        self._timeouts += call.timed_out

    def _forget(self) -> None:
        old = self._calls.popleft()
        self._rows, self._failed = self._rows - old.rows, self._failed - old.failed
        self._failing -= old.failed > 0
        self._timeouts -= old.timed_out

    def _tripped(self) -> bool:
        policy = self._policy
        many = self._rows >= policy.rows_min and self._failed >= self._rows * policy.rate_max
        return (
            many and self._failing >= policy.batches_min
        ) or self._timeouts >= policy.timeouts_max

    def _probed(self, now_s: float, *, passed: bool) -> None:
        if not passed:
            self._open(now_s, min(self._wait_s * 2, self._policy.open_s_max))
            return
        self._passed += 1
        if self._passed >= self._policy.probes:
            self.state = Circuit.CLOSED

    def _open(self, now_s: float, wait_s: float) -> None:
        self.state, self._tried_s, self._wait_s = Circuit.OPEN, now_s, wait_s
        # What was before says nothing about a version that has come back.
        self._calls.clear()
        self._rows = self._failed = self._failing = self._timeouts = 0
