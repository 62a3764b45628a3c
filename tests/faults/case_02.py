"""Kill -9 of the scorer between the offsets of a batch and the return of its commit.

Injected, while requests go on: four kills when the offsets were sent and the commit was not asked for; six when it was, 0 to
5 ms later, so that some come before it is done and some after. Must hold: the batch is all or nothing, that is, with no
scorer running and no transaction open, exactly those requests have results that the committed offsets say were consumed; and
I1 to I8. Does not show: a broker that dies in the same moment (case 4).
"""

from __future__ import annotations

from tests.faults import invariants as must
from tests.faults.replicas import Replicas, dead_within
from tests.faults.stage import Stage

POINTS = ("offsets", "commit", "commit", "offsets", "commit") * 2


def run(stage: Stage) -> None:
    """Kill it ten times, and look at what is committed in between."""
    replicas = Replicas(stage)
    with replicas.asking():
        for point in POINTS:
            number = stage.dice.randint(0, 5) if point == "commit" else stage.dice.randint(1, 4)
            hurt = ("tests.faults.hurt_scorer", point, str(number), "SIGKILL")
            held = dead_within(replicas.start(*hurt, supervised=False))
            stage.outcome.check("it died at its commit", holds=held)
        stage.inject(f"{len(POINTS)} kills -9 of the scorer about its commit")
    topics = (replicas.requests, replicas.results)
    ended = stage.until(lambda: must.no_hanging_transaction(stage, *topics), 30)
    stage.outcome.check("the open transaction ends by itself", holds=ended is not None)
    stage.outcome.check("a batch is all or nothing", holds=replicas.offsets_agree())
    replicas.start()
    replicas.finish()
