"""Kill -9 of the archiver between data file and commit, between commit and acknowledgement, and at random moments.

Injected: while events come, the archiver is killed by itself at its Nth commit, once before the catalog has it and once
after, N by the seed; then from outside at random moments. Must hold: whoever reads the lake meanwhile sees whole commits
and no event twice; in the end every acknowledged event is there once. Does not show: a catalog on another machine whose
answer is lost, a power cut, or the removal of the data files that no snapshot knows; nothing removes them.
"""

from __future__ import annotations

import time

from features.lake import Lake
from tests.faults import lake as must
from tests.faults.ledger import Sent
from tests.faults.meanwhile import Meanwhile
from tests.faults.stage import OFTEN, Stage, Worker
from tests.pipelines import toy

CHUNK = 40
RANDOM_KILLS = 2


def run(stage: Stage) -> None:
    """Kill at the two points, then anywhere."""
    stage.topics()
    table = f"{stage.case}_readings"
    stores = stage.stores
    Lake(stores)
    sections = [s.model_dump_json() for s in (stage.rig.kafka, stores, OFTEN)]
    with Reader(stage, table) as reader, Readings(stage) as events:
        for point in ("before", "after"):
            number = stage.dice.randint(1, 3)
            module = ("tests.faults.killed_commit", point, str(number), stage.case)
            worker = stage.run("archiver", *module, *sections)
            _await_death(stage, worker, point)
            stage.inject(f"kill -9 {point} commit {number}")
            if point == "before":
                left = must.orphans(stores, table)
                stage.outcome.check("it died behind a data file", holds=left > 0, came=left)
        worker = stage.start("archiver")
        for _ in range(RANDOM_KILLS):
            rows = _rows(stage, table)
            stage.until(lambda r=rows: _rows(stage, table) > r)  # type: ignore[misc]
            time.sleep(stage.dice.uniform(0.0, 0.6))
            worker.restart()
            stage.inject("kill -9 at a random moment")
    total = len(events.ids)
    stage.recovers("every row archived", lambda: _rows(stage, table) >= total, lambda: "not all")
    worker.stop()
    stage.outcome.check(
        "readers saw whole commits only", holds=not reader.wrong, came=reader.wrong[:2]
    )
    must.check_whole(stage, stores, table, events.ids)
    stage.outcome.counts |= {"looks": reader.looks, "orphans": must.orphans(stores, table)}


def _await_death(stage: Stage, worker: Worker, point: str) -> None:
    worker.wanted = False
    died = stage.until(lambda: not worker.alive)
    code = worker.process.poll()
    held = died is not None and code == -9
    stage.outcome.check("it was killed where it should be", holds=held, came=(point, code))


def _rows(stage: Stage, table: str) -> int:
    lake = Lake(stage.stores)
    return lake.rows(table) if lake.exists(table) else 0


class Readings(Meanwhile):
    """Readings in small chunks, each acknowledged. It alone uses the ledger."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(self._send, pause_s=0.1)
        self.ids: list[str] = []
        self._stage = stage

    def _send(self) -> None:
        first = len(self.ids)
        readings = [toy.reading(i) for i in range(first, first + CHUNK)]
        sent = [Sent(r.id, r.key, r.encode()) for r in readings]
        topic = f"{self._stage.case}.readings.valid"
        self._stage.ledger.produce(self._stage.rig.kafka, topic, sent)
        self.ids += [one.id for one in sent]


class Reader(Meanwhile):
    """Somebody who looks at the lake all the time."""

    def __init__(self, stage: Stage, table: str) -> None:
        super().__init__(self._look, pause_s=0.05)
        self.wrong: list[str] = []
        self.looks = 0
        self._lake, self._table = Lake(stage.stores), table

    def _look(self) -> None:
        if self._lake.exists(self._table):
            self.looks += 1
            if said := must.wrong_in(self._lake, self._table):
                self.wrong.append(said)
