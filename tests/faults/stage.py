"""Where one case plays: a use case, topics, stores and workers of its own on the shared rig."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from subprocess import Popen
from typing import Any, Self

import msgspec
from pydantic import BaseModel

from features.settings import StoreSettings
from features.tile_row import encode
from features.tile_stream import Emitted, TileStream
from features.views import Plan, Service, View
from infra.local import process
from infra.local.engine import Engine
from infra.local.redis_server import RedisServer
from pipelines.settings import PipelineSettings
from schemas import topics
from tests.conftest import ROOT, stores_at
from tests.faults.harness import Rig
from tests.faults.ledger import Ledger, Sent
from tests.faults.outcome import Outcome
from tests.pipelines import toy

WITHIN_S = 180.0
SERVICE = "everything"
# The supervisor's first back-off.
RESTART_PAUSE_S = 0.5
# How many of (Kafka, stores, pipelines) a worker is given.
SECTIONS = {"intake": 1, "materializer": 2, "archiver": 3}
OFTEN = PipelineSettings(archive_interval_s=0.3)
Event = dict[str, Any]


class Worker:
    """A worker's process and its log; `folder` is the source it runs from."""

    def __init__(self, name: str, log: Path, command: Sequence[str], folder: Path = ROOT) -> None:
        self.name = name
        self.log = log
        self._folder = folder
        self._command = [sys.executable, "-m", *command]
        self.process = self._spawn()
        self.restarts = 0
        self.wanted = True

    def _spawn(self) -> Popen[bytes]:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return process.spawn(
            self._command, log=self.log, environment=environment, folder=self._folder
        )

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def kill(self) -> None:
        """Kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """A new process in its place."""
        if self.alive:
            self.kill()
        self.restarts += 1
        self.wanted = True
        self.process = self._spawn()

    def become(self, module: str) -> None:
        """Run this instead from the next restart on, with the arguments from the use case's name on."""
        words = self._command
        self._command = [*words[:2], module, *words[-5:]]

    def stop(self) -> None:
        """SIGTERM, as `headrace down` does it; nobody starts it again until `restart`."""
        self.wanted = False
        process.end(self.process, grace_s=15.0)

    def said(self, text: str) -> bool:
        """Whether its log, of all its lives, holds a text."""
        return self.log.exists() and text in self.log.read_text("utf-8", "replace")


def kill(engine: Engine) -> None:
    """Kill -9 of an engine and all its processes, and wait until they are gone; `start` brings it back."""
    if engine.pid is not None:
        os.killpg(engine.pid, signal.SIGKILL)
    engine.stop()


class HurtRedis(RedisServer):
    """A Redis with settings of a case's own, and whose process the case may signal."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        super().__init__(folder)
        self._settings = settings

    def command(self) -> list[str]:
        """The local stack's, and the case's settings behind it."""
        more = [part for key, value in self._settings.items() for part in (f"--{key}", value)]
        return [*super().command(), *more]


class Stage:
    """One case with one seed. A context manager: its workers end with it."""

    def __init__(self, rig: Rig, outcome: Outcome) -> None:
        self.rig = rig
        self.outcome = outcome
        self.dice = random.Random(outcome.seed * 1_000 + outcome.case)
        self.folder = rig.folder / f"case_{outcome.case}_{outcome.seed}"
        self.folder.mkdir()
        self.case = toy.register(f"fault{outcome.case}_{outcome.seed}")
        self.ledger = Ledger(self.folder / "ledger.jsonl")
        self.view = toy.view(self.case)
        service = Service(SERVICE, tuple((self.view.name, a.name) for a in self.view.aggregates))
        self.plan = Plan((self.view,), (service,))
        self.workers: list[Worker] = []
        self.store_changes: dict[str, object] = {}
        self._own_redis: HurtRedis | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.stop()
        if self._own_redis is not None:
            self._own_redis.stop()
        self.outcome.counts["restarts"] = sum(worker.restarts for worker in self.workers)
        self.outcome.counts["acknowledged"] = sum(map(len, self.ledger.acknowledged.values()))
        self.ledger.__exit__()

    @property
    def redis(self) -> RedisServer:
        """The rig's Redis, or one of the case's own after `own_redis`."""
        return self._own_redis or self.rig.redis

    def own_redis(self, **settings: str) -> RedisServer:
        """Start a Redis that this case may hurt; `settings` are its `--options`, with `_` for `-`."""
        given = {name.replace("_", "-"): value for name, value in settings.items()}
        self._own_redis = HurtRedis(self.folder / "redis", given).start()
        return self._own_redis

    @property
    def stores(self) -> StoreSettings:
        """A lake and a plan of its own, and a Redis under a project of its own."""
        stores = stores_at(self.folder, self.redis.url)
        return stores.model_copy(update={"project": self.case, **self.store_changes})

    def topics(self) -> None:
        """Create the use case's topics and the view's, and apply the plan."""
        topics.apply(self.rig.kafka, self.case)
        topics.create(self.rig.kafka, [topics.tile_topic(self.view.topic_out)])
        self.plan.save(self.stores.plan_path)

    def start(self, name: str, *sections: BaseModel) -> Worker:
        """Start a worker; `until` starts it again whenever it ends by itself."""
        given = sections or self._sections(name)
        words = [section.model_dump_json() for section in given]
        return self.run(name, "tests.pipelines.worker_process", name, self.case, *words)

    def run(self, name: str, *command: str, folder: Path = ROOT) -> Worker:
        """Start `python -m command…` as a worker."""
        number = sum(worker.name == name for worker in self.workers)
        worker = Worker(name, self.folder / f"{name}{number or ''}.log", command, folder)
        self.workers.append(worker)
        return worker

    def _sections(self, name: str) -> tuple[BaseModel, ...]:
        return (self.rig.kafka, self.stores, OFTEN)[: SECTIONS[name]]

    def events(self, count: int, first: int = 0, stations: int = 7) -> list[Event]:
        """Readings in order of time, about one in nine without a level; eighths, so that sums are exact."""
        dice = self.dice
        readings = [
            toy.reading(
                index,
                station=f"s{dice.randrange(stations)}",
                level=None if dice.random() < 0.11 else dice.randrange(-4_000, 40_000) / 8,
            )
            for index in range(first, first + count)
        ]
        return [reading.model_dump() for reading in readings]

    def tile_rows(self, events: Iterable[Event]) -> list[Emitted]:
        """What the stream job would emit for events in this order, from nothing."""
        return TileStream(self.view).push_all(events)

    def until(self, condition: Callable[[], bool], within_s: float = WITHIN_S) -> float | None:
        """Wait, and meanwhile be the supervisor: a worker that ended is started again.

        Returns:
            Seconds waited; None if the condition did not come true in time.
        """
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > within_s:
                return None
            time.sleep(0.1)
            for worker in self.workers:
                if worker.wanted and not worker.alive:
                    time.sleep(RESTART_PAUSE_S)
                    worker.restart()
        return time.monotonic() - began

    def recovers(
        self, name: str, condition: Callable[[], bool], came: Callable[[], object]
    ) -> None:
        """Check that an invariant comes true, and note how long that took."""
        waited_s = self.until(condition)
        if waited_s is not None:
            self.outcome.recovery_s[name] = round(waited_s, 2)
        held = waited_s is not None
        self.outcome.check(name, holds=held, came="" if held else came())

    def inject(self, what: str) -> None:
        """Note what is done to the platform."""
        self.outcome.injected.append(what)


def sent_row(view: View, emitted: Emitted) -> Sent:
    """A tile row as a record of the view's topic, keyed as Flink keys it."""
    keys, row = emitted
    place = {k.name: v for k, v in zip(view.join_keys, keys, strict=True)}
    key = msgspec.json.encode(place | {"tile": f"{row.hop_s}/{row.tile}"})
    value = msgspec.json.encode(encode(view, keys, row))
    return Sent(f"{key.decode()}#{row.n}", key, value)
