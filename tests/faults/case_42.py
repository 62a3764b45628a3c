"""Kill -9 of the drift worker.

Injected, while requests and outcomes come of a world in which the champion is of no use any more: the drift worker is killed
three times within some seconds of its work, and dies in the transaction of its next alert, before the commit or after it by
lot. Must hold: what case 38 asks for, and it is the worker that orders; every window has one line; no window is
alerted twice. Does not show: a worker whose reports are on a disk that is full.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from monitoring.report_index import lines_of
from tests.faults.loop import Loop
from tests.faults.loop_world import DAY_MS
from tests.faults.stage import Stage

KILLS = 3
MOST_S = 6.0


def run(stage: Stage) -> None:
    """Kill it at random moments."""
    with Loop(stage, drift=True) as loop:
        for number in range(KILLS):
            loop.kill(
                "drift",
                lambda said: '"windows"' in said,
                MOST_S,
                after="it had come to work",
                dies_at="control.alerts" if number == KILLS - 1 else "",
            )
        loop.settle()
        loop.check()
        alerts = Counter(a["window_start_ms"] for a in loop.said()["control.alerts"])
    twice = [start for start, count in alerts.items() if count > 1]
    stage.outcome.check("no window is alerted twice", holds=not twice, came=twice)
    folder = Path(loop.settings.monitoring.reports_dir) / stage.case
    lines = [line.window_start_ms for line in lines_of(folder)]
    whole = list(range(min(lines), max(lines) + 1, DAY_MS))
    stage.outcome.check(
        "one line a window, none left out", holds=sorted(lines) == whole, came=lines
    )
    stage.outcome.counts |= {"windows": len(lines), "alerts": sum(alerts.values())}
