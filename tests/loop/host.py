"""`python -m tests.loop.host WORKER`: one worker, for one use case after the other.

Each line on stdin is a settings file, for which the worker is started as `headrace worker WORKER` would, or empty: then it is
stopped. What it reports comes as lines of JSON. Its imports, which take seconds, are done once; the end of stdin ends it.

Three things are not as in a stack. The scorer is the scoring loop that a Ray Serve replica runs, in this process; the drift
worker's index and pages are its own, but Evidently's plots, ten seconds of work a window, are not drawn; and the
registry for people is not kept.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Mapping
from importlib import import_module, invalidate_caches
from pathlib import Path

# Before anything imports numpy, as in every worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import structlog

from infra.settings import Settings
from infra.workers import worker
from monitoring.reports import ReportTask, ReportWriter
from schemas.worker import WorkerContext

REPORT_S = 0.05
STOP_S = 60.0


class NoPlots(ReportWriter):
    """Nothing decides by plots."""

    def ask(self, task: ReportTask) -> None:
        """Leave it."""


class Running:
    """A worker of one use case, in a thread."""

    def __init__(self, name: str, settings: Settings) -> None:
        self._stop = threading.Event()
        self._context = WorkerContext(settings.case, self._stop, _say)
        self._thread = threading.Thread(target=self._run, args=(name, settings))
        self._thread.start()

    def end(self) -> None:
        """Stop it, and wait until it has."""
        self._stop.set()
        self._thread.join(STOP_S)
        _say({"stopped": int(not self._thread.is_alive())})

    def _run(self, name: str, settings: Settings) -> None:
        try:
            if name == "scorer":
                score(self._context, settings)
            else:
                entry = worker(name)
                entry.function()(self._context, *entry.arguments(settings))
        except BaseException as error:
            traceback.print_exc()
            _say({"failed": f"{type(error).__name__}: {error}"})
            raise


def score(context: WorkerContext, settings: Settings) -> None:
    """What a replica does, without Ray."""
    from serving.scorer import Scorer  # noqa: PLC0415 - ONNX Runtime, for this worker alone

    scorer = Scorer(settings.case, settings.kafka, settings.stores, settings.serving)

    def tell() -> None:
        while not context.stop.wait(REPORT_S):
            context.report(scorer.counters())

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        scorer.run(context.stop)
    finally:
        context.stop.set()
        teller.join()


def _say(counters: Mapping[str, float | int | str]) -> None:
    sys.stdout.write(json.dumps(dict(counters)) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Until stdin ends."""
    [name] = sys.argv[1:]
    # Standard output is the reports'.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if name == "drift":
        from monitoring import drift_worker  # noqa: PLC0415 - for this worker alone

        vars(drift_worker)["ReportWriter"] = NoPlots
    # What takes seconds to import is imported before anybody waits for it.
    import_module("serving.scorer" if name == "scorer" else worker(name).target.partition(":")[0])
    _say({"warm": 1})
    running: Running | None = None
    for line in sys.stdin:
        if running is not None:
            running.end()
            running = None
        if path := line.strip():
            # Its use case's modules were written a moment ago.
            invalidate_caches()
            running = Running(name, Settings.read(Path(path)))
    if running is not None:
        running.end()


if __name__ == "__main__":
    main()
