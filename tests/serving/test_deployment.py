from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from infra.local import process
from infra.local.ray_head import RayHead, client_environment
from schemas.worker import WorkerContext
from serving import flights
from serving.tiers import GpuMissing, Tier
from tests.serving.conftest import CASE, Bench, until
from tests.serving.test_scorer import RESULTS, assert_exactly_once, requests


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


@dataclass
class Deployed:
    """The worker in a thread, and what it reports."""

    reports: list[Mapping[str, float | int | str]] = field(default_factory=list)
    failed: list[BaseException] = field(default_factory=list)

    def said(self, name: str) -> float | int | str | None:
        assert not self.failed, self.failed
        return self.reports[-1].get(name) if self.reports else None


@contextmanager
def deployed(bench: Bench, ray_address: str, **changes: float) -> Iterator[Deployed]:
    from serving import deployment  # noqa: PLC0415 - Ray is imported where it is needed

    here = Deployed()
    ctx = WorkerContext(CASE, threading.Event(), here.reports.append)
    settings = bench.serving.model_copy(update={"ray_address": ray_address, **changes})

    def run() -> None:
        try:
            deployment.run(ctx, bench.kafka, bench.stores, settings)
        except BaseException as error:
            here.failed.append(error)
            raise

    worker = threading.Thread(target=run)
    worker.start()
    try:
        yield here
    finally:
        ctx.stop.set()
        worker.join(60)
    assert not worker.is_alive()
    assert not here.failed


@pytest.mark.slow
def test_serve_runs_replaces_and_ends_replicas_and_every_request_has_one_result(
    bench: Bench, ray_address: str
) -> None:
    bench.release_first()
    bench.produce(requests(1_000))
    with deployed(bench, ray_address) as worker:
        until(lambda: worker.said("scored") == 1_000 and worker.said("lag") == 0, timeout_s=90)
        assert worker.said("replicas") == 1

        sent = 1_000
        for _ in range(2):
            bench.produce(requests(3_000, first=sent))
            sent += 3_000
            time.sleep(random.Random(sent).uniform(0.0, 0.1))
            _kill_replica()
            bench.await_count(RESULTS, sent, timeout_s=60)
    assert_exactly_once(bench, sent)


@pytest.mark.nightly
def test_replicas_follow_the_lag_and_every_request_has_one_result(
    bench: Bench, ray_address: str
) -> None:
    bench.release_first()
    bounds = {"replicas_max": 3, "scale_lag_each": 200, "scale_up_by": 1}
    pace = {"scale_up_after_s": 1.0, "scale_down_after_s": 5.0}
    # A small batch keeps a backlog for as long as new replicas take to start.
    with deployed(bench, ray_address, **bounds, **pace, batch_rows_max=2) as worker:
        until(lambda: worker.said("replicas") == 1, timeout_s=90)
        sent = 0

        def pressed() -> bool:
            nonlocal sent
            if int(worker.said("lag") or 0) < 4_000:
                bench.produce(requests(2_000, first=sent))
                sent += 2_000
            return worker.said("replicas") == 3

        until(pressed, timeout_s=150)
        until(lambda: worker.said("lag") == 0, timeout_s=150)
        until(lambda: worker.said("replicas") == 1, timeout_s=150)
    assert_exactly_once(bench, sent)


@pytest.mark.skipif(bool(shutil.which("nvidia-smi")), reason="this machine has a GPU")
def test_a_gpu_that_is_required_and_missing_stops_the_start(
    bench: Bench, ray_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving import deployment  # noqa: PLC0415 - Ray is imported where it is needed

    monkeypatch.setattr(flights, "TIERS", {"default": Tier("gpu", share=0.5)}, raising=False)
    settings = bench.serving.model_copy(update={"ray_address": ray_address, "gpu": "require"})
    ctx = WorkerContext(CASE, threading.Event(), lambda _: None)
    with pytest.raises(GpuMissing, match=r"Ray has 0 GPUs.*HEADRACE_SERVING__GPU"):
        deployment.run(ctx, bench.kafka, bench.stores, settings)


def _kill_replica() -> None:
    """kill -9 of the process that holds the replica, found by the title that Ray gives it."""
    import psutil  # noqa: PLC0415

    titles = {p.pid: " ".join(p.cmdline()) for p in psutil.process_iter() if _alive(p)}
    found = [pid for pid, title in titles.items() if "ServeReplica:" in title and CASE in title]
    assert len(found) == 1, titles
    os.kill(found[0], signal.SIGKILL)


def _alive(process: object) -> bool:
    return Path(f"/proc/{getattr(process, 'pid', 0)}/cmdline").exists()


# Ray reads its environment, which the fixture sets, when it is imported.
@pytest.mark.usefixtures("ray_address")
def test_what_replicas_refuse_is_told_once_and_only_while_it_is_so() -> None:
    from serving import deployment  # noqa: PLC0415 - Ray is imported where it is needed

    refusing = {"pid": 1, "refused": {"v0003": "v0003: no", "v0002": "v0002: no"}}
    told = deployment._refused([refusing, {"pid": 2, "refused": {"v0002": "v0002: no"}}])
    assert told == {"refused_versions": 2, "refused": "v0002: no; v0003: no"}
    assert deployment._refused([{"pid": 1, "refused": {}}, {"pid": 2}]) == {"refused_versions": 0}
