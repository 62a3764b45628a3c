from __future__ import annotations

import gzip
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from infra.local import process
from schemas.envelope import TIMEOUT_MS, header
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext
from serving import gateway
from serving.settings import ServingSettings
from tests.serving.conftest import CASE, CLOCK_MS, Bench, until
from tests.serving.test_scoring import request as flight

INFER = f"/v2/models/{CASE}/infer"
DATATYPES = {str: "BYTES", int: "INT64", float: "FP64", type(None): "BYTES"}


@contextmanager
def door(kafka: KafkaSettings, **changes: Any) -> Iterator[httpx.Client]:
    """The worker in a thread, and somebody who knocks."""
    settings = ServingSettings(http_port=0, **changes)
    reports: list[Mapping[str, float | int | str]] = []
    ctx = WorkerContext(CASE, threading.Event(), reports.append)
    worker = threading.Thread(target=gateway.run, args=(ctx, kafka, settings))
    worker.start()
    try:
        until(lambda: bool(reports and reports[-1]["ready"]))
        with httpx.Client(
            base_url=f"http://127.0.0.1:{reports[-1]['port']}", timeout=20, trust_env=False
        ) as client:
            yield client
    finally:
        ctx.stop.set()
        worker.join(30)
    assert not worker.is_alive()


def body(*numbers: int, **parameters: int) -> dict[str, Any]:
    rows = [flight(n).model_dump() for n in numbers]
    inputs = [
        {
            "name": name,
            "shape": [len(rows)],
            "datatype": DATATYPES[type(rows[0][name])],
            "data": [row[name] for row in rows],
        }
        for name in rows[0]
    ]
    return {"id": "asked", "inputs": inputs, "parameters": parameters}


def output(answer: httpx.Response, name: str) -> list[Any]:
    found: list[Any] = next(o["data"] for o in answer.json()["outputs"] if o["name"] == name)
    return found


def answered(client: httpx.Client, asked: dict[str, Any]) -> httpx.Response:
    """The answer, once this door has seen it: others may read the results before it does."""
    until(lambda: client.post(INFER, json=asked).status_code == 200)
    return client.post(INFER, json=asked)


def test_a_request_over_http_is_answered_once_like_any_other(bench: Bench) -> None:
    bench.release_first()
    with bench.scorer(), door(bench.kafka) as client:
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/health/ready").status_code == 200
        assert client.get(f"/v2/models/{CASE}").json()["name"] == CASE
        assert client.get("/v2/models/other").status_code == 404
        trace = f"00-{'a' * 32}-{'b' * 16}-01"
        one = client.post(INFER, json=body(1), headers={"traceparent": trace})
        assert (one.status_code, output(one, "status")) == (200, ["scored"]), one.text
        assert one.json()["model_version"] == "v0001"
        many = client.post(INFER, json=body(*range(2, 52)))
        assert output(many, "request_id") == [f"r{n}" for n in range(2, 52)]
        again = client.post(INFER, json=body(1))
        assert again.json()["outputs"] == one.json()["outputs"]
        other = body(1)
        next(i for i in other["inputs"] if i["name"] == "scheduled_hour")["data"] = [3]
        assert client.post(INFER, json=other).status_code == 409

    asked = bench.read(f"{CASE}.requests")
    assert Counter(header(m, "ce_id") for m in asked) == Counter(f"r{n}" for n in range(1, 52))
    traces = {header(m, "ce_id"): header(m, "traceparent") for m in asked}
    assert str(traces["r1"]).startswith(trace[:36])
    assert len(bench.results()) == 51
    assert bench.read(f"{CASE}.requests.dlq") == []


def test_what_breaks_a_rule_is_refused_and_not_published(bench: Bench) -> None:
    bombed = gzip.compress(b"\0" * 20_000_000)
    with door(bench.kafka) as client:
        wrong = body(1)
        wrong["inputs"][1]["data"] = [17]
        refused = client.post(INFER, json=wrong)
        assert refused.status_code == 400
        assert refused.json()["rule"].endswith("string_type")
        assert client.post(INFER, content=b"{").status_code == 400
        assert client.post(INFER, content=b"x" * (1 << 21)).status_code == 413
        bomb = client.post(INFER, content=bombed, headers={"content-encoding": "gzip"})
        assert bomb.status_code == 413
        large = body(1)
        large["inputs"][0]["data"] = ["r" * 70_000]
        assert client.post(INFER, json=large).status_code == 413
    assert bench.read(f"{CASE}.requests") == []


def test_the_door_is_bounded_and_what_it_took_is_answered_later(bench: Bench) -> None:
    with door(bench.kafka, door_in_flight_max=5, door_answer_timeout_ms=300) as client:
        late = client.post(INFER, json=body(0, 1, 2, timeout_ms=600_000))
        assert late.status_code == 504
        assert late.json()["request_ids"] == ["r0", "r1", "r2"]
        busy = client.post(INFER, json=body(3, 4, 5))
        assert (busy.status_code, busy.headers["retry-after"]) == (429, "1")
        assert client.post(INFER, json=body(3, 4)).status_code == 504
        assert client.post(INFER, json=body(5)).status_code == 429
        bench.release_first()
        with bench.scorer():
            bench.await_count(f"{CASE}.results", 5)
            again = answered(client, body(0, 1, 2, timeout_ms=600_000))
            assert output(again, "status") == ["scored"] * 3
            assert answered(client, body(5)).status_code == 200
    asked = bench.read(f"{CASE}.requests")
    assert len(asked) == len(bench.results()) == 6
    assert {header(m, TIMEOUT_MS) for m in asked} == {None, "600000"}


def test_without_kafka_it_says_503_and_opens_for_nobody() -> None:
    nowhere = KafkaSettings(bootstrap_servers=f"127.0.0.1:{process.free_port()}")
    ctx = WorkerContext(CASE, threading.Event(), lambda _: None)
    began_s = time.monotonic()
    with pytest.raises(gateway.GatewayFailed):
        gateway.run(ctx, nowhere, ServingSettings(http_port=0))
    assert time.monotonic() - began_s < 15


def test_a_request_that_the_scorer_refuses_is_told_why(bench: Bench) -> None:
    """It was answered before this door opened, so only the scorer knows."""
    bench.release_first()
    with bench.scorer():
        bench.produce([flight(1)])
        bench.await_count(f"{CASE}.results", 1)
        with door(bench.kafka) as client:
            refused = client.post(INFER, json=body(1))
    assert flight(1).event_time_ms < CLOCK_MS * 2
    assert refused.status_code == 409
    assert "duplicate" in refused.json()["error"]
