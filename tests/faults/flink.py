"""A Flink session cluster of a case's own, its job, and what the tiles must be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Self

from features.tile_row import TileRowDecoder
from features.views import View
from infra.local import process
from infra.local.flink import FlinkCluster
from pipelines.flink_jobs import FlinkUnavailable, SubmissionFailed, submit
from pipelines.flink_sql import job
from pipelines.job_health import JobHealth, job_health
from pipelines.recovery import WHOLE
from pipelines.settings import FlinkSettings
from tests.conftest import jars_folder
from tests.faults.ledger import Sent
from tests.faults.meanwhile import Meanwhile
from tests.faults.stage import Event, Stage, kill
from tests.pipelines import toy
from tests.pipelines.records import committed

# (station, hop, tile) → count, partials, the latest event time.
Tiles = dict[tuple[str, int, int], tuple[int, tuple[float, ...], int]]
REL = 1e-9
CHUNK = 10


class Cluster:
    """JobManager, TaskManager and the job of the case's view. A context manager."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.folder = stage.folder / "flink"
        connector = next((jars_folder() / "flink").glob("flink-sql-connector-kafka-*.jar"))
        cluster = FlinkCluster(
            self.folder,
            connector,
            rest_port=process.free_port(),
            rpc_port=process.free_port(),
            slots=2,
        )
        self.settings = FlinkSettings(
            rest_port=cluster.rest_port, connector_jar=str(connector), checkpoint_interval_s=0.5
        )
        self.jobmanager, self.taskmanager = cluster.engines()
        self.said: list[str] = []

    def __enter__(self) -> Self:
        try:
            self.jobmanager.start()
            self.taskmanager.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        kill(self.taskmanager)
        kill(self.jobmanager)

    def submit(self) -> str:
        """The view's job, as `headrace features apply` submits it; what was said of it."""
        self.said.clear()
        mine = job(self._stage.view, self._stage.rig.kafka, self.settings)

        def submitted() -> bool:
            try:
                submit([mine], self.settings, self.said.append, lasting=True)
            except (FlinkUnavailable, SubmissionFailed) as error:
                # A TaskManager registers anew with a JobManager that came back.
                self.said.append(str(error))
                return False
            return True

        if self._stage.until(submitted) is None:
            raise RuntimeError(f"the job was not submitted: {self.said[-1:]}")
        return self.said[-1]

    def health(self) -> JobHealth | None:
        """How the job is doing; None while nobody can say."""
        running = [one for one in job_health(self.settings) if one.state != "FAILED"]
        return running[0] if running else None

    def checkpoints(self) -> list[Path]:
        """The whole ones, oldest first."""
        homes = (self.folder / "checkpoints").glob(f"features/*/*/chk-*/{WHOLE}")
        return sorted((path.parent for path in homes), key=lambda p: (p / WHOLE).stat().st_mtime_ns)

    def torn(self) -> list[Path]:
        """Checkpoints that were begun and are not whole."""
        begun = (self.folder / "checkpoints").glob("features/*/*/chk-*")
        return [path for path in begun if not (path / WHOLE).exists()]

    def next_checkpoint(self) -> bool:
        """Wait for one more than there is now."""
        before = {*self.checkpoints()}
        return self._stage.until(lambda: bool({*self.checkpoints()} - before)) is not None


class Readings(Meanwhile):
    """Readings into a topic until the block ends, each acknowledged. It alone uses the ledger then."""

    def __init__(self, stage: Stage, topic: str) -> None:
        super().__init__(self._send, pause_s=0.1)
        self.events: list[Event] = []
        self._stage, self._topic = stage, topic

    def _send(self) -> None:
        more = self._stage.events(CHUNK, len(self.events))
        send(self._stage, self._topic, more)
        self.events += more


def send(stage: Stage, topic: str, events: list[Event]) -> None:
    """Readings into a topic, acknowledged."""
    readings = [toy.Reading.model_validate(event) for event in events]
    sent = [Sent(one.id, one.key, one.encode()) for one in readings]
    stage.ledger.produce(stage.rig.kafka, topic, sent)


def wanted_tiles(stage: Stage, events: list[Event]) -> Tiles:
    """Computed from the events alone, in process."""
    rows = stage.tile_rows(events)
    return {
        (str(key[0]), row.hop_s, row.tile): (row.n, row.partials, row.clock_ms) for key, row in rows
    }


def tiles(stage: Stage) -> Tiles:
    """The newest row of each key of the tile topic: what compaction leaves."""
    decoder = TileRowDecoder(stage.view)
    found: Tiles = {}
    for message in committed(stage.rig.kafka, stage.view.topic_out):
        decoded = decoder.decode(message.value())
        if decoded is not None:
            (station,), row = decoded
            found[str(station), row.hop_s, row.tile] = (row.n, row.partials, row.clock_ms)
    return found


def tile_differences(view: View, wanted: Tiles, came: Tiles) -> list[str]:
    """Where tiles are not what they must be."""
    wrong = [f"no tile {place}" for place in sorted(wanted.keys() - came.keys())]
    wrong += [f"a tile {place} of nothing" for place in sorted(came.keys() - wanted.keys())]
    for place in sorted(wanted.keys() & came.keys()):
        mine, other = wanted[place], came[place]
        same = all(
            (math.isnan(one) and math.isnan(two)) or math.isclose(one, two, rel_tol=REL)
            for one, two in zip(mine[1], other[1], strict=True)
        )
        if mine[0] != other[0] or mine[2] != other[2] or not same:
            wrong.append(f"{view.name} {place}: wanted {mine}, came {other}")
    return wrong


def check_tiles(stage: Stage, events: list[Event], after: str) -> None:
    """The tile topic becomes a batch recomputation of the events."""
    wanted = wanted_tiles(stage, events)
    stage.recovers(
        f"tiles equal a batch recomputation after {after}",
        lambda: not tile_differences(stage.view, wanted, tiles(stage)),
        lambda: tile_differences(stage.view, wanted, tiles(stage))[:2],
    )
    stage.outcome.counts |= {"events": len(events), "tiles": len(wanted)}
