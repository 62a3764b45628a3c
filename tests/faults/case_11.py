"""The folder of checkpoints is full.

Injected, while events come: the folder is a tmpfs of a few MiB, and a file takes all that is left of it; then both
processes of Flink are killed, and started again after the file is gone. Must hold: the job's health tells that checkpoints
fail or that it restarts, while the folder is full; no checkpoint becomes whole then, and the older one is still there; from
it the job goes on, and the newest row of each tile is what a recomputation of all events gives. Does not show: a folder
that is full before the first checkpoint, or a remote one.
"""

from __future__ import annotations

from tests.faults import small_disk
from tests.faults.flink import Cluster, Readings, check_tiles
from tests.faults.stage import Stage, kill

SIZE_MIB = 4


def run(stage: Stage) -> None:
    """Fill it, look, free it, go on."""
    stage.topics()
    cluster = Cluster(stage)
    folder = cluster.folder / "checkpoints"
    with (
        small_disk.mounted(folder, SIZE_MIB),
        cluster,
        Readings(stage, stage.view.topic) as readings,
    ):
        cluster.submit()
        stage.outcome.check("a checkpoint is taken", holds=cluster.next_checkpoint())
        ballast = small_disk.fill(folder)
        stage.inject(f"the {SIZE_MIB} MiB of the checkpoints' folder filled up")
        older = cluster.checkpoints()
        stage.recovers("it fails visibly", lambda: _fails(cluster), cluster.health)
        health = cluster.health()
        stage.outcome.counts["checkpoints failed"] = (health and health.checkpoints_failed) or 0
        newer = [path for path in cluster.checkpoints() if path not in older]
        stage.outcome.check("none becomes whole meanwhile", holds=not newer, came=newer)
        kill(cluster.taskmanager)
        kill(cluster.jobmanager)
        stage.inject("kill -9 of both processes, and room again")
        ballast.unlink()
        stage.outcome.check("the older one is there", holds=bool(cluster.checkpoints()))
        cluster.jobmanager.start()
        cluster.taskmanager.start()
        said = cluster.submit()
        held = said.endswith("from its checkpoint")
        stage.outcome.check("it starts from the older checkpoint", holds=held, came=said)
        stage.outcome.check("checkpoints are taken again", holds=cluster.next_checkpoint())
        readings.finish()
        check_tiles(stage, readings.events, "there was room again")


def _fails(cluster: Cluster) -> bool:
    health = cluster.health()
    return health is not None and (
        (health.checkpoints_failed or 0) > 0 or (health.restarts or 0) > 0
    )
