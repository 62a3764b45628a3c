"""Kill -9 of the trainer.

Injected, while requests and outcomes come: the trainer is killed three times while it works on one order, each time within
a second after its training process has come to a drawn point (starting, reading, fitting, converting, measured); then it
dies in the transaction of its answer, before the commit or after it by lot. Must hold: the order is answered by one
candidate, there is one version of it and nothing half done beside it, its training processes are gone; the candidate becomes
the champion, by one verdict of the gate and one of the guard, and everybody agrees on it: the releases, the folders, the
answers, the joined rows, the record; I1 to I8. Does not show: a machine that goes down, or a lake on another.
"""

from __future__ import annotations

import psutil

from tests.faults.loop import Loop
from tests.faults.stage import Stage

POINTS = ("starting", ("reading the lake", "going on with"), "fitting", "converting", "held-out")
KILLS = 3
MOST_S = 0.7
ENDS_S = 20.0


def run(stage: Stage) -> None:
    """Kill it at three points of five."""
    with Loop(stage) as loop:
        loop.order()
        for number, point in enumerate(stage.dice.sample(POINTS, KILLS), 1):
            last = number == KILLS
            words = (point,) if isinstance(point, str) else point
            loop.kill(
                "trainer",
                lambda said, words=words: any(word in said for word in words),  # type: ignore[misc]
                MOST_S,
                after=repr(words[0]),
                dies_at="control.candidates" if last else "",
            )
        loop.settle()
        loop.check()
    trains = [p for p in psutil.process_iter() if _trains(p, str(stage.folder))]
    # The last trainer is stopping by now, and ends the one that it kept ready.
    _, left = psutil.wait_procs(trains, timeout=ENDS_S)
    stage.outcome.check("no training process is left", holds=not left, came=[p.pid for p in left])


def _trains(process: psutil.Process, folder: str) -> bool:
    try:
        return "pipelines.train_process" in process.cmdline() and process.cwd().startswith(folder)
    except psutil.Error:
        return False
