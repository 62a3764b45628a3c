"""Kill -9 of the guard.

Injected, while requests and outcomes come: the guard is killed twice within some seconds of its work on one canary's trial, and
dies in the transaction of its verdict, before the commit or after it by lot. Must hold: what case 38 asks for; above all one
verdict a trial. Does not show: a canary that does harm (case 31).
"""

from __future__ import annotations

from tests.faults.loop import Loop
from tests.faults.stage import Stage

KILLS = 2
MOST_S = 3.0


def run(stage: Stage) -> None:
    """Kill it while a canary is on trial."""
    with Loop(stage) as loop:
        loop.order()
        for number in range(KILLS):
            loop.kill(
                "guard",
                lambda said: '"canary": "v' in said,
                MOST_S,
                after="it had seen a canary",
                dies_at="control.verdicts" if number == KILLS - 1 else "",
            )
        loop.settle()
        loop.check()
