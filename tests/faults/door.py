"""The front door before a case's scorers, as a process: `python -m tests.faults.door CASE KAFKA SERVING`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx

from infra.local import process
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext
from serving import gateway
from serving.settings import ServingSettings
from tests.faults.replicas import AS_OF_MS, STATIONS
from tests.faults.stage import Stage, Worker
from tests.pipelines import toy

# The HTTP statuses that promise an answer.
ACKNOWLEDGED = (200, 409, 422, 504)
NO_ANSWER = 0
# Where it is not about time: a machine that is slow must not make a case fail.
PATIENT = {"door_publish_timeout_ms": 20_000, "door_answer_timeout_ms": 25_000}


class Door:
    """The process, and a ledger of what it was asked. One thread asks.

    Args:
        stage: The case's.
        changes: Of the settings `door_…`.
    """

    def __init__(self, stage: Stage, **changes: Any) -> None:
        self._stage = stage
        self._requests = f"{stage.case}.requests"
        self._settings = ServingSettings(http_port=process.free_port(), **changes)
        self.url = f"http://127.0.0.1:{self._settings.http_port}"
        self._client = httpx.Client(base_url=self.url, timeout=30.0, trust_env=False)
        self.asked: set[str] = set()
        self.statuses: Counter[int] = Counter()

    def start(self) -> Worker:
        """A worker whose supervisor is the stage."""
        sections = [s.model_dump_json() for s in (self._stage.rig.kafka, self._settings)]
        return self._stage.run("door", "tests.faults.door", self._stage.case, *sections)

    def ready(self) -> bool:
        """Whether it says that it can take requests."""
        try:
            return self._client.get("/v2/health/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def ask(self, numbers: Sequence[int]) -> httpx.Response | None:
        """One batch; None where the connection broke, so that nothing is known."""
        ids = [f"q{n}" for n in numbers]
        self._stage.ledger.intend(self._requests, ids)
        self.asked.update(ids)
        response = self.post(json=batch(numbers))
        self.statuses[response.status_code if response is not None else NO_ANSWER] += 1
        if response is not None:
            self.note(response, ids)
        return response

    def note(self, response: httpx.Response, ids: Sequence[str]) -> None:
        """What the answer promises."""
        taken = response.status_code in ACKNOWLEDGED
        promised = list(ids) if taken else response.json().get("acknowledged", [])
        self._stage.ledger.promised(self._requests, promised)

    def post(self, **given: Any) -> httpx.Response | None:
        """To its `infer`, whatever is given."""
        try:
            return self._client.post(f"/v2/models/{self._stage.case}/infer", **given)
        except httpx.HTTPError:
            return None


def batch(numbers: Sequence[int]) -> dict[str, Any]:
    """Requests `q<n>` as the protocol has them."""
    columns = {
        "request_id": ("BYTES", [f"q{n}" for n in numbers]),
        "event_time_ms": ("INT64", [AS_OF_MS] * len(numbers)),
        "station": ("BYTES", [STATIONS[n % len(STATIONS)] for n in numbers]),
    }
    inputs = [
        {"name": name, "datatype": datatype, "shape": [len(numbers)], "data": data}
        for name, (datatype, data) in columns.items()
    ]
    return {"inputs": inputs}


def main() -> None:
    """The worker, until SIGTERM."""
    case, kafka, serving = sys.argv[1:]
    toy.register(case)
    sys.modules[f"schemas.{case}"].REQUEST = toy.Question  # type: ignore[attr-defined]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    ctx = WorkerContext(case, stop, lambda _: None)
    gateway.run(
        ctx,
        KafkaSettings.model_validate_json(kafka),
        ServingSettings.model_validate_json(serving),
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
