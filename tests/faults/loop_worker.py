"""A worker of the loop's cases: `python -m tests.faults.loop_worker NAME SETTINGS`, until SIGTERM; a line of counters a report.

The scorer runs without Ray; all others as `headrace worker` runs them. A file `SETTINGS.NAME` that says `produced TOPIC` or
`committed TOPIC` kills its next life in the transaction in which it writes to that control topic: when the broker has the
events and not yet the commit, or when it has that too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Before anything imports numpy, as in every worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from confluent_kafka import Producer

from infra import workers
from infra.settings import Settings
from schemas import control_log
from schemas.worker import WorkerContext

FLUSH_S = 5.0


def main() -> None:
    """The worker, by its name."""
    name, path = sys.argv[1:]
    settings = Settings.read(Path(path))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    armed = Path(f"{path}.{name}")
    if armed.exists():
        point, topic = armed.read_text("utf-8").split()
        armed.unlink()
        _die_at(point, topic)
    if name == "scorer":
        # Only in the process that needs it.
        from serving.scorer import Scorer  # noqa: PLC0415

        Scorer(settings.case, settings.kafka, settings.stores, settings.serving).run(stop)
        return
    entry = workers.worker(name)
    context = WorkerContext(settings.case, stop, _say)
    entry.function()(context, *entry.arguments(settings))


def _die_at(point: str, topic: str) -> None:
    """Kill -9 by its own hand, so that nothing of its own runs in between."""

    def die() -> None:
        _say({"dies": f"{point} {topic}"})
        os.kill(os.getpid(), signal.SIGKILL)

    class Dying(Producer):
        armed = False

        def produce(self, to: str, *arguments: Any, **more: Any) -> None:  # type: ignore[override]
            self.armed |= to == topic
            super().produce(to, *arguments, **more)

        def commit_transaction(self, *arguments: Any) -> None:
            if self.armed and point == "produced":
                self.flush(FLUSH_S)
                die()
            super().commit_transaction(*arguments)
            if self.armed:
                die()

    vars(control_log)["Producer"] = Dying


def _say(counters: Mapping[str, float | int | str]) -> None:
    sys.stdout.write(json.dumps(dict(counters)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
