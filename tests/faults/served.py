"""A case's scorers on a real Ray head, deployed by the real worker: for what is done to Ray itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from infra.local import process
from infra.local.ray_head import RayHead, client_environment
from infra.settings import Settings
from serving.settings import ServingSettings
from tests.conftest import ROOT
from tests.faults.replicas import Replicas
from tests.faults.sources import Sources
from tests.faults.stage import Stage, Worker

CONTRACTS = """\
from schemas.topics import standard_topics
from tests.pipelines.toy import Answer, Question, Reading

TOPICS = standard_topics(
    {case!r}, request=Question, outcome=Answer, streams={{"readings": (Reading, 2)}}
)
REQUEST, SERVICE, INPUTS = Question, "everything", ()
"""
RULES = """\
FALLBACK_THRESHOLD = 0.5


def fallback(request, features):
    return 0.125
"""


class Served:
    """The head, the worker that deploys from `sources`, and the settings it reads at its next start."""

    def __init__(self, stage: Stage, replicas: Replicas, sources: Path) -> None:
        self._stage, self._replicas, self._sources = stage, replicas, sources
        self.head = RayHead(
            ray_folder(stage),
            port=process.free_port(),
            dashboard_port=process.free_port(),
            object_store_mb=100,
        )
        self._settings = stage.folder / "settings.json"

    def tell(self, **serving: Any) -> None:
        """Write the settings that the worker reads when it starts."""
        stage, told = self._stage, self._replicas.serving
        changes = {"ray_address": f"{process.LOOPBACK}:{self.head.port}", **serving}
        section = ServingSettings.model_validate(told.model_dump() | changes)
        given: dict[str, Any] = {"case": stage.case, "kafka": stage.rig.kafka}
        folder = str(ray_folder(stage).parent)
        Settings(**given, stores=stage.stores, data_dir=folder, serving=section).write(
            self._settings
        )

    def deploy(self) -> Worker:
        """The worker, under the stage's supervision."""
        command = ("infra.cli", "worker", "scorer", "--settings", str(self._settings))
        # Ray puts the folder that its driver runs in before all others.
        return self._stage.run("deployment", *command, folder=self._sources)

    def pids(self, title: str) -> list[int]:
        """Processes of this head whose title, which Ray gives them, has these words."""
        found = []
        head = psutil.Process(self.head.pid) if self.head.pid else None
        for one in head.children(recursive=True) if head else ():
            # It may end while it is looked at.
            with suppress(psutil.Error):
                if title in " ".join(one.cmdline()):
                    found.append(one.pid)
        return sorted(found)

    def kill(self, title: str) -> bool:
        """Kill -9 of one of them, of the case's choice."""
        pids = self.pids(title)
        if pids:
            os.kill(self._stage.dice.choice(pids), signal.SIGKILL)
        return bool(pids)

    def replicas(self) -> int:
        """Replica processes that run."""
        return len(self.pids("ServeReplica:"))


def ray_folder(stage: Stage) -> Path:
    """Where the worker, too, looks for the head's token."""
    return stage.folder / "data" / "ray"


@contextmanager
def served(stage: Stage, replicas: Replicas) -> Iterator[Served]:
    """A head, and source in which Ray's processes find the use case.

    They are told by their environment, which all of them inherit; it is as before afterwards.
    """
    sources = Sources(stage.folder / "source", stage.case)
    sources.write("schemas", CONTRACTS.format(case=stage.case))
    sources.write("serving", RULES)
    toy = sources.folder / "tests" / "pipelines" / "toy.py"
    toy.parent.mkdir(parents=True)
    toy.write_text((ROOT / "tests" / "pipelines" / "toy.py").read_text("utf-8"), "utf-8")
    before = dict(os.environ)
    # Before the folder the worker starts in, which holds the source without the use case.
    os.environ |= {"PYTHONPATH": str(sources.folder), "PYTHONSAFEPATH": "1"}
    os.environ |= client_environment(ray_folder(stage))
    here = Served(stage, replicas, sources.folder)
    try:
        here.head.start()
        yield here
    finally:
        for worker in stage.workers:
            worker.stop()
        here.head.stop()
        os.environ.clear()
        os.environ.update(before)
