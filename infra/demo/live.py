"""The live view of a replay: a panel on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Self

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

if TYPE_CHECKING:
    from types import TracebackType

    from infra.demo.answers import Answers
    from infra.demo.replayer import Progress

REFRESH_S = 0.5
LINE_S = 10.0
# The latencies shown are those of the newest answers.
RECENT = 2_000


class LiveView:
    """Shows a replay while it runs. `update` is cheap: it draws at most twice a second."""

    def __init__(self, console: Console, progress: Progress, answers: Answers, total: int) -> None:
        self._console, self._progress, self._answers = console, progress, answers
        self._total = total
        self._drawn = 0.0
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.update(self._panel(), refresh=True)
            self._live.stop()

    def update(self) -> None:
        """Draw anew if it is time to."""
        now = time.monotonic()
        if now - self._drawn < (REFRESH_S if self._live else LINE_S):
            return
        self._drawn = now
        if self._live:
            self._live.update(self._panel(), refresh=True)
        else:
            self._console.print(" · ".join(f"{k} {v}" for k, v in self._figures().items()))

    def _figures(self) -> dict[str, str]:
        progress, answers = self._progress, self._answers
        seconds = time.monotonic() - progress.began
        quantiles = self._recent_ms()
        release = answers.release
        canary = (
            f" + {release.canary} {release.canary_share:.0%}" if release and release.canary else ""
        )
        answered = len(answers.arrivals)
        dead = sum(answers.dead_letters.values())
        return {
            "flown": _date(progress.clock_ms),
            "requests": f"{progress.requests:,} of {self._total:,}",
            "answered": f"{answered:,} ({progress.requests / max(seconds, 1e-9):,.0f}/s)",
            "lag": f"{max(progress.requests - answered - answers.dead_letters_of_requests, 0):,}",
            "latency p50/p99": f"{quantiles[0]:.0f}/{quantiles[1]:.0f} ms",
            "readable after": f"{_mean_ms(progress.barrier_s):.0f} ms",
            "dead letters": f"{dead}",
            "release": f"{release.champion}{canary}" if release else "none",
            "last alert": self._last_alert(),
            "loop": self._loop(),
        }

    def _recent_ms(self) -> tuple[float, float]:
        arrivals = self._answers.arrivals
        sent = self._progress.sent_at
        newest = list(islice(reversed(list(sent.items())), RECENT))
        waited = [(arrivals[i] - at) * 1000 for i, at in newest if i in arrivals]
        if not waited:
            return 0.0, 0.0
        return float(np.percentile(waited, 50)), float(np.percentile(waited, 99))

    def _last_alert(self) -> str:
        alerts = self._answers.alerts
        if not alerts:
            return "none"
        alert = alerts[-1]
        kinds = ", ".join(kind.value for kind in alert.kinds)
        return f"{_date(alert.window_end_ms)}: {kinds} ({len(alert.drifted)} columns)"

    def _loop(self) -> str:
        answers = self._answers
        if answers.open_order:
            return "retraining; event time is held"
        if answers.verdicts:
            verdict = answers.verdicts[-1]
            return f"{verdict.verdict.value} {verdict.candidate}"
        return "watching"

    def _panel(self) -> Panel:
        table = Table.grid(padding=(0, 2))
        for name, figure in self._figures().items():
            table.add_row(f"[dim]{name}[/dim]", figure)
        return Panel(Group(table), title="headrace · New York flights, 2013", width=72)


def _date(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%d %b %H:%M")


def _mean_ms(seconds: list[float]) -> float:
    recent = seconds[-200:]
    return 1000 * sum(recent) / len(recent) if recent else 0.0
