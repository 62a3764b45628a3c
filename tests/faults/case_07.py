"""Every connection to the broker torn, every two seconds, for a minute.

Injected, while requests go on: `ss -K` of all TCP connections to the broker's port, of the scorer and of who asks. Must
hold: progress, that is, never longer without a committed result than it takes to give up a call that hangs (the client
ignores its timeout where the coordinator's connection was lost, librdkafka#5456) and to start once more; I1 to I8. Does not
show: a network that swallows packets without a word. Skipped where sockets may not be destroyed.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from itertools import pairwise

from schemas.group_offsets import OVERRUN_S
from serving.slot_producer import CALL_TIMEOUT_S
from tests.faults.outcome import Skipped
from tests.faults.replicas import Replicas, assigned_within
from tests.faults.stage import Stage
from tests.pipelines.records import committed

FOR_S, EVERY_S = 60.0, 2.0
# A call given up, and a replica that ended itself because it had to give up too many.
SILENCE_S_MAX = CALL_TIMEOUT_S + OVERRUN_S + 19.0


def run(stage: Stage) -> None:
    """Tear them."""
    if shutil.which("ss") is None:
        raise Skipped("there is no `ss`")
    replicas = Replicas(stage)
    scorer = replicas.start()
    torn = 0
    with replicas.asking():
        stage.outcome.check("it came to work", holds=assigned_within(scorer))
        began_s = time.time()
        while time.time() - began_s < FOR_S:
            due_s = time.time() + EVERY_S
            stage.until(lambda due_s=due_s: time.time() >= due_s)  # type: ignore[misc]
            torn += _tear(stage.rig.broker.port)
        ended_s = time.time()
    if not torn:
        raise Skipped("`ss -K` destroys no socket here")
    stage.inject(f"{torn} connections torn in {FOR_S:.0f} s")
    replicas.finish()
    silence_s = _longest_silence_s(stage, replicas.results, began_s, ended_s)
    held = silence_s < SILENCE_S_MAX
    stage.outcome.check("there is progress all along", holds=held, came=silence_s)
    stage.outcome.counts |= {"torn": torn, "longest silence ms": int(silence_s * 1000)}


def _tear(port: int) -> int:
    """Destroy the clients' ends of all connections; returns how many there were."""
    command = ["ss", "-H", "-K", "-t", "state", "established", "dport", "=", f":{port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return len(done.stdout.splitlines())


def _longest_silence_s(stage: Stage, topic: str, began_s: float, ended_s: float) -> float:
    times = (m.timestamp()[1] / 1000 for m in committed(stage.rig.kafka, topic))
    inside = [at_s for at_s in times if began_s < at_s < ended_s]
    marks = [began_s, *sorted(inside), ended_s]
    return max(later - earlier for earlier, later in pairwise(marks))
