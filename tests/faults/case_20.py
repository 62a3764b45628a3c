"""From four replicas to one, under as much load as there can be.

Injected, while requests are published as fast as Kafka acknowledges them: four replicas, one for each partition, are deployed
anew as one. Must hold: Serve ends three and leaves one, whose partitions go on; nothing is lost, nothing twice, the order of
each key is kept: I1 to I8. Does not show: what a rebalance costs on a machine with a processor for each replica.
"""

from __future__ import annotations

from tests.faults.meanwhile import Meanwhile
from tests.faults.served import served
from tests.faults.signed import signed
from tests.faults.stage import Stage

AT_ONCE = 500
# What is published faster than it is answered waits in the log; so much may, or the case would take its time from the next.
LAG_MAX = 20_000


def run(stage: Stage) -> None:
    """Deploy four, load, deploy one."""
    replicas, _ = signed(stage)
    with served(stage, replicas) as ray:
        ray.tell(replicas=4)
        deployment = ray.deploy()
        stage.recovers("four replicas work", lambda: ray.replicas() == 4, ray.replicas)
        asked = 0

        def step() -> None:
            nonlocal asked
            if asked % (20 * AT_ONCE) or replicas.lag() < LAG_MAX:
                replicas.ask(AT_ONCE, first=asked)
                asked += AT_ONCE

        with Meanwhile(step, pause_s=0.0):
            stage.until(lambda: asked >= 4 * AT_ONCE)
            # The worker would take the application down if it were told to stop.
            deployment.kill()
            ray.tell(replicas=1)
            before = asked
            deployment.restart()
            stage.inject("four replicas deployed anew as one, under load")
            stage.recovers("one replica is left", lambda: ray.replicas() == 1, ray.replicas)
        stage.outcome.counts["asked meanwhile"] = asked - before
        replicas.finish(within=lambda: not replicas.lag())
