"""Replicas that come and go every three seconds, for two minutes.

Injected, while requests go on beside a replica that stays: every 3 s one of three slots is filled, or emptied by SIGTERM or
kill -9. Must hold: what a stale generation commits is refused and answered by its successor: I1 to I8, none lost and none twice.
Does not show: Ray Serve's own hand in it (case 20).
"""

from __future__ import annotations

import time

from tests.faults.replicas import Replicas, assigned_within
from tests.faults.stage import Stage, Worker

FOR_S, EVERY_S = 120.0, 3.0
SLOTS = (1, 2, 3)


def run(stage: Stage) -> None:
    """Come and go."""
    replicas = Replicas(stage)
    stays = replicas.start()
    others: dict[int, Worker] = {}
    changes = 0
    with replicas.asking():
        stage.outcome.check("it came to work", holds=assigned_within(stays))
        began_s = time.monotonic()
        while time.monotonic() - began_s < FOR_S:
            due_s = time.monotonic() + EVERY_S
            _change(stage, replicas, others, stage.dice.choice(SLOTS))
            changes += 1
            stage.until(lambda due_s=due_s: time.monotonic() >= due_s)  # type: ignore[misc]
    stage.inject(f"a replica more or less every {EVERY_S:.0f} s, {changes} times")
    replicas.finish()
    given_up = sum(w.log.read_text().count("channel.transaction") for w in stage.workers)
    stage.outcome.counts |= {"changes": changes, "transactions given up": given_up}


def _change(stage: Stage, replicas: Replicas, others: dict[int, Worker], slot: int) -> None:
    worker = others.pop(slot, None)
    if worker is None:
        others[slot] = replicas.start(slot=slot)
    elif stage.dice.random() < 0.5:
        worker.stop()
    else:
        worker.wanted = False
        worker.kill()
