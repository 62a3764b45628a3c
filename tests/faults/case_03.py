"""A scorer that sleeps beyond its session, inside a transaction, and wakes up as a zombie.

Injected: SIGSTOP of the scorer when the results of a batch are with the broker; once the group has given its partitions to
another replica, and that has answered everything, SIGCONT. Must hold: the zombie's commit fails, and it comes to terms with
that: it works on; I1 to I8. Does not show: a zombie whose slot was taken, which is fenced by its producer's epoch at once
(`test_a_second_replica_of_the_same_slot_fences_the_first`).
"""

from __future__ import annotations

import os
import signal
import time

from tests.faults import answers
from tests.faults.replicas import SESSION_TIMEOUT_MS, Replicas, stopped_within
from tests.faults.stage import Stage

WARMUP_S = 2.0


def run(stage: Stage) -> None:
    """Put it to sleep, replace it, wake it up."""
    replicas = Replicas(stage)
    number = str(stage.dice.randint(3, 8))
    zombie = replicas.start("tests.faults.hurt_scorer", "produced", number, "SIGSTOP")
    with replicas.asking():
        slept = stopped_within(zombie)
        stage.outcome.check("it sleeps in its transaction", holds=slept)
        stage.inject(f"SIGSTOP of the scorer in its transaction {number}")
        time.sleep(SESSION_TIMEOUT_MS / 1000 + 1)
    replicas.start(slot=1)
    stage.recovers("its successor answers", lambda: answers.answered(stage), lambda: "it does not")
    before = zombie.said("channel.transaction")
    os.kill(zombie.process.pid, signal.SIGCONT)
    stage.inject("SIGCONT of the zombie")
    refused = stage.until(lambda: zombie.said("channel.transaction"), 30)
    held = not before and refused is not None
    stage.outcome.check("the zombie's commit fails", holds=held, came=answers.log_of(zombie)[-300:])
    replicas.ask(400, first=1_000_000)
    replicas.finish()
    stage.outcome.check("the zombie lives on", holds=zombie.alive and not zombie.restarts)
