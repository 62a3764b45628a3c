"""A scorer that starts onto a backlog of 100,000 requests.

Injected: the requests are in the log before the scorer starts; once it is behind by half of them it is killed and started again.
Must hold: its memory stays below a gibibyte; the rate at which it catches up is reported; I1 to I8. Does not show: the rate on a
machine of its own, or with features to be read (the online store holds none here).
"""

from __future__ import annotations

import time

from tests.faults.memory import peak_mb
from tests.faults.replicas import Replicas, assigned_within
from tests.faults.stage import Stage

BACKLOG = 100_000
RSS_MB_MAX = 1024


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
    held_mb = peak_mb(scorer.process.pid)
    scorer.kill()
    stage.inject("kill -9 half-way")
    stage.until(lambda: not replicas.lag())
    held_mb = max(held_mb, peak_mb(scorer.process.pid))
    replicas.finish(within=lambda: not replicas.lag())
    stage.outcome.check("memory is bounded", holds=held_mb < RSS_MB_MAX, came=held_mb)
    stage.outcome.counts |= {"requests a second": int(rate), "peak MiB": held_mb}
