"""The world of the loop's cases: what is asked and what comes of it, in the lake beforehand and sent in order.

The use case is `looped/`. What comes of a request is decided by `level`; the champion was trained when `slope` decided it.
"""

from __future__ import annotations

import random
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa

from features.inputs import input_names, matrix
from features.lake import Lake
from features.lake_schema import lake_schema, with_coordinates
from features.settings import StoreSettings
from pipelines.training_set import Rows, TrainingSet
from tests.faults.ledger import Sent, idempotent
from tests.faults.meanwhile import Meanwhile
from tests.faults.stage import SERVICE, Stage

HERE = Path(__file__).parent
LAYERS = ("schemas", "serving", "pipelines", "monitoring")
DAY_MS, HOUR_MS = 86_400_000, 3_600_000
# 600 requests a day of the stream's time, twenty days of them in the past; it ends on a window's edge.
STEP_MS = DAY_MS // 600
PAST_ROWS, ALL_ROWS = 12_000, 60_000
# Of the past, what the champion was not fitted on.
HELD_FROM = 8_000
BEGIN_MS = 19_680 * DAY_MS - PAST_ROWS * STEP_MS
STATIONS = 997
# A burst of so many requests, at most five times a second.
BURST, BURST_S = 20, 0.2


def register(case: str) -> ModuleType:
    """Make the use case loadable in this process; returns its `schemas`."""
    for layer in LAYERS:
        spec = spec_from_file_location(f"{layer}.{case}", HERE / "looped" / f"{layer}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[spec.name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[spec.name])
    return sys.modules[f"schemas.{case}"]


class World:
    """Requests `q0` … and what comes of them: by the level now, by the slope when the champion was trained."""

    def __init__(self, seed: int) -> None:
        dice = np.random.default_rng(seed)
        self.inputs = dice.normal(size=(ALL_ROWS, 2))
        noise = 0.3 * dice.normal(size=ALL_ROWS)
        self.now, self.once = (self.inputs[:, n] + noise > 0.7 for n in (0, 1))

    def at_ms(self, n: int) -> int:
        """When it is asked."""
        return BEGIN_MS + n * STEP_MS

    def fill(self, stores: StoreSettings, case: str, contracts: ModuleType) -> None:
        """Put all of it into the lake, what will be sent too: as if an archiver were quick."""
        lake = Lake(stores)
        times = BEGIN_MS + np.arange(ALL_ROWS) * STEP_MS
        ids = [f"q{n}" for n in range(ALL_ROWS)]
        asked = {
            "event_time_ms": times,
            "request_id": ids,
            "station": [f"s{n % STATIONS}" for n in range(ALL_ROWS)],
            "level": self.inputs[:, 0],
            "slope": self.inputs[:, 1],
        }
        known = {"event_time_ms": times + HOUR_MS, "request_id": ids, "late": self.now}
        lake.create(f"{case}_readings", lake_schema(contracts.Reading))
        for name, contract, columns in (
            ("requests", contracts.Asked, asked),
            ("outcomes", contracts.Known, known),
        ):
            schema = lake_schema(contract)
            lake.create(f"{case}_{name}", schema)
            table = pa.table(columns)
            whole = with_coordinates(table, ingest_ms=table["event_time_ms"])
            lake.append(f"{case}_{name}", whole.select(schema.names).cast(schema))

    def as_it_was(self, stage: Stage, contracts: ModuleType) -> TrainingSet:
        """What the champion was trained on."""
        return TrainingSet(
            case=stage.case,
            service=SERVICE,
            inputs=input_names(contracts.INPUTS, stage.plan.service(SERVICE).names),
            train=self._rows(contracts, range(HELD_FROM)),
            holdout=self._rows(contracts, range(HELD_FROM, PAST_ROWS)),
            since_ms=BEGIN_MS,
            until_ms=self.at_ms(PAST_ROWS),
            definitions=stage.plan.definitions(SERVICE),
            snapshots={},
        )

    def _rows(self, contracts: ModuleType, some: range) -> Rows:
        inputs = {"level": self.inputs[some, 0].tolist(), "slope": self.inputs[some, 1].tolist()}
        return Rows(
            matrix(contracts.INPUTS, inputs, np.zeros((len(some), 1))),
            self.once[some],
            np.array([self.at_ms(n) for n in some]),
            np.array([f"q{n}" for n in some], dtype=object),
        )


class Traffic(Meanwhile):
    """Requests in order, each with its outcome a little before or after it, and outcomes of requests that nobody made.

    It alone uses the ledger.
    """

    def __init__(self, stage: Stage, world: World, contracts: ModuleType) -> None:
        super().__init__(self._burst, pause_s=BURST_S)
        self.sent = PAST_ROWS
        self._stage, self._world, self._contracts = stage, world, contracts
        # Of its own, so that the case's draws do not depend on how far it has come.
        self._dice = random.Random(stage.outcome.seed)
        self._producer = idempotent(stage.rig.kafka)

    def _burst(self) -> None:
        some = range(self.sent, min(self.sent + BURST, ALL_ROWS))
        both = [self._requests, self._outcomes]
        self._dice.shuffle(both)
        for send in both:
            send(some)
        self.sent = some.stop

    def _requests(self, some: range) -> None:
        world, contract = self._world, self._contracts.Asked
        asked = [
            contract(
                event_time_ms=world.at_ms(n),
                request_id=f"q{n}",
                station=f"s{n % STATIONS}",
                level=float(world.inputs[n, 0]),
                slope=float(world.inputs[n, 1]),
            )
            for n in some
        ]
        self._send("requests", [Sent(a.id, a.key, a.encode()) for a in asked])

    def _outcomes(self, some: range) -> None:
        world, contract = self._world, self._contracts.Known
        names = {f"q{n}": n for n in some} | {f"nobody-{some.start}": some.start}
        known = [
            contract(
                event_time_ms=world.at_ms(n) + HOUR_MS, request_id=name, late=bool(world.now[n])
            )
            for name, n in names.items()
        ]
        self._send("outcomes.valid", [Sent(k.id, k.key, k.encode()) for k in known])

    def _send(self, name: str, sent: list[Sent]) -> None:
        stage = self._stage
        stage.ledger.produce(stage.rig.kafka, f"{stage.case}.{name}", sent, self._producer)
