"""A scorer as a plain process, for the tests that kill one: `python -m tests.serving.scorer_process SETTINGS.json`."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path

from features.settings import StoreSettings
from schemas.settings import KafkaSettings
from serving.scorer import Scorer
from serving.settings import ServingSettings


def main(path: str) -> None:
    told = json.loads(Path(path).read_text())
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    scorer = Scorer(
        told["case"],
        KafkaSettings(**told["kafka"]),
        StoreSettings(**told["stores"]),
        ServingSettings(**told["serving"]),
        slot=told["slot"],
    )
    scorer.run(stop)


if __name__ == "__main__":
    main(sys.argv[1])
