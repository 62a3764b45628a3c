"""Kill -9 of the Faust worker that joins outcomes.

Injected, while requests and outcomes come, each outcome a little before or after its result, and some of requests that
nobody made: the worker is killed three times within some seconds of its work. Must hold: what case 38 asks for; above all every
result that has an outcome is joined, repeats say the same, and nothing is joined that nobody asked. Does not show: outcomes
that come days later, or one that says something else than an earlier one (`tests/monitoring/test_outcomes.py`).
"""

from __future__ import annotations

from tests.faults.loop import Loop
from tests.faults.stage import Stage

KILLS = 3
MOST_S = 4.0


def run(stage: Stage) -> None:
    """Kill it at random moments."""
    with Loop(stage) as loop:
        loop.order()
        for _ in range(KILLS):
            loop.kill("outcomes", _joins, MOST_S, after="its first joined row")
        loop.settle()
        loop.check()


def _joins(said: str) -> bool:
    return '"joined": ' in said.replace('"joined": 0,', "")
