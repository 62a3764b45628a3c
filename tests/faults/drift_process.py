"""The drift worker in a process of its own: `drift_process <case> <Kafka as JSON> <reports> <models>`; a line of counters a second."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Mapping

from monitoring import drift_worker
from monitoring.settings import MonitoringSettings
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext
from tests.monitoring import rig


def say(counters: Mapping[str, float | int | str]) -> None:
    sys.stdout.write(json.dumps(dict(counters)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    case, kafka, reports, models = sys.argv[1:]
    rig.register(case)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    drift_worker.run(
        WorkerContext(case, stop, say),
        KafkaSettings.model_validate_json(kafka),
        MonitoringSettings(reports_dir=reports),
        models,
    )
