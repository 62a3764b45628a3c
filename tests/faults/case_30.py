"""A scorer that starts onto a backlog of 100,000 requests.

Injected: the requests are in the log before the scorer starts; once it is behind by half of them it is killed and started again.
Must hold: its memory stays below a gibibyte; the rate at which it catches up is reported; I1 to I8. Does not show: the rate on a
machine of its own, or with features to be read (the online store holds none here).
"""

from __future__ import annotations

import time
from pathlib import Path

from tests.faults.replicas import Replicas, assigned_within
from tests.faults.stage import Stage, Worker

BACKLOG = 100_000
RSS_KB_MAX = 1024 * 1024


def run(stage: Stage) -> None:
    """Catch up, with one kill half-way."""
    replicas = Replicas(stage)
    replicas.ask(BACKLOG, first=0)
    stage.inject(f"a backlog of {BACKLOG}")
    scorer = replicas.start()
    stage.outcome.check("it came to work", holds=assigned_within(scorer))
    began_s = time.monotonic()
    stage.until(lambda: replicas.lag() < BACKLOG // 2)
    rate = (BACKLOG - replicas.lag()) / (time.monotonic() - began_s)
    held_kb = _peak_kb(scorer)
    scorer.kill()
    stage.inject("kill -9 half-way")
    stage.until(lambda: not replicas.lag())
    held_kb = max(held_kb, _peak_kb(scorer))
    replicas.finish(within=lambda: not replicas.lag())
    stage.outcome.check("memory is bounded", holds=held_kb < RSS_KB_MAX, came=held_kb)
    stage.outcome.counts |= {"requests a second": int(rate), "peak MiB": held_kb // 1024}


def _peak_kb(worker: Worker) -> int:
    status = Path(f"/proc/{worker.process.pid}/status").read_text("utf-8")
    return int(status.partition("VmHWM:")[2].split()[0])
