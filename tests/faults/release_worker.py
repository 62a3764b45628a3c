"""What obeys and judges releases, of a real use case: `python -m tests.faults.release_worker scorer|admission|guard CASE SECTION…`."""

from __future__ import annotations

import os
import signal
import sys
import threading

# Before anything imports numpy, as in every worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from features.settings import StoreSettings
from monitoring import guard_worker
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext
from serving import admission
from serving.scorer import Scorer
from serving.settings import ServingSettings


def main() -> None:
    """The worker, until SIGTERM."""
    name, case, *sections = sys.argv[1:]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    context = WorkerContext(case, stop, lambda _: None)
    kafka = KafkaSettings.model_validate_json(sections[0])
    if name == "guard":
        guard_worker.run(context, kafka)
        return
    stores = StoreSettings.model_validate_json(sections[1])
    serving = ServingSettings.model_validate_json(sections[2])
    if name == "scorer":
        Scorer(case, kafka, stores, serving).run(stop)
    else:
        admission.run(context, kafka, stores, serving)


if __name__ == "__main__":
    main()
