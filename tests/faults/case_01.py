"""Kill -9 of the scorer in the middle of a batch, before the commit, twenty times.

Injected, while requests go on: ten kills from within, when the results of a batch are with the broker and its offsets are
not; ten from outside at random moments of the first half second with partitions. Must hold: I1 to I8, and so one result an
id for a `read_committed` reader. Does not show: a power cut; kill -9 keeps the page cache.
"""

from __future__ import annotations

import time

from tests.faults.replicas import Replicas, assigned_within, dead_within
from tests.faults.stage import Stage

LIVES = 20


def run(stage: Stage) -> None:
    """Twenty short lives, and a long one."""
    replicas = Replicas(stage)
    with replicas.asking():
        for life in range(LIVES):
            if life % 2:
                number = stage.dice.randint(1, 4)
                hurt = ("tests.faults.hurt_scorer", "produced", str(number), "SIGKILL")
                held = dead_within(replicas.start(*hurt, supervised=False))
                stage.outcome.check("it died in its transaction", holds=held)
                continue
            scorer = replicas.start(supervised=False)
            held = assigned_within(scorer)
            stage.outcome.check("it came to work", holds=held)
            time.sleep(stage.dice.uniform(0.0, 0.5))
            scorer.kill()
        stage.inject(f"{LIVES} kills -9 of the scorer, every other one inside a transaction")
    replicas.start()
    replicas.finish()
