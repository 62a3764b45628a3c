"""Partitions are added to topics that are in use.

Injected, while requests come over Kafka and through the front door: the results get six partitions instead of four, then the bulk
lane and the requests (`headrace topics grow`), beside two replicas. Must hold: requests in the new partitions are answered, also
at the door, by replicas that nobody restarted; nothing is lost, nothing twice; the order of a key is kept within a partition:
I1 to I8. That is all that is promised: where a key's hash falls into another partition from then on, what is left of it in the old
one may be answered after what came in the new one, and a producer that has not heard of the new partitions goes on as before: ours
for seconds, others for up to five minutes (`topic.metadata.refresh.interval.ms`). Does not show: an id that is sent again after its
key has moved, which is answered again: repeats are recognised within a partition.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from schemas import topics
from tests.faults import answers
from tests.faults.door import PATIENT, Door
from tests.faults.replicas import Replicas, assigned_within
from tests.faults.stage import Stage
from tests.pipelines.records import committed

PARTITIONS = 6
DOOR_FIRST = 1_000_000


def run(stage: Stage) -> None:
    """Grow, and go on."""
    replicas = Replicas(stage)
    scorers = [replicas.start(slot=slot) for slot in range(2)]
    door = Door(stage, **PATIENT)
    door.start()
    check = stage.outcome.check
    came = all(assigned_within(s) for s in scorers) and stage.until(door.ready) is not None
    check("they came to work", holds=came)
    with replicas.asking():
        stage.until(lambda: len(answers.results(stage)) > 200)
        module = sys.modules[f"schemas.{stage.case}"]
        more = {f"{stage.case}.{name}" for name in ("requests", "requests.bulk", "results")}
        module.TOPICS = tuple(  # type: ignore[attr-defined]
            replace(t, partitions=PARTITIONS) if t.name in more else t for t in module.TOPICS
        )
        grown = topics.grow(stage.rig.kafka, stage.case)
        stage.inject(f"{', '.join(grown)} grew to {PARTITIONS} partitions")
        check("requests grow last", holds=grown[-1] == replicas.requests and len(grown) == 3)
        stage.recovers(
            "new partitions are answered", lambda: _answered_in_new(stage), lambda: "they are not"
        )
    _knock(stage, door)
    stage.recovers("all answered", lambda: not replicas.lag(), lambda: "requests are left")
    answers.check(stage)
    replicas.check_log()
    restarts = [s.restarts for s in scorers]
    check("no replica restarted", holds=not any(restarts), came=restarts)


def _answered_in_new(stage: Stage) -> bool:
    found = {m.partition() for m in committed(stage.rig.kafka, f"{stage.case}.results")}
    return len(found) > 4


def _knock(stage: Stage, door: Door) -> None:
    """Until an answer came out of a new partition, or all stations were asked for long enough."""
    number = DOOR_FIRST

    def asked() -> bool:
        nonlocal number
        door.ask(range(number, number + 12))
        number += 12
        return number > DOOR_FIRST + 120

    stage.until(asked)
    held = set(door.statuses) == {200}
    stage.outcome.check("the door answers from all partitions", holds=held, came=door.statuses)
