"""The broker killed while a scorer is inside a transaction, and brought back after a while."""

from __future__ import annotations

import os
import signal
import time

from tests.faults.replicas import Replicas, stopped_within
from tests.faults.stage import Stage, kill

# Requests go on after the broker is back, so that it is seen to work.
AFTER_S = 3.0


def play(stage: Stage, down_s: float) -> None:
    """Kill, wait, restart, and let everything be answered. The scorer has a supervisor all along."""
    replicas = Replicas(stage)
    number = str(stage.dice.randint(3, 8))
    scorer = replicas.start("tests.faults.hurt_scorer", "produced", number, "SIGSTOP")
    with replicas.asking():
        stopped = stopped_within(scorer)
        stage.outcome.check("the scorer is inside a transaction", holds=stopped)
        kill(stage.rig.broker)
        os.kill(scorer.process.pid, signal.SIGCONT)
        # From now on as any other: what the supervisor starts again must not stop itself.
        scorer.become("tests.faults.scored")
        stage.inject(f"kill -9 of the broker in transaction {number}; restart after {down_s:.0f} s")
        began_s = time.monotonic()
        stage.until(lambda: time.monotonic() - began_s >= down_s)
        stage.rig.broker.start()
        back_s = time.monotonic()
        stage.until(lambda: time.monotonic() - back_s >= AFTER_S)
    replicas.finish()
    stage.outcome.recovery_s["broker back to all answered"] = round(time.monotonic() - back_s, 2)
