"""The broker's disk is full, and then there is room again.

Injected, while requests come through the front door and beside it: the broker's folder is a small tmpfs, and a file takes all that
is left of it, until the broker ends; then the file goes, and the broker is started again, as its supervisor would. Must
hold: meanwhile the door answers 503 with Retry-After, and nothing else that would be a promise; whoever publishes without it is
told by its own producer; nothing acknowledged is lost, nothing is answered twice: I1 to I8. What was answered 503 may have been
taken: it is not lost, and asked again under the same id it is not answered twice. Does not show: a disk that comes back with
less on it.
"""

from __future__ import annotations

import time

from tests.faults import sent, small_disk
from tests.faults.door import Door
from tests.faults.harness import Rig
from tests.faults.meanwhile import Meanwhile
from tests.faults.replicas import Replicas, assigned_within
from tests.faults.stage import Stage

SIZE_MIB = 96
REFUSALS = 5
AFTER_S = 5.0


def run(stage: Stage) -> None:
    """Fill it, look, make room."""
    folder = stage.folder / "disk"
    with small_disk.mounted(folder, SIZE_MIB):
        # A broker of this case's own: the rig's has a disk that others need.
        own = Rig(folder)
        vars(own)["redis"] = stage.rig.redis
        stage.rig = own
        try:
            _play(stage)
        finally:
            for worker in stage.workers:
                worker.stop()
            if "broker" in vars(own):
                own.broker.stop()


def _play(stage: Stage) -> None:
    replicas = Replicas(stage)
    scorer = replicas.start()
    door = Door(stage, door_publish_timeout_ms=1_000)
    door.start()
    check = stage.outcome.check
    check("it came to work", holds=assigned_within(scorer) and stage.until(door.ready) is not None)
    first = 0

    def step() -> None:
        nonlocal first
        door.ask(range(first, first + 5))
        first += 5

    with Meanwhile(step, pause_s=0.05) as asking:
        stage.until(lambda: door.statuses[200] >= 20)
        ballast = small_disk.fill(stage.rig.broker.folder)
        stage.inject(f"the {SIZE_MIB} MiB of the broker's disk filled up")
        refused = stage.until(lambda: door.statuses[503] >= REFUSALS, within_s=60.0)
        check("the door answers 503", holds=refused is not None, came=dict(door.statuses))
        others = dict(door.statuses)
        full_s = time.monotonic()
        stage.until(lambda: time.monotonic() - full_s >= AFTER_S)
        stage.rig.broker.stop()
        ballast.unlink()
        stage.rig.broker.start()
        stage.inject("room again, and the broker with it")
        back_s = time.monotonic()
        before = door.statuses[200]
        waited = stage.until(lambda: door.statuses[200] > before + 20)
        check("the door opens again", holds=waited is not None, came=dict(door.statuses))
        stage.outcome.recovery_s["broker back to the door open"] = round(
            time.monotonic() - back_s, 2
        )
        asking.finish()
    lost_503 = [n for n in others if n not in (200, 503, 504)]
    check("nothing but 200, 503 and 504 meanwhile", holds=not lost_503, came=others)
    stage.recovers("all answered", lambda: not replicas.lag(), lambda: "requests are left")
    sent.check(stage, door.asked)
    replicas.check_log()
    stage.outcome.counts |= {f"status {n}": c for n, c in sorted(door.statuses.items())}
