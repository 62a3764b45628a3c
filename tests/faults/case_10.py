"""Kill -9 of Flink's TaskManager, of its JobManager, and of both in the middle of a checkpoint.

Injected, while events come: kill -9 of the TaskManager; of the JobManager, whose jobs are then submitted again as the
stack submits them; of both, while a checkpoint is begun and not whole. Must hold: the job that comes back starts from a
whole checkpoint; the newest row of each tile is what a recomputation of all events gives; rings made of them read as
the oracle says. Does not show: a checkpoint on a file system that lies about what it has written (kill -9 keeps the page
cache), a cluster with more than one TaskManager, or Kafka retention that overtakes the newest checkpoint.
"""

from __future__ import annotations

import time

from tests.faults import invariants as must
from tests.faults.flink import Cluster, Readings, check_tiles
from tests.faults.stage import Stage, kill

CHECKPOINT_WITHIN_S = 60.0


def run(stage: Stage) -> None:
    """Kill one, the other, and both."""
    stage.topics()
    topic = stage.view.topic
    with Cluster(stage) as cluster, Readings(stage, topic) as readings:
        cluster.submit()
        stage.start("materializer")
        stage.outcome.check("a checkpoint is taken", holds=cluster.next_checkpoint())

        time.sleep(stage.dice.uniform(0.0, 1.0))
        kill(cluster.taskmanager)
        stage.inject("kill -9 of the TaskManager")
        cluster.taskmanager.start()
        _goes_on(stage, cluster, "the TaskManager was killed")

        time.sleep(stage.dice.uniform(0.0, 1.0))
        kill(cluster.jobmanager)
        stage.inject("kill -9 of the JobManager")
        cluster.jobmanager.start()
        _from_checkpoint(stage, cluster.submit())
        _goes_on(stage, cluster, "the JobManager was killed")

        _kill_mid_checkpoint(stage, cluster)
        cluster.jobmanager.start()
        cluster.taskmanager.start()
        _from_checkpoint(stage, cluster.submit())
        _goes_on(stage, cluster, "both were killed")
        readings.finish()
        check_tiles(stage, readings.events, "all of it")
    wanted = must.truth(stage, readings.events)
    wrong: list[str] = []

    def right() -> bool:
        wrong[:] = must.differences(stage, wanted)
        return not wrong

    stage.recovers("rings equal the oracle", right, lambda: wrong[:2])
    tile_topic, group = stage.view.topic_out, must.materializer_group(stage)
    stage.recovers(
        "lag 0", lambda: must.lag(stage, group, tile_topic) == 0, lambda: "rows are left"
    )
    held = must.topic_holds_ledger(stage, topic) and must.no_hanging_transaction(
        stage, topic, tile_topic
    )
    stage.outcome.check("the topic holds what was acknowledged, nothing hangs", holds=held)


def _goes_on(stage: Stage, cluster: Cluster, after: str) -> None:
    """Checkpoints are taken again: the job runs, and all of it."""
    waited_s = time.monotonic()
    came = cluster.next_checkpoint()
    stage.outcome.recovery_s[after] = round(time.monotonic() - waited_s, 2)
    stage.outcome.check("the job goes on", holds=came, came=after)


def _from_checkpoint(stage: Stage, said: str) -> None:
    held = said.endswith("from its checkpoint")
    stage.outcome.check("it starts from a checkpoint", holds=held, came=said)


def _kill_mid_checkpoint(stage: Stage, cluster: Cluster) -> None:
    """Look until one is begun and not whole, and kill the JobManager before it can complete it."""
    until_s = time.monotonic() + CHECKPOINT_WITHIN_S
    while time.monotonic() < until_s and not cluster.torn():
        time.sleep(0.001)
    kill(cluster.jobmanager)
    kill(cluster.taskmanager)
    torn = len(cluster.torn())
    stage.inject(f"kill -9 of both, {torn} checkpoints begun and not whole")
    stage.outcome.counts["torn checkpoints"] = torn
    if not torn:
        stage.outcome.not_covered.append("no checkpoint was under way when both were killed")
