"""The folder of checkpoints is full.

Injected, while events come: the folder is a tmpfs of a few MiB, and a file takes all that is left of it; then both
processes of Flink are killed, and started again after the file is gone. Must hold: the job's health tells that checkpoints
fail or that it restarts, while the folder is full; no checkpoint becomes whole then, and the older one is still there; from
it the job goes on, and the newest row of each tile is what a recomputation of all events gives. Does not show: a folder
that is full before the first checkpoint, or a remote one.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.flink import Cluster, Readings, check_tiles
from tests.faults.outcome import Skipped
from tests.faults.stage import Stage, kill

SIZE_MIB = 4
BLOCK = b"\0" * 4096


def run(stage: Stage) -> None:
    """Fill it, look, free it, go on."""
    stage.topics()
    cluster = Cluster(stage)
    folder = cluster.folder / "checkpoints"
    with _tmpfs(folder), cluster, Readings(stage, stage.view.topic) as readings:
        cluster.submit()
        stage.outcome.check("a checkpoint is taken", holds=cluster.next_checkpoint())
        ballast = _fill(folder)
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


@contextmanager
def _tmpfs(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise Skipped(f"no file system can be mounted here: {error}") from error
    if mounted.returncode:
        raise Skipped(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        # Lazily: a JVM that was just killed may still be letting go of it.
        subprocess.run(["umount", "-l", str(folder)], check=True)  # noqa: S607


def _fill(folder: Path) -> Path:
    """All of it, block by block, until the file system says that it is full."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(BLOCK)
        except OSError:
            return ballast
