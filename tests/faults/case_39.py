"""Kill -9 of admission.

Injected, while requests and outcomes come: admission is killed twice while it judges a candidate, and dies in the transaction
of its verdict, before the commit or after it by lot; it is killed once while it writes the registry for people, and once when
the guard has spoken. Must hold: what case 38 asks for, from a scorer that loads only what admission has signed; MLflow's
aliases are those of the release in force. Does not show: a candidate that is refused, or an operator who releases at the same
moment (`tests/serving/test_admission.py`).
"""

from __future__ import annotations

from tests.faults.loop import CHAMPION, Loop
from tests.faults.stage import Stage

JUDGING_KILLS = 2
# A trial takes two seconds, a registry that is made ten, a release after a verdict a fifth of one.
JUDGING_S, SHOWING_S, OBEYING_S = 2.0, 8.0, 0.3


def run(stage: Stage) -> None:
    """Kill it at each of its three pieces of work."""
    with Loop(stage, registry=True) as loop:
        loop.order()
        for number in range(1, JUDGING_KILLS + 1):
            loop.kill(
                "admission",
                lambda said: '"waiting": 1' in said,
                JUDGING_S,
                after="a candidate waited",
                dies_at="control.verdicts" if number == JUDGING_KILLS else "",
            )
        loop.kill(
            "admission",
            lambda _: loop.release["epoch"] > 1,
            SHOWING_S,
            after="a canary was released",
        )
        loop.kill(
            "admission",
            lambda _: len(loop.said()["control.verdicts"]) > 1,
            OBEYING_S,
            after="the guard had spoken",
        )
        loop.settle()
        loop.check()
        wanted = {"champion": loop.release["champion"], "archived": CHAMPION}
        stage.recovers(
            "the registry's aliases are those of the release",
            lambda: loop.aliases() == wanted,
            loop.aliases,
        )
