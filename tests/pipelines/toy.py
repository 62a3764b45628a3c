"""A use case that exists only here, so that deleting a real one leaves these tests green."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

from features.views import Aggregate, JoinKey, View
from schemas.events import Event, Id
from schemas.topics import standard_topics

if TYPE_CHECKING:
    from pydantic import BaseModel

ROOT = Path(__file__).parents[2]
START_MS = 1_700_000_000_000


class Reading(Event):
    """The level of the water at a station."""

    event_id: Id
    station: str
    level: float | None

    @property
    def id(self) -> str:
        return self.event_id

    @property
    def key(self) -> str:
        return self.station


class Question(Event):
    id_field: ClassVar[str] = "request_id"

    request_id: Id
    station: str

    @property
    def id(self) -> str:
        return self.request_id

    @property
    def key(self) -> str:
        return self.station


class Answer(Event):
    request_id: Id
    high: bool

    @property
    def id(self) -> str:
        return self.request_id

    @property
    def key(self) -> str:
        return self.request_id


def register(case: str) -> str:
    """Make `schemas.<case>` loadable; a case of its own keeps a test's topics apart on the shared broker."""
    module = ModuleType(f"schemas.{case}")
    module.__spec__ = ModuleSpec(module.__name__, loader=None)
    streams: dict[str, tuple[type[Event], int]] = {"readings": (Reading, 2)}
    topics = standard_topics(case, request=Question, outcome=Answer, streams=streams)
    module.TOPICS = topics  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    return case


def reading(index: int, *, station: str | None = None, level: float | None = 1.5) -> Reading:
    """A reading a second, taken by turns at seven stations."""
    where = station or f"s{index % 7}"
    at_ms = START_MS + index * 1_000
    return Reading(event_time_ms=at_ms, event_id=f"r{index}", station=where, level=level)


def view(case: str, *, window_s: int = 3_600, hop_s: int = 300) -> View:
    """Levels by station: count, mean, spread and the last."""
    aggregates = (
        Aggregate("count_level", "level", "count", window_s, hop_s),
        Aggregate("mean_level", "level", "mean", window_s, hop_s),
        Aggregate("std_level", "level", "std", window_s * 6, hop_s * 6),
        Aggregate("last_level", "level", "last", window_s * 6, hop_s * 6),
    )
    return View(
        name=f"{case}_levels",
        topic=f"{case}.readings.valid",
        table=f"{case}_readings",
        event_id_field="event_id",
        join_keys=(JoinKey("station"),),
        columns={"level": "double"},
        aggregates=aggregates,
    )


def worker(name: str, case: str, *sections: BaseModel) -> subprocess.Popen[bytes]:
    """Start a worker as a process of its own, so that it can be killed."""
    command = [sys.executable, "-m", "tests.pipelines.worker_process", name, case]
    return subprocess.Popen(
        [*command, *(section.model_dump_json() for section in sections)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
