"""Ray loses a process: a replica, the controller, the front door, all of it.

Injected, while requests go on over Kafka and through the front door: kill -9 of a replica; of Serve's controller; of the door,
which is the proxy here (Ray's own is not started: requests come through Kafka); SIGTERM of all of the head, which is what `ray
stop` sends, to the processes of this head only; then the head is started again, as its supervisor would. Must hold: each time
requests are answered again, or the worker ends with an error for its supervisor to start it again; nothing is lost, nothing
twice: I1 to I8. Does not show: a cluster of several nodes, or the loss of the node's own agent.
"""

from __future__ import annotations

import time

from tests.faults import answers
from tests.faults.door import Door
from tests.faults.meanwhile import Meanwhile
from tests.faults.replicas import Replicas
from tests.faults.served import Served, served
from tests.faults.signed import signed
from tests.faults.stage import Stage, Worker

DOOR_FIRST = 10_000_000
WITHIN_S = 120.0


class Both:
    """Requests by both ways, in one thread: the ledger is one's at a time."""

    def __init__(self, stage: Stage, replicas: Replicas, door: Door) -> None:
        self._replicas, self._door, self._stage = replicas, door, stage
        self.over_kafka, self.through = 0, DOOR_FIRST

    def step(self) -> None:
        """A few of each."""
        self._replicas.ask(20, first=self.over_kafka)
        self.over_kafka += 20
        self._door.ask(range(self.through, self.through + 5))
        self.through += 5


def run(stage: Stage) -> None:
    """One loss after another."""
    replicas, _ = signed(stage)
    with served(stage, replicas) as ray:
        ray.tell(replicas=2)
        deployment = ray.deploy()
        door = Door(stage, door_answer_timeout_ms=500)
        knocker = door.start()
        both = Both(stage, replicas, door)
        replicas.ask(20, first=0)
        both.over_kafka = 20
        stage.recovers("it came to work", lambda: ray.replicas() == 2 and _answered(stage), _what)
        with Meanwhile(both.step, pause_s=0.1):
            for name, title in (("replica", "ServeReplica:"), ("controller", "ServeController")):
                stage.outcome.check(f"there is a {name}", holds=ray.kill(title))
                stage.inject(f"kill -9 of the {name}")
                _recovers(stage, ray, name)
            knocker.kill()
            stage.inject("kill -9 of the door")
            stage.recovers("after the door: it opens again", door.ready, _what)
            _head_stops(stage, ray, deployment)
        asked = door.asked | set(stage.ledger.acknowledged[replicas.requests].values())
        stage.recovers("all answered", lambda: not replicas.lag(), replicas.lag)
        answers.check(stage, asked)
        replicas.check_log()
        stage.outcome.counts |= {f"status {n}": c for n, c in sorted(door.statuses.items())}


def _head_stops(stage: Stage, ray: Served, deployment: Worker) -> None:
    before = deployment.restarts
    ray.head.stop()
    stage.inject("SIGTERM of the head, as `ray stop` sends it")
    ended = stage.until(
        lambda: deployment.restarts > before or not deployment.alive, within_s=WITHIN_S
    )
    stage.outcome.check("the worker ends for its supervisor", holds=ended is not None)
    ray.head.start()
    _recovers(stage, ray, "head")


def _recovers(stage: Stage, ray: Served, name: str) -> None:
    """Two replicas, and answers to what is asked from now on."""
    began_s, came = time.monotonic(), _count(stage)
    stage.recovers(
        f"after the {name}: two replicas answer",
        lambda: ray.replicas() == 2 and _count(stage) > came + 40,
        lambda: (ray.replicas(), _count(stage) - came, time.monotonic() - began_s),
    )


def _count(stage: Stage) -> int:
    return len(answers.results(stage))


def _answered(stage: Stage) -> bool:
    return answers.answered(stage)


def _what() -> str:
    return "not in time"
