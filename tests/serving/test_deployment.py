from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from infra.local import process
from infra.local.ray_head import RayHead, client_environment
from schemas.envelope import header
from schemas.worker import WorkerContext
from tests.serving.conftest import CASE, Bench, until
from tests.serving.test_scorer import DEAD, RESULTS, requests


@pytest.fixture(scope="module")
def ray_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("ray")
    before = dict(os.environ)
    with RayHead(
        folder, port=process.free_port(), dashboard_port=process.free_port(), object_store_mb=100
    ) as head:
        os.environ.update(client_environment(folder))
        yield f"{process.LOOPBACK}:{head.port}"
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.slow
def test_serve_runs_replaces_and_ends_replicas_and_every_request_has_one_result(
    bench: Bench, ray_address: str
) -> None:
    from serving import deployment  # noqa: PLC0415 - Ray is imported where it is needed

    bench.release_first()
    bench.produce(requests(1_000))
    reports: list[Mapping[str, float | int | str]] = []
    ctx = WorkerContext(CASE, threading.Event(), reports.append)
    settings = bench.serving.model_copy(update={"ray_address": ray_address})
    failed: list[BaseException] = []

    def run() -> None:
        try:
            deployment.run(ctx, bench.kafka, bench.stores, settings)
        except BaseException as error:
            failed.append(error)
            raise

    worker = threading.Thread(target=run)
    worker.start()
    try:
        until(lambda: bool(failed) or len(bench.read(RESULTS)) == 1_000, timeout_s=90)
        assert not failed
        until(lambda: reports[-1].get("scored") == 1_000 and reports[-1]["lag"] == 0)
        assert reports[-1]["replicas"] == 1

        sent = 1_000
        for _ in range(2):
            bench.produce(requests(3_000, first=sent))
            sent += 3_000
            time.sleep(random.Random(sent).uniform(0.0, 0.1))
            _kill_replica()
            bench.await_count(RESULTS, sent, timeout_s=60)
    finally:
        ctx.stop.set()
        worker.join(60)
    assert not worker.is_alive()
    assert not failed
    seen = Counter(header(m, "ce_id") for m in bench.read(RESULTS))
    assert seen == Counter(f"r{n}" for n in range(sent))
    assert bench.read(DEAD) == []


def _kill_replica() -> None:
    """kill -9 of the process that holds the replica, found by the title that Ray gives it."""
    import psutil  # noqa: PLC0415

    titles = {p.pid: " ".join(p.cmdline()) for p in psutil.process_iter() if _alive(p)}
    found = [pid for pid, title in titles.items() if "ServeReplica:" in title and CASE in title]
    assert len(found) == 1, titles
    os.kill(found[0], signal.SIGKILL)


def _alive(process: object) -> bool:
    return Path(f"/proc/{getattr(process, 'pid', 0)}/cmdline").exists()
