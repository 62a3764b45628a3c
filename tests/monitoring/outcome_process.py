"""The outcome join in a process of its own, to be killed: `outcome_process.py <case> <bootstrap> <folder>`."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Mapping

from monitoring import outcomes
from monitoring.settings import MonitoringSettings
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext
from tests.monitoring import rig

if __name__ == "__main__":
    case, bootstrap, folder = sys.argv[1:]
    rig.register(case)
    stop = threading.Event()

    def say(counters: Mapping[str, float | int | str]) -> None:
        sys.stdout.write(json.dumps(dict(counters)) + "\n")
        sys.stdout.flush()

    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    outcomes.run(
        WorkerContext(case, stop, say),
        KafkaSettings(bootstrap_servers=bootstrap),
        MonitoringSettings(faust_dir=folder),
    )
